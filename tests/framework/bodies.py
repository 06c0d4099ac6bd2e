"""What tasks run, and what they are given, in tests of faults."""

from __future__ import annotations

import threading

from tests.patience import PATIENCE


def pair(first: int, second: int) -> tuple[int, int]:
    """Return two numbers."""
    return first, second


async def async_pair(first: int, second: int) -> tuple[int, int]:
    """Return two numbers, awaited."""
    return first, second


class Held:
    """A task body that says when it runs and ends when it is told to."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> str:
        """Wait for `go_on`."""
        self.running.set()
        assert self.go_on.wait(PATIENCE)
        return "held"


class Hostile:
    """An argument whose every text and comparison raises."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")
