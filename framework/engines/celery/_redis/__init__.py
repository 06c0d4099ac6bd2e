"""What Redis has of remote tasks, changed only by scripts, and how its news are read."""
