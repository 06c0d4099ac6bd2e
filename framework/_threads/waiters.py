"""Waking those who wait for a task: push, never poll.

Guarantees: whoever was registered before the task became final is woken once; a loop is
woken once for a batch of completions, not once for each.
Relies on: the ledger handing each waiter to one thread only.
Without the GIL: `Mailbox.post` needs its append to be seen before its read of the flag,
and `_drain` its write of the flag before its reads of the queue; a lock would be needed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from framework._tasks.live import Waiter
from framework.protocols import Clock

_LOGGER = logging.getLogger("asyncframe")


class Mailbox:
    """Calls for one loop's thread, from any thread, in batches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.lost: int = 0
        self._calls: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def post(self, call: Callable[[], object]) -> bool:
        """Have *call* called on the loop's thread; False if the loop is closed."""
        self._calls.append(call)
        # A drain that was scheduled on a loop since closed never comes.
        if self._scheduled and not self.loop.is_closed():
            return True
        self._scheduled = True
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._scheduled = False
            self.lost += len(self._calls)
            self._calls.clear()
            return False
        return True

    def _drain(self) -> None:
        # Cleared first: a call posted from now on schedules a drain of its own.
        self._scheduled = False
        while self._calls:
            try:
                call = self._calls.popleft()
            except IndexError:  # emptied by a failing post, on a loop that is closing
                return
            try:
                call()
            except BaseException:  # the calls behind it have waiters of their own
                _LOGGER.exception("a call on the event loop raised an error")


class Mailboxes:
    """One mailbox for each loop that somebody waits or runs on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._lost = 0

    def of(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """Return the mailbox of *loop*; those of closed loops are let go meanwhile."""
        box = self._boxes.get(loop)
        if box is not None:
            return box
        with self._lock:
            for other in [one for one in self._boxes if one.is_closed()]:
                self._lost += self._boxes.pop(other).lost
            return self._boxes.setdefault(loop, Mailbox(loop))

    @property
    def lost(self) -> int:
        """How many calls found their loop closed."""
        with self._lock:
            return self._lost + sum(box.lost for box in self._boxes.values())


class LoopWaiter:
    """A coroutine that waits; made and awaited on its loop's thread."""

    __slots__ = ("_box", "_thread", "future")

    def __init__(self, boxes: Mailboxes) -> None:
        loop = asyncio.get_running_loop()
        self._box = boxes.of(loop)
        # Compared in place of the running loop, which costs four times as much to get.
        self._thread = threading.get_ident()
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        """Resolve the future, at once if this is its loop's thread."""
        if threading.get_ident() == self._thread:
            self._resolve()
        else:
            self._box.post(self._resolve)

    def nudge(self) -> None:
        """Do nothing: a coroutine occupies no thread that could run the task."""

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class ThreadWaiter:
    """A thread that waits, on the framework's clock."""

    __slots__ = ("_clock", "_condition", "_final", "_nudged")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._final = self._nudged = False

    def wake(self) -> None:
        """Let `wait` return True."""
        with self._condition:
            self._final = True
            self._condition.notify()

    def nudge(self) -> None:
        """Let `wait` return None, so that the caller looks at the queue again."""
        with self._condition:
            self._nudged = True
            self._condition.notify()

    def wait(self, until: float | None) -> bool | None:
        """Block until woken (True), nudged (None) or the monotonic second *until* (False)."""
        with self._condition:
            while not self._final:
                if self._nudged:
                    self._nudged = False
                    return None
                remaining = None if until is None else until - self._clock.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                self._clock.wait(self._condition, remaining)
            return True


def wake_all(waiters: Iterable[Waiter]) -> None:
    """Wake every one of *waiters*."""
    for waiter in waiters:
        waiter.wake()
