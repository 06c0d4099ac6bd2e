"""Threads and coroutines that wait for a task, or sleep; they are woken and never poll.

A sleeper is signalled (look again and go on) or interrupted (give up: the task was
cancelled or timed out, or the framework shuts down).

Guarantees: a waiter registered before the task became final is woken once. A loop is woken
once for a batch of completions, not once for each. The first answer of a reply counts: who waits
for it is woken once, or has lost patience before.

Relies on: the ledger, which hands each waiter to one thread only. The GIL: `Mailbox.post`
appends before it reads the flag, and `_drain` clears the flag before it reads the queue.
Without the GIL, a lock would have to keep other threads from seeing another order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeAlias, TypeVar

from framework._tasks.live import Waiter
from framework._threads.loggers import SafeLogger
from framework.protocols import Clock

_LOGGER = SafeLogger("asyncframe")

T = TypeVar("T")


class Mailbox:
    """Calls functions on one loop's thread, in batches, for any other thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.lost: int = 0
        self._calls: deque[Callable[[], object]] = deque()
        self._scheduled = False
        # Held to count what is dropped, and never while the loop is open.
        self._dropping = threading.Lock()

    def post(self, call: Callable[[], object]) -> bool:
        """Schedule *call* on the loop's thread; False if the loop is closed."""
        self._calls.append(call)
        # A drain that was scheduled on a loop never runs once the loop is closed.
        if self._scheduled and not self.loop.is_closed():
            return True
        self._scheduled = True
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._scheduled = False
            self._drop_all()
            return False
        return True

    def _drop_all(self) -> None:
        """Drop and count the calls that are left, since the loop is closed."""
        with self._dropping:
            while self._calls:
                self._calls.popleft()
                self.lost += 1

    def _drain(self) -> None:
        # Cleared first: a call that is posted from now on schedules another drain.
        self._scheduled = False
        while self._calls:
            try:
                call = self._calls.popleft()
            except IndexError:  # emptied by a failing post, on a loop that is closing
                return
            try:
                call()
            except BaseException:  # other waiters depend on the calls behind it
                _LOGGER.exception("a call on the event loop raised an error")


class Mailboxes:
    """One mailbox for each loop that tasks run on or are awaited on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._lost = 0

    def of(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """Return the mailbox of *loop*; a new one replaces those of closed loops."""
        # Without the lock: every wait on a loop asks, and a read of a dict is atomic.
        box = self._boxes.get(loop)
        if box is not None:
            return box
        with self._lock:
            for other in [one for one in self._boxes if one.is_closed()]:
                self._lost += self._boxes.pop(other).lost
            return self._boxes.setdefault(loop, Mailbox(loop))

    @property
    def lost(self) -> int:
        """How many calls were dropped because their loop was closed."""
        with self._lock:
            return self._lost + sum(box.lost for box in self._boxes.values())


class LoopWaiter:
    """A coroutine that waits for a task; created and awaited on its loop's thread.

    Attributes:
        reads: Whether it will read the task's outcome.
    """

    reads: bool = True
    __slots__ = ("_box", "_thread", "future")

    def __init__(self, boxes: Mailboxes) -> None:
        loop = asyncio.get_running_loop()
        self._box = boxes.of(loop)
        # `wake` compares threads: getting the running loop costs four times as much.
        self._thread = threading.get_ident()
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        """Resolve the future, at once if this is its loop's thread."""
        if threading.get_ident() == self._thread:
            self._resolve()
        else:
            self._box.post(self._resolve)

    def nudge(self) -> None:
        """Do nothing: a waiting coroutine blocks no thread, so none could run the task."""

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Onlooker(LoopWaiter):
    """A coroutine that waits for the end of a task, whatever the outcome."""

    reads = False
    __slots__ = ()


class ThreadWaiter:
    """A thread that waits on the framework's clock, for a task or something else.

    Attributes:
        reads: Whether it will read the task's outcome.
    """

    reads: bool = True
    __slots__ = ("_clock", "_condition", "_final", "_nudged")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._final = self._nudged = False

    def wake(self) -> None:
        """Let this `wait` and all later ones return True; any thread."""
        with self._condition:
            self._final = True
            self._condition.notify()

    def nudge(self) -> None:
        """Let one `wait` return None, so that the caller looks again; any thread."""
        with self._condition:
            self._nudged = True
            self._condition.notify()

    def wait(self, until: float | None) -> bool | None:
        """Block until woken (True), nudged (None), or the monotonic second *until* (False).

        Args:
            until: None to wait for as long as it takes.
        """
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


class ThreadSleeper(ThreadWaiter):
    """A thread that sleeps, for a retry or a throttle: a waiter under a sleeper's names."""

    __slots__ = ()

    @property
    def interrupted(self) -> bool:
        """Whether it was interrupted."""
        return self._final

    signal = ThreadWaiter.nudge
    interrupt = ThreadWaiter.wake


