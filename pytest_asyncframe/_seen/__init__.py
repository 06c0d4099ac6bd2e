"""What a test's tasks did: it is recorded, looked up and matched."""
