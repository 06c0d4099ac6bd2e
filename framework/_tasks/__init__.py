"""Functions as tasks, their options, and live tasks. Nothing here waits or runs a task."""
