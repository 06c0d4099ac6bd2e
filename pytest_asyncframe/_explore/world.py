"""What is the same in every run of an explored test: its date, ids, random numbers and names.

Not the same are `id()`, so the order of sets of objects, but for those of asyncio's tasks and
futures; and the order of sets of strings in processes with another ``PYTHONHASHSEED``.

Relies on: asyncio.tasks calling ``set`` with arguments for what it goes through alone, and
anyio's backend calling it for what it adds to, removes from and goes through alone.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from framework import TaskId
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.clock._loop import VirtualLoop

START = datetime(2030, 1, 1, tzinfo=UTC)
"""The date of second 0 of virtual time, for tests that set none."""

_RUNS_UNTIL_ALL = 500
"""After so many runs all garbage is collected: what one has left may be freed by the next."""

_COLLECTORS = (
    ("unraisableexception", "collect_unraisable"),
    ("threadexception", "collect_thread_exception"),
)
"""Plugins of pytest, and what in them warns of errors that nobody could raise."""

_SHORTEST = 16
"""Of this many random bytes on, such as those of a UUID, the first ones are drawn."""

_DRAWN = 6

_LOOP_BOUND: Any = asyncio.Lock.__mro__[-2]
"""The class of asyncio whose instances belong to one loop."""

_MOST_OBJECTS = 1_000_000
"""How many objects a run may make before garbage is collected in it after all."""


def counted_ids() -> Callable[[], str]:
    """Return a function that returns task ids of the usual form, in ascending order."""
    numbers = itertools.count(1)
    return lambda: TaskId[Any](f"{next(numbers):08x}{0:024x}")


@contextmanager
def same(seed: int) -> Iterator[None]:
    """Let a run inside the block draw the random numbers and thread names of every other one."""
    state = random.getstate()
    numpy: Any = sys.modules.get("numpy.random")
    numpys_state = None if numpy is None else numpy.get_state()
    with pytest.MonkeyPatch.context() as patch:
        # Names such as Thread-3; those of other threads may be the same meanwhile.
        patch.setattr(threading, "_counter", itertools.count(1).__next__)
        patch.setattr(ThreadPoolExecutor, "_counter", itertools.count().__next__)
        random.seed(seed)
        urandom = _half_drawn(random.Random(seed).randbytes, os.urandom)
        patch.setattr(os, "urandom", urandom)
        patch.setattr(random, "_urandom", urandom)  # of `secrets`
        if numpy is not None:
            numpy.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            if numpy is not None:
                numpy.set_state(numpys_state)


def _half_drawn(
    draw: Callable[[int], bytes], real: Callable[[int], bytes]
) -> Callable[[int], bytes]:
    """Return a source of random bytes whose first ones are the same in each run.

    So what is sorted by a UUID has one order, and yet no two runs have the same UUID: rows of
    a database that outlives a run must not clash.
    """

    def urandom(size: int, /) -> bytes:
        return real(size) if size < _SHORTEST else draw(_DRAWN) + real(size - _DRAWN)

    return urandom


@contextmanager
def alike(config: pytest.Config) -> Iterator[None]:
    """Let the runs of a test inside the block be as one: with one seed, and with its warnings once.

    pytest-randomly would seed `random` in another way each day. Warnings are shown after the block.
    """
    with pytest.MonkeyPatch.context() as patch, _warnings_once():
        patch.setattr(config.option, "randomly_reset_seed", False, raising=False)
        yield


@contextmanager
def _warnings_once() -> Iterator[None]:
    try:
        with warnings.catch_warnings(record=True) as found:
            yield
    finally:
        shown = {(one.category, str(one.message), one.filename, one.lineno): one for one in found}
        for one in shown.values():
            warnings.warn_explicit(
                one.message, one.category, one.filename, one.lineno, source=one.source
            )


class Collector:
    """Collects garbage only between runs and at their end, since that may run the user's code.

    A run that makes very many objects has some collected all the same.

    Args:
        config: Knows what warns of errors in garbage and threads.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._finders = [
            getattr(config.pluginmanager.get_plugin(plugin), name, None)
            for plugin, name in _COLLECTORS
        ]
        self._config = config
        self._runs = itertools.count(1)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Replace Python's own collections inside the block."""
        thresholds = gc.get_threshold()
        gc.set_threshold(_MOST_OBJECTS, *thresholds[1:])
        try:
            yield
        finally:
            gc.set_threshold(*thresholds)

    def before_run(self) -> None:
        """Free what the run before still needed at its end, such as its event loop."""
        # Not what is older, which takes 30 ms, but for a few times.
        gc.collect(1 if next(self._runs) % _RUNS_UNTIL_ALL else 2)

    def at_end(self) -> None:
        """Collect a run's garbage at its end, so that its errors do not appear in the next run.

        Raises:
            Exception: What pytest makes of such errors and of those in threads, if warnings
                are errors.
        """
        gc.collect(0)
        for find in self._finders:
            if find is not None:
                find(self._config)


@contextmanager
def ordered(clock: VirtualClock) -> Iterator[None]:
    """Number the tasks and futures of event loops that are created inside the block.

    asyncio and anyio go through sets of tasks, for example to cancel a group. Such a set is in
    the order of the addresses of its members, so the order of what follows would be chance. A
    loop with a task factory of the user has that one.

    A lock of asyncio's that outlives runs, such as that of a connection, has been used on the loop
    of another run, and asyncio would refuse it. An app has one loop.
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
        patch.setattr(_LOOP_BOUND, "_get_loop", _bound_anew(_LOOP_BOUND._get_loop))
        anyio = sys.modules.get("anyio._backends._asyncio")
        if anyio is not None:
            patch.setattr(anyio, "set", _Members, raising=False)
        yield


def _bound_anew(real: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(real)
    def get_loop(self: Any) -> Any:
        bound = self._loop
        if isinstance(bound, VirtualLoop) and bound.is_closed():
            self._loop = None
        return real(self)

    return get_loop


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
