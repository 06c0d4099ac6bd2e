"""VirtualClock, and the event loop that lives on it.

Guarantees: what `framework.protocols.Clock` asks for; `monotonic` begins at 0 and `time`
moves with it, so that both always tell the same; a loop that has something to do keeps time
from moving, one that would sleep lets it move.
Relies on: `_sequencer` to decide when time moves.
Lock order: a condition that is waited on comes before the sequencer's lock.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime
from typing import Any, TypeVarTuple, Unpack

from pytest_asyncframe._actors import Actor, Timer, Waiter, raise_error
from pytest_asyncframe._sequencer import Sequencer

_Ts = TypeVarTuple("_Ts")

_END_OF_SLEEP = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
"""What `asyncio.sleep` sets its timer for."""

_SILENCE = 0.5
"""Real seconds without any bytes after which time moves on though a loop watches a socket."""

_RESOLUTION = 1e-6
"""Seconds by which a loop's timers may be early; floats of long times are no finer."""


class VirtualClock:
    """Time that moves only when told, or when everybody waits.

    All durations are seconds. Safe to use from any thread.

    Args:
        sequencer: Decides when time moves; None for a clock that only `advance` moves.
        wall: Wall clock at second 0, in seconds since the epoch; None for now.
    """

    def __init__(self, sequencer: Sequencer | None = None, wall: float | None = None) -> None:
        self.sequencer = Sequencer() if sequencer is None else sequencer
        self._wall = time.time() if wall is None else wall
        self.on_sleep: Callable[[float], object] | None = None

    # -- what the framework uses; see `framework.protocols.Clock`

    def time(self) -> float:
        """Return the wall clock in seconds since the epoch."""
        return self._wall + self.sequencer.now / 1e9

    def monotonic(self) -> float:
        """Return the virtual seconds since the test began."""
        return self.sequencer.now / 1e9

    def now(self) -> datetime:
        """Return the wall clock, aware UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for *seconds* of virtual time, 0 or more."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        actor = self.sequencer.here
        if actor is None:
            with self.sequencer.working(threading.current_thread().name) as actor:
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
        return self.sequencer.call_at(_nanoseconds(when), fn, background=background)

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait as ``Condition.wait``, for *timeout* seconds of virtual time."""
        actor = self.sequencer.here
        if actor is not None:
            return self._wait(actor, condition, timeout)
        with self.sequencer.working(threading.current_thread().name) as actor:
            return self._wait(actor, condition, timeout)

    def _wait(
        self, actor: Actor, condition: Any, timeout: float | None
    ) -> bool:  # Any: a Condition, whose inner parts are used
        # As Condition.wait does it, with a waiter that counts the woken thread as running
        # before the notifier goes on.
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
                # Unless somebody is about to notify it.
                with suppress(ValueError):
                    condition._waiters.remove(waiter)
        return waiter.notified

    def hold(self) -> None:
        """Do nothing: the pool tells the sequencer of what it is given."""

    def release(self) -> None:
        """Do nothing, as `hold`."""

    # -- what tests use

    def advance(self, seconds: float) -> None:
        """Move time by *seconds*, 0 or more, and let fire what falls due, in order.

        Threads come to rest at each moment before time goes on. On an event loop's thread
        its coroutines cannot go on meanwhile: what has fallen due for them follows when
        they next get their turn; use `run_for` to let them go on at each moment.

        Raises:
            ValueError: If *seconds* is negative.
        """
        target = self._target("advance", seconds)
        with self.sequencer.working(threading.current_thread().name) as actor:
            self.sequencer.advance(actor, target)

    async def run_for(self, seconds: float) -> None:
        """Let *seconds* of virtual time pass, 0 or more, everybody going on meanwhile.

        Everybody has come to rest when it returns, also from what falls due at its end.

        Raises:
            ValueError: If *seconds* is negative.
            RuntimeError: If the event loop that runs here is not on this clock.
        """
        target = self._target("run_for", seconds)
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop) or loop.clock is not self:
            raise RuntimeError(
                "run_for() was called on an event loop that is not on this clock, so its "
                "coroutines could not go on; ask for task_clock before the loop is made"
            )
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

    async def _rest(self, loop: VirtualLoop, target: int) -> None:
        """Wait until time stands at *target* and everybody rests."""
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
        """Whether the calling thread is in the middle of calling what has fallen due."""
        firing = self.sequencer.firing
        return bool(firing) and threading.get_ident() in firing

    @property
    def sleeping(self) -> list[str]:
        """Who sleeps or waits for a time, the first to wake first."""
        return [timer.actor.name for timer in self.sequencer.timers() if timer.actor is not None]

    def explain(self) -> str:
        """Return the coming moments and what they are, a line each."""
        now = self.sequencer.now
        lines = [
            f"t+{(timer.when - now) / 1e9:.9g} s {_what(timer)}"
            for timer in self.sequencer.timers()
        ]
        return "\n".join(lines) if lines else "nothing waits for its time"

    def new_event_loop(self) -> VirtualLoop:
        """Return a new event loop on this clock."""
        return VirtualLoop(self)

    def _at(self, seconds: float) -> int:
        return self.sequencer.now + _nanoseconds(seconds)

    def _target(self, name: str, seconds: float) -> int:
        if not seconds >= 0:
            raise ValueError(f"{name}() takes seconds of 0 or more, not {seconds!r}")
        return self._at(seconds)


