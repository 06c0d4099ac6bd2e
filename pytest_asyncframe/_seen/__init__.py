"""What a test's tasks did: recorded, looked up and matched."""
