"""What users put on functions."""