def _nanoseconds(seconds: float) -> int:
    """Return the first nanosecond at which a clock shows no less than *seconds*."""
    product = seconds * 1e9
    found = round(product)
    # Else who waits for that second would be woken before it, and wait again, without end.
    while found / 1e9 < seconds:
        product = math.nextafter(product, math.inf)
        found = math.ceil(product)
    return found


def _what(timer: Timer) -> str:
    if timer.actor is not None:
        return timer.actor.name
    fn: Any = timer.fn
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return f"{name}, in the background" if timer.background else str(name)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a `VirtualClock`'s.

    Args:
        clock: Its time.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._sequencer = clock.sequencer
        self._seat = _Seat(clock.sequencer, self)
        super().__init__(self._seat)
        self._clock_resolution = _RESOLUTION

    def time(self) -> float:
        """Return the clock's monotonic seconds."""
        return self._sequencer.now / 1e9

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer as any loop does, and tell of it if it is a coroutine's sleep."""
        if callback is _END_OF_SLEEP:
            on_sleep = self.clock.on_sleep
            if on_sleep is not None:
                on_sleep(when - self.time())
        return super().call_at(when, callback, *args, context=context)

    def run_forever(self) -> None:
        """Run as any loop does, counted while it has something to do."""
        with self.clock.sequencer.working(threading.current_thread().name) as actor:
            loops = self.clock.sequencer.loops
            self._seat.actor = actor
            loops[actor.ident] = self
            try:
                super().run_forever()
            finally:
                del loops[actor.ident]
                self._seat.actor = None

    async def shutdown_default_executor(self, *args: Any) -> None:
        """End the default executor as any loop does, by a thread that is counted."""
        if self._default_executor is not None:  # type: ignore[attr-defined]  # asyncio's own
            self.clock.sequencer.expect()
        await super().shutdown_default_executor(*args)

    def _do_shutdown(self, future: asyncio.Future[None]) -> None:
        # On the thread that asyncio starts for it.
        sequencer = self.clock.sequencer
        actor = sequencer.enter("the end of the default executor", expected=True)
        try:
            super()._do_shutdown(future)  # type: ignore[misc]  # a method of asyncio's own
        finally:
            sequencer.leave(actor)

    def _write_to_self(self) -> None:
        # Called by call_soon_threadsafe, on the calling thread: from here on the loop runs.
        self._seat.signal()

    def wake_for_real(self) -> None:
        """Wake the loop's thread out of its `select`."""
        super()._write_to_self()  # type: ignore[misc]  # a method of asyncio's own

    def drain_self(self) -> None:
        """Read away what `wake_for_real` has written."""
        self._read_from_self()  # type: ignore[attr-defined]  # a method of asyncio's own


