"""The names of the back ends; every pytest run loads this."""

from __future__ import annotations

from typing import Literal, TypeAlias

Backend: TypeAlias = Literal["memory", "sqlite", "postgresql", "workers", "celery"]
"""What keeps the tasks of a test, and what runs them."""

BACKENDS = ("memory", "sqlite", "postgresql", "workers", "celery")


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


def require_here(backend: Backend, name: str) -> None:
    """Check that a test may ask for what is seen only in the process where tasks run.

    Raises:
        RuntimeError: If they run in others.
    """
    if backend in ("workers", "celery"):
        raise RuntimeError(
            f"{name}: what happens inside of tasks is not seen on {backend}, where they run in "
            "other processes; use it only if asyncframe.backend is none of 'workers' and 'celery'"
        )
