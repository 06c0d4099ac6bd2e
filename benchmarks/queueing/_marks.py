"""What all queues share: marks that the tasks leave, and how a process says something.

It needs nothing but Python, so that a queue may have an environment of its own.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

MARKS: Final = "BENCHMARKS_MARKS"
"""The variable of the environment with the file that has a mark for each task."""

URL: Final = "BENCHMARKS_URL"
"""The variable with the URL of the database, or of the broker."""

PLACES: Final = 20
"""How many tasks a worker runs at the same time."""

READY: Final = "ready"

ANSWER: Final = '{"answer": '

_MARK: Final = struct.Struct("=Bd")


class Submit(NamedTuple):
    """How to submit; each returns when the tasks are on disk.

    Attributes:
        one: Submits a task by its number.
        many: Submits some tasks together, as the queue does it best.
    """

    one: Callable[[int], Awaitable[object]]
    many: Callable[[Sequence[int]], Awaitable[object]]


class Marks:
    """How often each task has run, and when it did last.

    That is by `time.perf_counter`, which on Linux is a clock that all processes share.

    Args:
        path: The file, which all processes map.
    """

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def add(self, number: int) -> None:
        """Count a run."""
        runs, _ = self[number]
        _MARK.pack_into(self._map, number * _MARK.size, runs + 1, time.perf_counter())

    def __getitem__(self, number: int) -> tuple[int, float]:
        """Return how often a task has run, and when it did last."""
        return _MARK.unpack_from(self._map, number * _MARK.size)


def make_marks(path: str, tasks: int) -> Marks:
    """Return marks in a new file, for so many tasks."""
    Path(path).write_bytes(bytes(tasks * _MARK.size))
    return Marks(path)


@cache
def _marks() -> Marks:
    return Marks(os.environ[MARKS])


def note(number: int) -> None:
    """Count a run of a task; all that its body does."""
    _marks().add(number)


def say(text: str) -> None:
    """Say something to who has started this process."""
    # Not by `sys.stdout`, which some queues give to their logs.
    os.write(1, f"{text}\n".encode())


def ready() -> None:
    """Say that this worker takes tasks."""
    say(READY)
