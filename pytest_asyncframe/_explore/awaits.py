"""Level "awaits": which step of an event loop comes next, and threads that run in between.

A step is what an asyncio task does up to its next suspension. Other callbacks of a loop run
in the order in which they were scheduled, since asyncio promises that.

Relies on: asyncio taking what it runs next from the left of ``_ready``; `__self__` of the
callbacks of asyncio tasks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock

_OURS = "asyncframe "
"""What the names of asyncio tasks begin with that run a task of the framework."""


@contextmanager
def installed(clock: VirtualClock) -> Iterator[Names]:
    """Let the chooser order the steps of loops that are created inside the block."""
    names = Names(clock.sequencer)
    clock.make_ready = lambda: _Ready(names)
    try:
        yield names
    finally:
        clock.make_ready = deque


class Names:
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

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names

    def popleft(self) -> Any:
        """Let threads run first, if the chooser says so; then return what is next."""
        sequencer = self._names.sequencer
        sequencer.between_steps()
        first = _task_of(self[0])
        if first is None or len(self) < 2:
            if first is not None:
                self._names.of(first)
            return super().popleft()
        # A callback is run when it is the first, so that they keep their order.
        places, options = [], []
        for place, handle in enumerate(self):
            task = _task_of(handle)
            if task is not None:
                places.append(place)
                options.append(self._names.of(task))
        if len(places) < 2:
            return super().popleft()
        place = places[sequencer.choose_step(options)]
        handle = self[place]
        del self[place]
        return handle


def _task_of(handle: Any) -> asyncio.Task[Any] | None:
    """Return the asyncio task whose next step a handle is; None for any other callback."""
    if handle._cancelled:
        return None
    owner = getattr(handle._callback, "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None
