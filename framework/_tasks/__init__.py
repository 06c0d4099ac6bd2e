"""What a task is, as data: nothing in here waits, and nothing runs a task."""
