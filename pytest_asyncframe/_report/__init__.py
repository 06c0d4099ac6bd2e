"""What a test is told at its end: gates that fail it, and the timeline of a failed one."""
