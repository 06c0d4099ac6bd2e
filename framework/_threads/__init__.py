"""Threads, loops and time: nothing in here knows a manager."""
