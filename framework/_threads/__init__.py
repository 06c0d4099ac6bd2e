"""Threads, event loops and time. Nothing here knows about managers."""
