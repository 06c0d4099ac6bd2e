"""Watching threads and event loops: their stacks, deadlocks among them, and which processes run."""
