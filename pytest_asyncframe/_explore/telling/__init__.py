"""What happened in a run, in words and as a picture."""