class LoopSleeper:
    """A coroutine that sleeps; created and awaited on its loop's thread."""

    __slots__ = ("_clock", "_future", "_loop", "_signalled", "interrupted")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._signalled = False
        self.interrupted = False

    async def wait(self, until: float | None) -> None:
        """Suspend until signalled or interrupted, or until the monotonic second *until*.

        Args:
            until: None to wait for as long as it takes.
        """
        if not self._signalled and not self.interrupted:
            self._future = self._loop.create_future()
            timer = None if until is None else self._clock.call_at(until, self.signal)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        self._signalled = False

    def signal(self) -> None:
        """End the current wait, or else the next one; any thread."""
        self._call(interrupted=False)

    def interrupt(self) -> None:
        """End the current wait and all later ones; any thread."""
        self._call(interrupted=True)

    def _call(self, *, interrupted: bool) -> None:
        try:
            self._loop.call_soon_threadsafe(self._end, interrupted)
        except RuntimeError:  # the loop is closed, so no coroutine sleeps on it
            self.interrupted = True

    def _end(self, interrupted: bool) -> None:
        self.interrupted |= interrupted
        self._signalled = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


def wake_all(waiters: Iterable[Waiter]) -> None:
    """Wake every one of *waiters*."""
    for waiter in waiters:
        waiter.wake()


# -- what waits for a thread that answers


class Reply(Generic[T]):
    """One answer that is awaited where this is made: on the loop that runs here, or by a thread.

    Args:
        clock: Measures the patience.
        boxes: The mailboxes of the event loops.
        patience: How many seconds to wait at most, above 0; None for as long as it takes.
    """

    __slots__ = ("_answers", "_clock", "_patience", "_waiter")

    def __init__(self, clock: Clock, boxes: Mailboxes, patience: float | None = None) -> None:
        self._clock = clock
        self._patience = patience
        on_loop = asyncio._get_running_loop() is not None
        self._waiter = LoopWaiter(boxes) if on_loop else ThreadWaiter(clock)
        self._answers: list[T] = []

    @property
    def has_come(self) -> bool:
        """Whether there is an answer."""
        return bool(self._answers)

    @property
    def answer(self) -> T:
        """The answer; raises IndexError as long as there is none."""
        return self._answers[0]

    def give(self, answer: T) -> None:
        """Give the answer; any thread. Only the first one counts."""
        self._answers.append(answer)
        self._waiter.wake()

    def wait(self) -> Any:
        """Wait until there is an answer, or patience is lost.

        Returns:
            On a loop, what a coroutine awaits until then; a thread is blocked until then.
        """
        return self._come() if isinstance(self._waiter, LoopWaiter) else self._block(self._waiter)

    def _block(self, waiter: ThreadWaiter) -> None:
        until = None if self._patience is None else self._clock.monotonic() + self._patience
        while waiter.wait(until) is None:
            pass

    async def _come(self) -> None:
        waiter, timer = self._waiter, None
        assert isinstance(waiter, LoopWaiter)
        if self._patience is not None:
            timer = self._clock.call_at(self._clock.monotonic() + self._patience, waiter.wake)
        try:
            await waiter.future
        finally:
            if timer is not None:
                timer.cancel()


Steps: TypeAlias = Generator[Callable[[], Any], None, T]
"""What returns something after some waits, and is closed if whoever waits is cancelled.

It yields what to call for each wait, on a loop in order to await the result.
"""


def block(steps: Steps[T]) -> T:
    """Take *steps* to their end on this thread, and return what they return."""
    # From the first step on, whatever is raised ends them here, and not some time later, where
    # garbage is collected: perhaps with a lock held that their end needs.
    try:
        while True:
            next(steps)()
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


async def suspend_all(
    many: Iterable[Steps[T]], beginning: AbstractContextManager[object]
) -> list[T | Exception]:
    """Take several *steps* to their ends on this loop, and return what each returns or raises.

    Each begins before any is waited for, up to one that raises an error at once, or cannot be made:
    that is the last one. Those that come later may depend on earlier ones.

    Args:
        many: The steps.
        beginning: Entered while they begin, so for as long as nothing else runs on this loop.
    """
    begun: list[Steps[T]] = []
    outcomes: dict[int, T | Exception] = {}
    waits = deque[tuple[int, Callable[[], Any]]]()

    def go_on(number: int) -> None:
        try:
            waits.append((number, next(begun[number])))
        except StopIteration as stop:
            outcomes[number] = stop.value
        except Exception as error:  # the others must not be left where they are
            outcomes[number] = error

    try:
        try:
            with beginning:
                for steps in many:
                    begun.append(steps)
                    go_on(len(begun) - 1)
                    if isinstance(outcomes.get(len(begun) - 1), Exception):
                        break
        except Exception as error:  # of whoever makes them
            outcomes[len(begun)] = error
        while waits:
            number, wait = waits.popleft()
            await wait()
            go_on(number)
    finally:
        for steps in begun:
            steps.close()
    return [outcomes[number] for number in sorted(outcomes)]


async def suspend(steps: Steps[T]) -> T:
    """Take *steps* to their end on this loop, and return what they return."""
    try:
        while True:
            await next(steps)()
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()
