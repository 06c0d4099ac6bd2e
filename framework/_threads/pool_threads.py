"""The threads of a crew: each runs one item after another and counts how they ended.

Relies on: handlers that never raise; the crew, which gives out items and ends threads.

Lock order: no lock. Only the thread itself writes its stack and counts; others read them
in the order that `PoolThread.tally` explains.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Protocol

from framework._records.statuses import TaskStatus
from framework._threads.loggers import SafeLogger
from framework.protocols._engines import Item

_LOGGER = SafeLogger("concurrent.futures")


class Employer(Protocol):
    """What a thread needs of its crew; see `crew.Crew`."""

    timings: deque[tuple[float, float, float]]

    def begin(self) -> bool:
        """Prepare the calling thread, a new one; False if it must end."""

    def take(self, thread: PoolThread, /) -> Any | None:  # Any: an Item
        """Return the next item for *thread*; None if it must end."""

    def take_wanted(self, thread: PoolThread, /) -> Any | None:  # Any: an Item
        """Return the next item for *thread*, a spare one; None if it must end."""

    def leave(self, thread: PoolThread, /) -> None:
        """Called by *thread* when it ends."""


_POOL_THREADS: dict[int, PoolThread] = {}
"""All crews' threads by identifier: reading it costs a third of ``threading.current_thread``."""


class PoolThread(threading.Thread):
    """One thread of a crew.

    Attributes:
        stack: The items that run on this thread. Each but the first runs because the item
            below it waits for it.
        gate: Released to wake the thread while it is parked.
        abandoned: Whether its item ran past its limit, so the thread no longer counts.
        first: The item it was started with, until it runs it; None to take one.
        spare: Whether it replaces threads that wait; see `crew.Crew.step_aside`.
        waits: How many times this thread has stepped aside and not yet stepped back.
        ended: How many items ended on this thread with each status.
        counted: The item counted last, while it is still on the stack.
    """

    def __init__(self, crew: Employer, name: str) -> None:
        # A daemon, so that a stuck thread cannot keep the process alive if it is skipped at
        # exit. The standard library joins all others there, since the crew registers them.
        super().__init__(name=name, daemon=True)
        self.crew = crew
        self.stack: list[Item] = []
        # A signal and not a lock: only this thread acquires it, and others release it.
        self.gate = threading.Lock()
        self.gate.acquire()
        self.abandoned = False
        self.first: Item | None = None
        self.spare = False
        self.waits = 0
        self.ended: dict[TaskStatus, int] = dict.fromkeys(TaskStatus, 0)
        self.counted: Item | None = None

    def run(self) -> None:
        """Run items until the crew has no more, or until this thread is abandoned."""
        crew = self.crew
        take = crew.take_wanted if self.spare else crew.take
        _POOL_THREADS[threading.get_ident()] = self
        if crew.begin():
            item = self.first
            if item is not None:
                # In this order, so that figures always see the thread as busy.
                self.stack.append(item)
                self.first = None
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
        """Run *item*, which is on top of the stack."""
        try:
            item.handler(item)
        except BaseException:  # a bug in a handler must not end the thread
            # The standard pool's message, which programs may filter.
            _LOGGER.critical("Exception in worker", exc_info=True)

    def count(self) -> None:
        """Count the item on top of the stack, which has just ended, and remove it."""
        item = self.stack[-1]
        started, ended, status = item.started, item.ended, item.status
        if started is None:
            # It was picked, but ended before it started; nobody else counts it.
            status = TaskStatus.CANCELLED if status is TaskStatus.PENDING else status
        elif ended is not None:
            self.crew.timings.append((item.queued, started, ended))
        if started is None or ended is not None:
            # No call between the two, so the interpreter does not switch threads there.
            self.ended[status] += 1
            self.counted = item
        self.stack.pop()
        self.counted = None

    def tally(self) -> tuple[dict[TaskStatus, int], list[Item]]:
        """Return the counts of this thread, and the ended items that they do not include yet.

        From any thread. An item's waiters may run, and read the figures, a moment before
        this thread has counted the item.
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
    """Return the calling thread if it belongs to a crew, else None."""
    return _POOL_THREADS.get(threading.get_ident())


def current_item() -> Item | None:
    """Return the item that runs on the calling thread; None if there is none."""
    thread = _POOL_THREADS.get(threading.get_ident())
    return thread.stack[-1] if thread is not None and thread.stack else None


def forget_others() -> None:
    """Forget all threads but the calling one, in a forked child, which has no others."""
    me = current_pool_thread()
    _POOL_THREADS.clear()
    if me is not None:
        _POOL_THREADS[threading.get_ident()] = me
