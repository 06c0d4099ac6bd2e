"""VirtualClock: time that moves only when told to, or when all threads and coroutines wait.

Guarantees: what `framework.protocols.Clock` requires; `monotonic` starts at 0 and `time`
moves with it.
Relies on: `sequencer` for when time moves.
Lock order: the lock of a condition that is waited on, then the sequencer's lock.
"""

from __future__ import annotations

import asyncio
import math
import numbers
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from pytest_asyncframe._locations import called_at, users_location
from pytest_asyncframe._turns.actors import Actor, Timer, Waiter, nothing
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._explain import Label, name_of, upcoming
from pytest_asyncframe.clock._lazy import LazyCoroutine
from pytest_asyncframe.clock._loop import VirtualLoop


class VirtualDeadlockError(RuntimeError):
    """Raised where a test waits and nothing can ever wake it, or only timers run forever."""


class StuckError(RuntimeError):
    """Raised where a test waits for a thread that blocks outside the virtual clock."""


class VirtualClock:
    """Time that moves only when told to, or when all threads and coroutines wait.

    All durations are in seconds. Methods may be called from any thread.

    Args:
        sequencer: Decides when time moves; None for a clock that only `advance` moves.
        wall: Wall clock time at second 0, in seconds since the epoch; None for now.

    Attributes:
        date_is_real: Whether ``datetime.now()`` shows real time at present, as in a benchmark.
        on_sleep: Called with the seconds before each sleep.
        on_read: Called with the name of a function that reads real time, and its caller.
        label: Returns which task runs on a thread or in a coroutine; see `explain`.
        not_awaited: Calls of `run_for` that were never awaited, a line each.
        test: The asyncio task that runs the test; None for a test that is no coroutine.
        make_ready: Makes the queue of what a new event loop runs next.
        on_new_loop: Called with each new event loop.
        on_timer: Called with each timer that is set in a loop or by the framework, and the frame
            that sets it.
        on_block: Entered with the name of a function while it blocks the thread of a loop.
    """

    def __init__(self, sequencer: Sequencer | None = None, wall: float | None = None) -> None:
        self.sequencer: Sequencer = Sequencer() if sequencer is None else sequencer
        self._wall = time.time() if wall is None else wall
        self._later = 0
        self.date_is_real: bool = False
        self.end()
        self.make_ready: Callable[[], deque[Any]] = deque
        self.on_new_loop: Callable[[VirtualLoop], object] = nothing
        self.not_awaited: list[str] = []
        self._abandoned: list[str] = []

    def end(self) -> None:
        """Call nothing of the test any more, and forget its task.

        Without the references a test is freed at once, and by no garbage collection.
        """
        self.on_sleep: Callable[[float], object] | None = None
        self.on_timer: Callable[[asyncio.TimerHandle | Timer, FrameType], object] | None = None
        self.on_block: Callable[[str], AbstractContextManager[object]] = nullcontext
        self.on_read: Callable[[str, FrameType], object] = nothing
        self.label: Label = lambda _: ("", "")
        self.test: asyncio.Task[Any] | None = None

    # -- for the framework; see `framework.protocols.Clock`

    def time(self) -> float:
        """Return the wall clock time in seconds since the epoch."""
        return self._wall + self.date_moved / 1e9

    @property
    def date_moved(self) -> int:
        """By how many nanoseconds the date has moved since the test began."""
        return self.sequencer.now + self._later

    @contextmanager
    def later(self, seconds: float) -> Iterator[None]:
        """Let the date be a later one inside the block; no timer fires by that.

        Args:
            seconds: By how many seconds.
        """
        self._move_date(nanoseconds(seconds))
        try:
            yield
        finally:
            self._move_date(-nanoseconds(seconds))

    def _move_date(self, by: int) -> None:
        self._later += by
        if self.sequencer.on_move is not None:
            self.sequencer.on_move()

    def monotonic(self) -> float:
        """Return the virtual seconds since the test began."""
        return self.sequencer.now / 1e9

    def now(self) -> datetime:
        """Return the wall clock time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for *seconds* of virtual time, 0 or more."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        actor = self.sequencer.here
        if actor is None:
            with self.sequencer.working() as actor:
                self._sleep(actor, seconds)
        else:
            self._sleep(actor, seconds)

    def _sleep(self, actor: Actor, seconds: float) -> None:
        if not seconds:
            self.sequencer.yield_turn(actor)
            return
        if self.on_sleep is not None:
            self.on_sleep(seconds)
        until = self._at(seconds)
        self.sequencer.park(actor, until, wants=f"to sleep until {until / 1e9:.9g} s")

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for *seconds* of virtual time, 0 or more."""
        await asyncio.sleep(seconds)

    def call_at(self, when: float, fn: Callable[[], object], *, background: bool = False) -> Timer:
        """Call *fn* at second *when*, or as soon as nobody runs if that has passed."""
        timer = self.sequencer.call_at(nanoseconds(when), fn, background=background)
        caller = sys._getframe(1)
        timer.location = users_location(caller)
        if self.on_timer is not None:
            self.on_timer(timer, caller)
        return timer

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait as ``Condition.wait`` does, for *timeout* seconds of virtual time."""
        actor = self.sequencer.here
        if actor is not None:
            return self._wait(actor, condition, timeout)
        with self.sequencer.working() as actor:
            return self._wait(actor, condition, timeout)

    def _wait(
        self, actor: Actor, condition: Any, timeout: float | None
    ) -> bool:  # Any: a Condition, whose private attributes are used
        # Like Condition.wait, but with a waiter that counts the woken thread as running
        # before the notifier continues.
        if not condition._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        if timeout is not None and timeout <= 0:
            return False
        waiter = Waiter(self.sequencer.notify, actor)
        condition._waiters.append(waiter)
        saved = condition._release_save()
        until = None if timeout is None else self._at(timeout)
        try:
            self.sequencer.park(actor, until, waiter, "to be notified")
        finally:
            condition._acquire_restore(saved)
            if not waiter.notified:
                # It is gone if somebody is about to notify it.
                with suppress(ValueError):
                    condition._waiters.remove(waiter)
        return waiter.notified and not waiter.late

    def hold(self) -> None:
        """Do nothing, since the pool tells the sequencer what it is given."""

    def release(self) -> None:
        """Do nothing; see `hold`."""

    # -- for tests

    def advance(self, seconds: float) -> None:
        """Move time by *seconds*, 0 or more, and fire the timers that are due, in order.

        At each timer, threads run until all of them wait again. On the thread of an event
        loop, coroutines cannot run meanwhile: their timers fire after the call. Use
        `run_for` in a coroutine.

        Raises:
            TypeError: If *seconds* is not a number.
            ValueError: If *seconds* is negative or not finite.
        """
        target = self._target("advance", seconds)
        with self.sequencer.working() as actor:
            self.sequencer.advance(actor, target)

    def run_for(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Let *seconds* of virtual time pass, 0 or more, while threads and coroutines run.

        When it returns, all of them wait again, also those with a timer at its very end.

        Raises:
            TypeError: If *seconds* is not a number.
            ValueError: If *seconds* is negative or not finite.
            RuntimeError: If the event loop that runs here is not on this clock.
        """
        self._target("run_for", seconds)
        location = called_at(sys._getframe(1))
        return LazyCoroutine(
            lambda: self._run_for(seconds),
            "run_for()",
            lambda: self._not_awaited(seconds, location),
        )

    def _not_awaited(self, seconds: float, location: str) -> None:
        self.not_awaited.append(
            f"run_for({seconds!r}), called at {location}, so no time has passed: await it, or call "
            f"advance({seconds!r}) in a test that is not a coroutine"
        )

    async def _run_for(self, seconds: float) -> None:
        target = self._target("run_for", seconds)
        loop = self.require_loop("run_for()")
        sequencer = self.sequencer
        kept = sequencer.allowed
        sequencer.allowed = target if kept is None else max(kept, target)
        try:
            await self._rest(loop, target)
            await self._rest(loop, target)
            while sequencer.is_due(target):
                await self._rest(loop, target)
        finally:
            sequencer.allowed = kept

    def require_loop(self, what: str) -> VirtualLoop:
        """Return the running event loop.

        Args:
            what: The function that waits on it, for the message.

        Raises:
            RuntimeError: If the loop does not use this clock.
        """
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop) and loop.clock is self:
            return loop
        raise RuntimeError(
            f"{what} on {loop!r} could wait forever, since that loop does not use this test's "
            "clock: call asyncio.run() without a loop factory, write the test as 'async def', or "
            "create the loop with asyncframe.clock.new_event_loop()"
        )

    async def _rest(self, loop: VirtualLoop, target: int) -> None:
        """Wait until time has reached *target* and nobody else runs."""
        rested = asyncio.Event()
        timer = self.sequencer.call_at(
            target, lambda: loop.call_soon_threadsafe(rested.set), last=True
        )
        try:
            await rested.wait()
        finally:
            timer.cancel()

    @property
    def firing(self) -> bool:
        """Whether the calling thread is running the callback of a timer."""
        firing = self.sequencer.firing
        return bool(firing) and threading.get_ident() in firing

    @property
    def sleeping(self) -> list[str]:
        """The names of the threads that sleep or wait with a timeout, first to wake first."""
        return [timer.actor.name for timer in self.sequencer.timers() if timer.actor is not None]

    def explain(self) -> str:
        """Return the pending timers, and who waits for them where, a line each."""
        return "\n".join(upcoming(self.sequencer, self.label)) or "no pending timers"

    def left(self) -> list[str]:
        """Return the user's own timers that have not fired, a line each.

        Those of an event loop are included once the loop is closed.
        """
        set_here = [timer for timer in self.sequencer.timers() if timer.location]
        return self._abandoned + [
            _left(timer.fn, timer.location, (timer.when - self.sequencer.now) / 1e9)
            for timer in set_here
            if not timer.background
        ]

    def abandon(self, handle: asyncio.TimerHandle, location: str) -> None:
        """Record a timer that will not fire, since its loop is closed."""
        fn: Any = handle._callback  # type: ignore[attr-defined]  # asyncio's own
        self._abandoned.append(_left(fn, location, handle.when() - self.monotonic()))

    def new_event_loop(self) -> VirtualLoop:
        """Return a new event loop on this clock."""
        loop = VirtualLoop(self)
        self.on_new_loop(loop)
        return loop

    def _at(self, seconds: float) -> int:
        return self.sequencer.now + nanoseconds(seconds)

    def _target(self, name: str, seconds: Any) -> int:  # Any: what a test has passed
        takes = f"{name}() takes a finite number of seconds, 0 or more"
        if not isinstance(seconds, numbers.Real):
            raise TypeError(f"{takes}, such as 90 or delta.total_seconds(), not {seconds!r}")
        if not 0 <= float(seconds) < math.inf:
            raise ValueError(f"{takes}, not {seconds!r}")
        return self._at(float(seconds))


def nanoseconds(seconds: float) -> int:
    """Return the first nanosecond at which a clock shows *seconds* or more."""
    product = seconds * 1e9
    found = round(product)
    # Rounded down, a waiter would be woken too early and wait again, without end.
    while found / 1e9 < seconds:
        product = math.nextafter(product, math.inf)
        found = math.ceil(product)
    return found


def _left(fn: Any, location: str, seconds: float) -> str:
    return f"{name_of(fn)}, set at {location}, would fire {seconds:.9g} s after the end of the test"
