"""The threads of a crew: each runs one item after another and counts how they ended.

Relies on: handlers that never raise; the crew for what to run and when to end.
Lock order: none of its own. A thread's stack and counts are its own; others only read.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, Protocol

from framework._tasks.records import TaskStatus

_LOGGER = logging.getLogger("concurrent.futures")


class Item(Protocol):
    """What a crew works on; stamps are monotonic seconds.

    Attributes:
        handler: Who knows what to do with it.
    """

    handler: Any  # a Handler of this kind of item

    @property
    def name(self) -> str:
        """Name for figures and messages."""
        ...

    @property
    def status(self) -> TaskStatus:
        """Where it stands."""
        ...

    @property
    def queued(self) -> float:
        """When it was queued."""
        ...

    @property
    def started(self) -> float | None:
        """When it began; None if it has not."""
        ...

    @property
    def ended(self) -> float | None:
        """When it ended; None if it has not."""
        ...


class Handler(Protocol):
    """Knows what to do with the items of one kind; neither method may raise."""

    def __call__(self, item: Any, /) -> bool:  # Any: the handler's own kind of item
        """Run *item* to its end on this thread; False if it may not start any more."""
        ...

    def drop(self, item: Any, error: BaseException | None, /) -> None:  # Any: as above
        """End *item*, which will never run: cancelled, or with *error*."""


class Employer(Protocol):
    """Whose threads they are; see `crew.Crew`."""

    timings: deque[tuple[float, float, float]]

    def begin(self) -> bool:
        """Make a new thread ready; False if it is to end."""

    def take(self, thread: PoolThread, /) -> Any | None:  # Any: an Item
        """Return what *thread* is to run next; None if it is to end."""

    def take_wanted(self, thread: PoolThread, /) -> Any | None:  # Any: an Item
        """Return what *thread*, a spare one, is to run next; None if it is to end."""

    def leave(self, thread: PoolThread, /) -> None:
        """Hear that *thread* ends."""


_POOL_THREADS: dict[int, PoolThread] = {}
"""The threads of all crews by their identifier, which costs a third of asking for the thread."""


class PoolThread(threading.Thread):
    """One thread of a crew.

    Attributes:
        stack: The items that run on this thread: one, and on top of it those that it ran
            since the one below waits for them.
        gate: Released to wake the thread when it is parked.
        abandoned: Whether its item ran past its limit, so that the thread counts no more.
        first: What it was started for, until it begins with it; None if it is to look.
        spare: Whether it stands in for threads that wait; see `crew.Crew.step_aside`.
        waits: How many such waits of this thread there are now.
        ended: How many items ended here with each status.
        counted: The latest of them, which may still be on the stack.
    """

    def __init__(self, crew: Employer, name: str) -> None:
        # A daemon, so that a stuck thread, once let go, does not keep the process alive. All
        # others are joined at exit by the standard library, where the crew registers them.
        super().__init__(name=name, daemon=True)
        self.crew = crew
        self.stack: list[Item] = []
        self.gate = threading.Lock()
        self.gate.acquire()
        self.abandoned = False
        self.first: Item | None = None
        self.spare = False
        self.waits = 0
        self.ended: dict[TaskStatus, int] = dict.fromkeys(TaskStatus, 0)
        self.counted: Item | None = None

    def run(self) -> None:
        """Work until the crew has nothing more to do or this thread is given up."""
        crew = self.crew
        take = crew.take_wanted if self.spare else crew.take
        _POOL_THREADS[threading.get_ident()] = self
        if crew.begin():
            item = self.first
            if item is not None:
                self.stack.append(item)
                self.first = None
                # In this order, so that figures always see the thread as busy.
            else:
                item = take(self)
            while item is not None:
                self.work(item)
                # The item must not be kept alive while the thread waits for the next one.
                del item
                item = take(self)
        crew.leave(self)
        del _POOL_THREADS[threading.get_ident()]

    def work(self, item: Item) -> None:
        """Run one item, which is on the stack."""
        try:
            item.handler(item)
        except BaseException:  # a bug in a handler must not end the thread
            # The standard pool's message, which programs may filter.
            _LOGGER.critical("Exception in worker", exc_info=True)

    def count(self) -> None:
        """Count the item on top of the stack, which has just ended, and take it off."""
        item = self.stack[-1]
        started, ended, status = item.started, item.ended, item.status
        if started is None:
            # It was claimed, but ended before it started; nobody else counts it.
            status = _cancelled_if_pending(status)
        elif ended is not None:
            self.crew.timings.append((item.queued, started, ended))
        if started is None or ended is not None:
            # No call between the two, so the interpreter does not switch threads there.
            self.ended[status] += 1
            self.counted = item
        self.stack.pop()
        self.counted = None

    def tally(self) -> tuple[dict[TaskStatus, int], list[Item]]:
        """Return how many items ended here with each status, and those not among them yet.

        From any thread. The latter have ended a moment ago: their waiters may be asking
        already, before this thread has counted them.
        """
        while True:
            # In this order: a counted item is then either `counted` or off the stack.
            ended = self.ended.copy()
            counted = self.counted
            stack = self.stack.copy()
            # Read again if an item was counted meanwhile: it may be in neither.
            if self.ended == ended:
                break
        return ended, [item for item in stack if item is not counted and _has_ended(item)]


def _has_ended(item: Item) -> bool:
    return item.started is not None and item.ended is not None and item.status.is_final


def current_pool_thread() -> PoolThread | None:
    """Return the calling thread if it is a crew's."""
    return _POOL_THREADS.get(threading.get_ident())


def current_item() -> Item | None:
    """Return the item that runs on this thread, if the thread is a crew's."""
    thread = _POOL_THREADS.get(threading.get_ident())
    return thread.stack[-1] if thread is not None and thread.stack else None


def forget_others() -> None:
    """Forget all threads but the calling one, in a forked child, which has no other."""
    me = current_pool_thread()
    _POOL_THREADS.clear()
    if me is not None:
        _POOL_THREADS[threading.get_ident()] = me


def _cancelled_if_pending(status: TaskStatus) -> TaskStatus:
    return TaskStatus.CANCELLED if status is TaskStatus.PENDING else status
