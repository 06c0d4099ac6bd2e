"""Sets of asyncio's tasks and futures have the same order in each run, and tasks their names.

asyncio and anyio go through sets of tasks, for example to cancel a group. Such a set is in the
order of the addresses of its members, so the order of what follows would be chance.

Relies on: asyncio.tasks calling ``set`` with arguments for what it goes through alone, and
anyio's backend calling it for what it adds to, removes from and goes through alone.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.clock._loop import VirtualLoop


@contextmanager
def ordered(clock: VirtualClock) -> Iterator[None]:
    """Number the tasks and futures of event loops that are created inside the block.

    A loop with a task factory of the user has that one.
    """
    numbers, names = itertools.count(1), itertools.count(1)

    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Task:
        # asyncio's own names count the tasks of the whole process.
        options["name"] = options.get("name") or f"Task-{next(names)}"
        return Task(next(numbers), coroutine, loop=loop, **options)

    def make_future(loop: asyncio.AbstractEventLoop) -> Future:
        return Future(next(numbers), loop=loop)

    def number_all(loop: VirtualLoop) -> None:
        loop.set_task_factory(make_task)
        loop.make_future = make_future

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "on_new_loop", number_all)
        # For coroutines, whose hash nobody can set.
        patch.setattr(asyncio.tasks, "set", _in_order, raising=False)
        anyio = sys.modules.get("anyio._backends._asyncio")
        if anyio is not None:
            patch.setattr(anyio, "set", _Members, raising=False)
        yield


def _in_order(members: Collection[Any] = ()) -> Collection[Any]:
    return dict.fromkeys(members) if members else set()


class _Members(dict[Any, None]):
    """Replaces the sets of anyio, which has sets of scopes, whose hash nobody can set."""

    def __init__(self, members: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(members))

    def add(self, member: Any) -> None:
        """Add a member, if it is not there."""
        self[member] = None

    def discard(self, member: Any) -> None:
        """Remove a member, if it is there."""
        self.pop(member, None)

    def remove(self, member: Any) -> None:
        """Remove a member; a KeyError if it is not there."""
        del self[member]


class Task(asyncio.Task[Any]):
    """A task whose hash is a number. Its `repr` begins with the name of the class."""

    def __init__(self, number: int, coroutine: Any, **options: Any) -> None:
        # Before it is registered in a set of all tasks.
        self._number = number
        super().__init__(coroutine, **options)

    def set_name(self, value: object) -> None:
        """Set the name, but for None, which Python 3.13.0 sets where none is given."""
        if value is not None:
            super().set_name(value)

    def __hash__(self) -> int:
        return self._number


class Future(asyncio.Future[Any]):
    """A future whose hash is a number."""

    def __init__(self, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number