class _Seat(selectors.BaseSelector):
    """A loop's selector, in which the loop is parked while it has nothing to do.

    Attributes:
        actor: The thread that runs the loop; None while it does not run.
    """

    def __init__(self, sequencer: Sequencer, loop: VirtualLoop) -> None:
        self._sequencer = sequencer
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._signalled = False
        self._turn = False
        self._files = 0
        self._beats = -1
        self._silent = 0.0
        self.actor: Actor | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file; see `selectors`."""
        key = self._real.register(fileobj, events, data)
        self._count_files()
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch a file no more; see `selectors`."""
        key = self._real.unregister(fileobj)
        self._count_files()
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change what is watched; see `selectors`."""
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return what is watched; see `selectors`."""
        return self._real.get_map()

    def close(self) -> None:
        """Let go of everything; see `selectors`."""
        self._sequencer.files -= self._files
        self._files = 0
        self._real.close()

    def _count_files(self) -> None:
        # Counted here, since it is asked for in every turn; one is the loop's own pipe.
        files = max(0, len(self._real.get_map()) - 1)
        self._sequencer.files += files - self._files
        self._files = files

    @property
    def watches_files(self) -> bool:
        """Whether it watches more than the loop's own pipe."""
        return self._files > 0

    @property
    def hears_signals(self) -> bool:
        """Whether the loop has handlers of signals, which may wake it at any time."""
        return bool(self._loop._signal_handlers)  # type: ignore[attr-defined]  # asyncio's own

    def signal(self) -> None:
        """Let the loop go on; any thread."""
        self._sequencer.wake(self.actor, self._set_signalled)

    def _set_signalled(self) -> None:
        self._signalled = True

    def _was_signalled(self) -> bool:
        # Under the sequencer's lock, where signals are set.
        was, self._signalled = self._signalled, False
        return was

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; park the loop if nothing is and it need not return."""
        actor = self.actor
        if actor is None:
            return self._real.select(timeout)
        waits = timeout is None or timeout > 0
        if self._files:
            ready = self._real.select(0)
            if ready or not waits:
                return ready
        elif not waits:
            return []
        sequencer = self._sequencer
        until = None if timeout is None else sequencer.now + max(1, round(timeout * 1e9))
        if (
            until is not None
            and not self._files
            and sequencer.jump(actor, until, self._was_signalled)
        ):
            return []
        return self._park(actor, until)

    def _park(self, actor: Actor, until: int | None) -> list[tuple[selectors.SelectorKey, int]]:
        sequencer = self._sequencer
        self._turn = False
        me = threading.get_ident()

        def kick() -> None:
            self._turn = True
            if threading.get_ident() != me:
                self._loop.wake_for_real()

        pending = self._loop._ready  # type: ignore[attr-defined]  # asyncio's own queue
        actor.kick = kick
        actor.stirred = lambda: bool(pending)
        if not sequencer.try_park(actor, until, None, "its event loop", self._was_signalled):
            return []
        sequencer.go_on()
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while not self._turn:
            ready += self._wait_for_real(actor)
        raise_error(actor)
        return ready

    def _wait_for_real(self, actor: Actor) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait to be kicked, or for a file; return the files that are ready."""
        sequencer = self._sequencer
        step = sequencer.step_of(actor)
        if self._files:
            step = min(step, _SILENCE)
        found = self._real.select(step)
        if not found:
            if not self._turn and not self._has_heard_nothing(actor):
                sequencer.look_around(actor)
            return []
        files = [one for one in found if not self._own(one)]
        if len(files) < len(found):
            self._loop.drain_self()
        if files or self._loop._ready:  # type: ignore[attr-defined]  # a signal's handler
            sequencer.wake(actor)
        return files

    def _has_heard_nothing(self, actor: Actor) -> bool:
        """Let time move on after a silence of the files; False if there is more to look at."""
        sequencer = self._sequencer
        if not self._files or not actor.parked:
            return False
        if self._beats != sequencer.beats:
            self._beats, self._silent = sequencer.beats, 0.0
        self._silent += _SILENCE
        sequencer.move_after_silence()
        return self._silent < sequencer.patience

    def _own(self, one: tuple[selectors.SelectorKey, int]) -> bool:
        return one[0].fileobj is self._loop._ssock  # type: ignore[attr-defined]  # its pipe
