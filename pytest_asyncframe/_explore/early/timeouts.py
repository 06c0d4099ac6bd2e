"""The timeouts that may come early, and whether what waits for each has been served.

Relies on: `_scheduled` of a timer's handle; `_fut_waiter` of a task, without which no timeout of a
loop comes early; the frames of threads that wait.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

from framework.protocols import TaskRecord
from framework.testing import call_of, is_policy_wait
from pytest_asyncframe._explore.locks.databases import ModelConnection
from pytest_asyncframe._explore.locks.model import Control
from pytest_asyncframe._locations import inwards, is_users, outwards
from pytest_asyncframe._turns.actors import Actor, Timer
from pytest_asyncframe.clock._clock import nanoseconds

WokenBy: TypeAlias = Callable[[Any], tuple[str, asyncio.Task[Any] | None]]
"""Returns what a timer of a loop is, in a word, and the task that it wakes or cancels."""

_NO_TIMEOUTS = frozenset((Control._tried_in_vain.__code__, ModelConnection.waiting.__code__))
"""Where a thread waits for a time that the app has not set."""


class Timeout(ABC):
    """A timeout of the app.

    Attributes:
        name: What it is known by, the same in each run that has made the same choices; "" as long
            as it is not named.
        loop: The event loop that it is a timer of; None for none.
    """

    name: str = ""
    loop: Any = None  # Any: a loop, whose private attributes are used

    @property
    @abstractmethod
    def when(self) -> int:
        """The nanosecond at which it is due."""

    @property
    @abstractmethod
    def is_set(self) -> bool:
        """Whether it has neither fired nor been cancelled."""

    @property
    @abstractmethod
    def whom(self) -> str:
        """Whose it is; "" for one that is no timeout, as far as is known."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the app's code waits, as ``app.py:12``; "" if it is not known."""

    @abstractmethod
    def waits(self) -> bool:
        """Whether something waits that it would end, and nothing else has; called at a moment."""

    @abstractmethod
    def was_served(self, now: int) -> bool:
        """Whether the wait of the moment before has been ended meanwhile, and in time."""


class CoroutineTimeout(Timeout):
    """A timer that ends the wait of a coroutine.

    Args:
        handle: The timer, of a loop or of the framework.
        known: Returns the identity of a task; None if it has none.
        woken_by: See `WokenBy`.
        task: Who waits; None if only *woken_by* can say it.
    """

    def __init__(
        self,
        handle: Any,  # Any: asyncio's, whose private attributes are used
        known: Callable[[asyncio.Task[Any]], str | None],
        woken_by: WokenBy,
        task: asyncio.Task[Any] | None = None,
    ) -> None:
        self._handle = handle
        self._known = known
        self._woken_by = woken_by
        self._task: Any = task
        self._waited_for: Any = None
        if not isinstance(handle, Timer):
            self.loop = handle._loop

    @property
    def handle(self) -> Any:
        """The timer."""
        return self._handle

    @property
    def when(self) -> int:
        """See `Timeout`."""
        handle = self._handle
        return handle.when if isinstance(handle, Timer) else round(handle.when() * 1e9)

    @property
    def is_set(self) -> bool:
        """See `Timeout`."""
        handle = self._handle
        if isinstance(handle, Timer):
            return handle.live
        return bool(handle._scheduled and not handle.cancelled())

    @property
    def whom(self) -> str:
        """See `Timeout`."""
        if self._task is None:
            what, task = self._woken_by(self._handle)
            self._task = task if what == "timeout" else None
        return "" if self._task is None else self._known(self._task) or ""

    @property
    def where(self) -> str:
        """See `Timeout`."""
        frames = [one for one in inwards(self._task.get_coro()) if is_users(one.f_code)]
        return _at(frames[-1].f_code, frames[-1].f_lineno) if frames else ""

    def waits(self) -> bool:
        """See `Timeout`; remembers what its task waits for."""
        future = getattr(self._task, "_fut_waiter", None)
        self._waited_for = None if future is None or future.done() else future
        return self._waited_for is not None

    def was_served(self, now: int) -> bool:
        """See `Timeout`: not if the wait has ended in a cancellation."""
        future = self._waited_for
        return future is not None and future.done() and not future.cancelled()


class ThreadTimeout(Timeout):
    """A timer that ends the wait of a thread, for a condition, a lock or an item.

    Args:
        timer: The timer.
        actor: The thread's.
        frame: Where the app waits.
    """

    def __init__(self, timer: Timer, actor: Actor, frame: FrameType) -> None:
        self._timer = timer
        self._actor = actor
        self._where = _at(frame.f_code, frame.f_lineno)

    @property
    def when(self) -> int:
        """See `Timeout`."""
        return self._timer.when

    @property
    def is_set(self) -> bool:
        """See `Timeout`."""
        return self._timer.live

    @property
    def whom(self) -> str:
        """See `Timeout`."""
        return self._actor.identity

    @property
    def where(self) -> str:
        """See `Timeout`."""
        return self._where

    def waits(self) -> bool:
        """See `Timeout`."""
        free = self._actor.free
        return self._timer.live and (free is None or not free())

    def was_served(self, now: int) -> bool:
        """See `Timeout`."""
        return not self._timer.live and now < self._timer.when


class TaskLimit(Timeout):
    """The time limit of a running task.

    Args:
        task: The task.
        seconds: When it is over, of the clock.
        left: Returns what `framework.testing.time_limits` does, at this moment.
    """

    def __init__(
        self, task: TaskRecord, seconds: float, left: Callable[[], dict[TaskRecord, float]]
    ) -> None:
        self._task = task
        self._seconds = seconds
        self._left = left
        code = getattr(call_of(task).fn, "__code__", None)
        self._where = "" if code is None else _at(code, code.co_firstlineno)

    @property
    def when(self) -> int:
        """See `Timeout`."""
        return nanoseconds(self._seconds)

    @property
    def is_set(self) -> bool:
        """See `Timeout`."""
        return self._left().get(self._task) == self._seconds

    @property
    def whom(self) -> str:
        """See `Timeout`."""
        return f"{self._task.name.rpartition('.')[2]} (time limit)"

    @property
    def where(self) -> str:
        """See `Timeout`: the first line of its function."""
        return self._where

    def waits(self) -> bool:
        """See `Timeout`: its function runs."""
        return self.is_set

    def was_served(self, now: int) -> bool:
        """See `Timeout`: its function has ended."""
        return not self.is_set and now < self.when


def waiting_frame(frame: FrameType | None) -> FrameType | None:
    """Return where the user's code waits with a timeout on a thread; None if it does not.

    Args:
        frame: The innermost frame of the thread.
    """
    for one in outwards(frame):
        code = one.f_code
        if is_users(code):
            return one
        if code in _NO_TIMEOUTS or is_policy_wait(code):
            return None
    return None


def _at(code: CodeType, line: int) -> str:
    return f"{Path(code.co_filename).name}:{line}"
