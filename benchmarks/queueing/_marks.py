"""What all queues share: marks that the tasks leave, and how a worker says that it is ready."""

from __future__ import annotations

import mmap
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

MARKS: Final = "BENCHMARKS_MARKS"
"""The variable of the environment with the file that has a byte for each task."""

URL: Final = "BENCHMARKS_URL"
"""The variable with the URL of the database, or of the broker."""

PLACES: Final = 20
"""How many tasks a worker runs at the same time."""

READY: Final = "ready"


class Submit(NamedTuple):
    """How to submit; each returns when the tasks are on disk.

    Attributes:
        one: Submits a task by its number.
        many: Submits some tasks together, as the queue does it best.
    """

    one: Callable[[int], Awaitable[object]]
    many: Callable[[Sequence[int]], Awaitable[object]]


@cache
def marks() -> mmap.mmap:
    """Return the marks of all tasks."""
    path = Path(os.environ[MARKS])
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def note(number: int) -> None:
    """Count a run of a task; all that its body does."""
    marks()[number] += 1


def ready() -> None:
    """Say that this worker takes tasks."""
    # Not by `sys.stdout`, which some queues give to their logs.
    os.write(1, f"{READY}\n".encode())
