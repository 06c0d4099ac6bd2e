"""Locks that a paused actor can hold without blocking the process, and which ones are such."""
