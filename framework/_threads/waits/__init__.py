"""How a thread or a coroutine waits, and what wakes it."""
