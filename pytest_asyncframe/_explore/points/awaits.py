"""Level "awaits": which step of an event loop comes next, and threads that run in between.

A step is what an asyncio task does up to its next suspension. Other callbacks of a loop run
in the order in which they were scheduled, since asyncio promises that.

Relies on: asyncio taking what it runs next from the left of ``_ready``; `__self__` of the
callbacks of asyncio tasks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import CodeType, CoroutineType
from typing import Any
from weakref import WeakKeyDictionary

from pytest_asyncframe._locations import inwards, is_users
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock

_OURS = "asyncframe "
"""What the names of asyncio tasks begin with that run a task of the framework."""


@contextmanager
def installed(clock: VirtualClock, own: Collection[CodeType] = ()) -> Iterator[Identities]:
    """Let the chooser order the steps of loops that are created inside the block.

    Args:
        clock: The test's clock.
        own: The code of the test and its fixtures, which others do not notice.
    """
    names = Identities(clock.sequencer)
    clock.make_ready = lambda: _Ready(names, own)
    try:
        yield names
    finally:
        clock.make_ready = deque


class Identities:
    """The identities of asyncio tasks.

    Args:
        sequencer: The actors of the test.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self.sequencer = sequencer
        self._known: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()

    def known(self, task: asyncio.Task[Any]) -> str | None:
        """Return the identity of a task that has made a step; None if it has none."""
        return self._known.get(task)

    def of(self, task: asyncio.Task[Any]) -> str:
        """Return the identity of a task, the same in each run that has made the same choices.

        Called for each step when it is next, so that the numbers are in that order.
        """
        found = self._known.get(task)
        if found is None:
            found = self._known[task] = self._new(task)
        return found

    def _new(self, task: asyncio.Task[Any]) -> str:
        # asyncio numbers the tasks of the whole process, so its own names do not do.
        name = task.get_name()
        if name.startswith(_OURS):
            return self.sequencer.identity_on_loop(name.removeprefix(_OURS))
        coroutine = task.get_coro()
        return self.sequencer.identity_on_loop(getattr(coroutine, "__qualname__", "coroutine"))


class _Ready(deque[Any]):  # Any: asyncio's handles, whose private attributes are used
    """What a loop runs next; the chooser decides among steps of asyncio tasks."""

    def __init__(self, names: Identities, own: Collection[CodeType]) -> None:
        super().__init__()
        self._names = names
        self._own = own
        self._latest: asyncio.Task[Any] | None = None

    def popleft(self) -> Any:
        """Let threads run first, if the chooser says so; then return what is next."""
        sequencer = self._names.sequencer
        sequencer.between_steps(self._ran_users_code)
        self._latest = first = _task_of(self[0])
        if first is None or len(self) < 2:
            if first is not None:
                self._names.of(first)
            return super().popleft()
        # A callback is run when it is the first, so that they keep their order.
        tasks = [(n, it) for n, one in enumerate(self) if (it := _task_of(one)) is not None]
        options = [self._names.of(task) for _, task in tasks]
        if len(tasks) < 2:
            return super().popleft()
        index, self._latest = tasks[sequencer.choose_step(options)]
        handle = self[index]
        del self[index]
        return handle

    def _ran_users_code(self) -> bool:
        """Whether the latest step has stopped in code of the app, or has ended such code."""
        if self._latest is None:
            return False
        coroutine = self._latest.get_coro()
        codes = [frame.f_code for frame in inwards(coroutine)]
        if not codes:  # it has ended
            codes = [coroutine.cr_code] if isinstance(coroutine, CoroutineType) else []
        users = [code for code in codes if is_users(code)]
        return bool(users) and users[-1] not in self._own


def _task_of(handle: Any) -> asyncio.Task[Any] | None:
    """Return the asyncio task whose next step a handle is; None for any other callback."""
    if handle._cancelled:
        return None
    owner = getattr(handle._callback, "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None
