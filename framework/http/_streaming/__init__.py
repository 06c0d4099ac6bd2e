"""Streaming: a task's states as server-sent events, for many clients at a time."""
