"""The task that every way runs, and what a way to run it consists of.

The task does nothing but say that it ran, in memory that all processes of a measurement share, so
that tasks that were lost or ran twice are noticed.
"""

from __future__ import annotations

import mmap
import os
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

MARKS = "ADOPTERS_MARKS"
"""Names the file of marks, in the environment."""
URL = "ADOPTERS_URL"
"""Names the Redis or the database, in the environment."""

TASKS = 65_536
"""How many tasks a file of marks has room for."""

AT_ONCE = 4
"""Tasks that run at the same time, in each way that can say so."""


def marks(path: str) -> mmap.mmap:
    """Return a file of `TASKS` bytes, shared by all who open it: how often each task has run."""
    with pathlib.Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), TASKS)


class Ran:
    """Opens the marks at the first task, since some processes only start others."""

    marks: mmap.mmap | None = None


def note(number: int) -> int:
    """Mark that a task has run, and return its number."""
    if Ran.marks is None:
        Ran.marks = marks(os.environ[MARKS])
    Ran.marks[number] += 1
    return number


async def async_note(number: int) -> int:
    """Mark that a task has run, and return its number."""
    return note(number)


async def settled() -> None:
    """Return at once, where a task that has run leaves nothing to do."""


@dataclass(frozen=True)
class Way:
    """A way to run tasks, while it is set up.

    Attributes:
        start: Starts the task of a number; returns its id, "" if it has none.
        awaited: Whether what *start* returns is to be awaited.
        result: Starts a task and returns its result; None if the way gives no results.
        settle: Returns once all that belongs to the last task is done.
    """

    start: Callable[[int], Any]
    awaited: bool = False
    result: Callable[[int], Awaitable[int]] | None = None
    settle: Callable[[], Awaitable[None]] = settled


MakeWay = Callable[[Any], AbstractAsyncContextManager[Way]]
"""Sets a way up for an app, as long as its lifespan lasts."""


def of_calls(
    start: Callable[[int], Awaitable[Any]],
    task_id: Callable[[Any], str],
    result: Callable[[Any], Awaitable[int]],
) -> Way:
    """Return the way of a package whose calls give a handle.

    Args:
        start: Starts the task of a number and returns its handle.
        task_id: Returns the id in a handle.
        result: Returns the result of a handle, once it is there.
    """
    last: list[Any] = []

    async def begin(number: int) -> str:
        last[:] = [await start(number)]
        return task_id(last[0])

    async def call(number: int) -> int:
        return await result(await start(number))

    async def settle() -> None:
        await result(last[0])

    return Way(begin, awaited=True, result=call, settle=settle)


@asynccontextmanager
async def nothing(_: Any) -> AsyncIterator[Way]:
    """No task, to see what a request costs without one."""
    yield Way(lambda _: "")
