"""The names of the back ends; every pytest run loads this."""

from __future__ import annotations

from typing import Literal, TypeAlias

Backend: TypeAlias = Literal["memory", "sqlite", "postgresql", "workers"]
"""What keeps the tasks of a test, and what runs them."""

BACKENDS = ("memory", "sqlite", "postgresql", "workers")


def require_memory(backend: Backend, name: str, why: str) -> None:
    """Check that a test may use something that works on memory alone.

    Args:
        backend: What the test runs on.
        name: What it uses.
        why: Why that does not work elsewhere.

    Raises:
        RuntimeError: If it runs on something else.
    """
    if backend != "memory":
        raise RuntimeError(
            f"{name}: {why} on {backend}; leave {backend} out of 'on', or use it only if "
            "asyncframe.backend == 'memory'"
        )
