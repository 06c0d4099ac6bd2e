"""Watching threads and event loops: their stacks, and deadlocks among them."""
