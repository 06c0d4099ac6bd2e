"""Replays: the code of a task runs again from the records of its steps, which does nothing."""
