"""What a task is, as data. Nothing here waits, and nothing runs a task."""
