"""What is reported at the end of a test: gates that fail it, and the timeline of a failure."""
