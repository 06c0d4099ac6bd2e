"""The event loop of a virtual clock.

Guarantees: time stands still while the loop has something to do. It may move while the loop
waits in its selector; if the loop watches sockets, only after a silence.
Relies on: `sequencer` for when time moves, asyncio's own loop passing its timeout to the selector,
and names of asyncio's that `_borrowed` lists.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from contextvars import Context
from types import FrameType
from typing import Any, Protocol, TypeAlias, TypeVarTuple, Unpack
from weakref import WeakKeyDictionary

from pytest_asyncframe._locations import users_location
from pytest_asyncframe._turns.actors import Actor, Arrival, TestEndedError, Timer
from pytest_asyncframe._turns.sequencer import Sequencer

_Ts = TypeVarTuple("_Ts")

END_OF_SLEEP = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
"""The callback of the timers that `asyncio.sleep` sets."""

_CALL_LATER = asyncio.BaseEventLoop.call_later.__code__

_MOST_THROWN = 1_000
"""How many errors the code on a loop may catch before one ends the loop."""

_RESOLUTION = 1e-6
"""Seconds by which timers may fire early; floats of long times are not more precise."""


class LoopClock(Protocol):
    """What a loop needs of its `VirtualClock`."""

    sequencer: Sequencer
    on_sleep: Callable[[float], object] | None
    on_timer: Callable[[asyncio.TimerHandle | Timer, FrameType], object] | None
    test: asyncio.Task[Any] | None
    make_ready: Callable[[], deque[Any]]

    def abandon(self, handle: asyncio.TimerHandle, location: str) -> None:
        """Record a timer that will not fire, since its loop is closed."""
        ...


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of a `VirtualClock`.

    Args:
        clock: The clock.

    Attributes:
        ending: Closed after the loop, on the thread that closes it.
        make_future: Makes the futures of `create_future`, given this loop.
        owed: What threads that outlive the loop have yet to tell it.
    """

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.ending: ExitStack = ExitStack()
        self.make_future: Callable[[VirtualLoop], asyncio.Future[Any]] = _make_future
        self.owed: set[object] = set()
        self._end_of_executor: Arrival | None = None
        self._asked: object = None
        self._thrown = 0
        self._sequencer = clock.sequencer
        self._parking = _ParkingSelector(clock.sequencer, self)
        super().__init__(self._parking)
        self._ready = clock.make_ready()
        self._clock_resolution = _RESOLUTION
        self._locations: WeakKeyDictionary[asyncio.TimerHandle, str] = WeakKeyDictionary()

    def time(self) -> float:
        """Return the clock's monotonic seconds."""
        return self._sequencer.now / 1e9

    def create_future(self) -> asyncio.Future[Any]:
        """Return a new future."""
        return self.make_future(self)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer; report the sleep of a coroutine, and record who set any other timer."""
        if callback is END_OF_SLEEP:
            on_sleep = self.clock.on_sleep
            if on_sleep is not None:
                on_sleep(when - self.time())
            return self._set(when, callback, args, context)
        caller = sys._getframe(1)
        handle = self._set(when, callback, args, context)
        location = users_location(caller.f_back if caller.f_code is _CALL_LATER else caller)
        if location:
            self._locations[handle] = location
        if self.clock.on_timer is not None:
            self.clock.on_timer(handle, caller)
        return handle

    def _set(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        # In debug mode a handle shows its creator, which is neither of these two frames.
        made_by = handle._source_traceback  # type: ignore[attr-defined]  # asyncio's own
        if made_by:
            del made_by[-2:]
        return handle

    def let_pass(self, handle: asyncio.TimerHandle) -> None:
        """Let time pass until a timer is due, though others could go on, as on a slow machine.

        Called on the thread of the loop. All timers that are due then fire in their order, after
        what is ready.
        """
        self._sequencer.let_pass(round(handle.when() * 1e9))
        # asyncio's own, which does the same when it has run all that was ready.
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        end = self.time() + self._clock_resolution
        while scheduled and scheduled[0].when() < end:
            due = heapq.heappop(scheduled)
            due._scheduled = False
            if due.cancelled():
                self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            else:
                self._ready.append(due)

    def close(self) -> None:
        """Close the loop, and report the timers that the user's code has left to the clock."""
        if not self.is_closed():
            self._let_threads_tell()
            for handle in self._scheduled:  # type: ignore[attr-defined]  # asyncio's own
                if handle in self._locations and not handle.cancelled():
                    self.clock.abandon(handle, self._locations[handle])
        super().close()
        self.ending.close()

    def _let_threads_tell(self) -> None:
        """Let threads that others need later tell their results, which a closed loop refuses."""
        sequencer = self._sequencer
        actor = sequencer.here
        if self.owed and actor is not None:
            wants = "for the threads that owe its loop a result"
            sequencer.let_others(actor, lambda: not self.owed, wants)

    def run_forever(self) -> None:
        """Run the loop on the calling thread, which is an actor meanwhile."""
        # Checked before anything changes: in 3.13.0 asyncio forgets a loop that is running.
        self._check_closed()  # type: ignore[attr-defined]  # a method of asyncio's own
        self._check_running()  # type: ignore[attr-defined]  # a method of asyncio's own
        with self.clock.sequencer.working() as actor:
            self._parking.actor = actor
            actor.loop = self
            self._sequencer.has_looped = True
            # It may have been run before by another thread, or was told of something to do.
            self._sequencer.listeners.acquired(self._parking)
            try:
                super().run_forever()
            finally:
                self._sequencer.listeners.released(self._parking)
                self._parking.actor = actor.loop = None

    def run_until_complete(self, future: Any) -> Any:
        """Run the loop, and remember the future for `throw`."""
        before, self._asked = self._asked, future
        try:
            return super().run_until_complete(future)
        finally:
            self._asked = before

    def throw(self, error: Exception) -> bool:
        """Raise *error* at the ``await`` where the test waits; False if there is none.

        Where the test awaits an asyncio task, the error is raised where that task waits.
        """
        task = self.clock.test
        if task is None or task.done() or task.get_loop() is not self:
            task = self._task_asked_for()
        waits_for: Any = task
        seen: set[object] = set()
        while isinstance(waits_for, asyncio.Task) and waits_for not in seen:
            seen.add(waits_for)
            waits_for = getattr(waits_for, "_fut_waiter", None)
        self._thrown += 1
        if waits_for is None or waits_for in seen or self._thrown > _MOST_THROWN:
            return False
        if waits_for.done() or waits_for.get_loop() is not self:
            return False
        waits_for.set_exception(error)
        return True

    def _task_asked_for(self) -> asyncio.Task[Any] | None:
        asked = self._asked
        if isinstance(asked, asyncio.Task):
            return asked
        return next((one for one in asyncio.all_tasks(self) if one.get_coro() is asked), None)

    async def shutdown_default_executor(self, *args: Any) -> None:
        """Shut down the default executor, on a thread that is announced."""
        if self._default_executor is not None:  # type: ignore[attr-defined]  # asyncio's own
            self._end_of_executor = self.clock.sequencer.expect("shutdown of the executor")
        await super().shutdown_default_executor(*args)

    def _do_shutdown(self, future: asyncio.Future[None]) -> None:
        # Runs on the thread that asyncio starts for it.
        sequencer = self.clock.sequencer
        actor = sequencer.enter(self._end_of_executor, name="shutdown of the executor")
        try:
            super()._do_shutdown(future)  # type: ignore[misc]  # a method of asyncio's own
        except TestEndedError:  # a thread of the pool is stuck, which is a finding
            pass
        finally:
            sequencer.leave(actor)

    async def _make_subprocess_transport(self, *args: Any, **options: Any) -> Any:
        self._parking.count_children(1)
        try:
            return await super()._make_subprocess_transport(*args, **options)  # type: ignore[misc]
        except BaseException:  # raised again: no process has started
            self._parking.count_children(-1)
            raise

    def _child_watcher_callback(self, *args: Any) -> None:
        # Called on any thread that watches processes. It wakes the loop first.
        super()._child_watcher_callback(*args)  # type: ignore[misc]  # a method of asyncio's own
        self._parking.count_children(-1)

    def add_signal_handler(
        self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> None:
        """Add a handler; from now on the loop checks for signals in each iteration."""
        super().add_signal_handler(sig, callback, *args)
        self._parking.hears_signals = True

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler."""
        removed = super().remove_signal_handler(sig)
        # Without asyncio's table, it goes on looking for signals.
        self._parking.hears_signals = bool(getattr(self, "_signal_handlers", True))
        return removed

    def _write_to_self(self) -> None:
        # Called by call_soon_threadsafe on any thread. The loop counts as running at once.
        self._parking.signal()

    @property
    def awaits_outside(self) -> bool:
        """Whether a socket, a process or a signal may yet wake it."""
        return self._parking.files > 0 or self._parking.hears_signals

    def wake_for_real(self) -> None:
        """Wake the thread of the loop from its `select`."""
        super()._write_to_self()  # type: ignore[misc]  # a method of asyncio's own

    def drain_self(self) -> None:
        """Read what `wake_for_real` wrote, and run the handlers of signals."""
        self._read_from_self()  # type: ignore[attr-defined]  # a method of asyncio's own

    @property
    def pipe(self) -> int:
        """The file that wakes the loop, for signals too."""
        return int(self._ssock.fileno())  # type: ignore[attr-defined]  # asyncio's own


def loops_of(sequencer: Sequencer) -> Iterator[VirtualLoop]:
    """Yield the loops on virtual time that actors run."""
    for actor in list(sequencer.actors.values()):
        if isinstance(actor.loop, VirtualLoop):
            yield actor.loop


def _make_future(loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
    return asyncio.Future(loop=loop)


_Files: TypeAlias = list[tuple[selectors.SelectorKey, int]]
"""Files that are ready, and for what."""


class _ParkingSelector(selectors.BaseSelector):
    """The selector of a loop, which parks its thread while the loop has nothing to do.

    Attributes:
        actor: The actor of the thread that runs the loop; None while it does not run.
        hears_signals: Whether the loop handles signals, which may wake it at any time.
        files: How many sockets, pipes and processes it watches, without the loop's own pipe.
    """

    def __init__(self, sequencer: Sequencer, loop: VirtualLoop) -> None:
        self._sequencer = sequencer
        # Weakly, so that no cycle keeps the loop until a garbage collection.
        self._loop: VirtualLoop = weakref.proxy(loop)
        self._real = selectors.DefaultSelector()
        self._pipe_alone: selectors.BaseSelector | None = None
        self._signalled = False
        self._turn = False
        self._counting = threading.Lock()
        self._children = 0
        self.files: int = 0
        self.actor: Actor | None = None
        self.hears_signals = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file; see `selectors`."""
        key = self._real.register(fileobj, events, data)
        self._count_files()
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching a file; see `selectors`."""
        key = self._real.unregister(fileobj)
        self._count_files()
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change the events to watch for; see `selectors`."""
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the watched files; see `selectors`."""
        return self._real.get_map()

    def close(self) -> None:
        """Close the selector; see `selectors`."""
        self._real.close()
        if self._pipe_alone is not None:
            self._pipe_alone.close()
        self._count_files(closed=True)

    def count_children(self, more: int) -> None:
        """Add to the number of watched processes, which count as files. Any thread."""
        with self._counting:
            self._children += more
        self._count_files()

    def _count_files(self, *, closed: bool = False) -> None:
        # Counted when it changes, since every iteration reads it. One is the loop's own pipe.
        with self._counting:
            watched = self._real.get_map()
            files = 0 if closed or watched is None else max(0, len(watched) - 1) + self._children
            self._sequencer.outside.count_files(files - self.files)
            self.files = files

    def signal(self) -> None:
        """Wake the loop, or keep it from parking. Any thread."""
        if self.actor is None:
            self._sequencer.listeners.released(self)
        self._sequencer.wake(self.actor, self._set_signalled)

    def _set_signalled(self) -> None:
        self._signalled = True

    # Both with the sequencer's lock held, as `_set_signalled`.

    def _is_signalled(self) -> bool:
        return self._signalled

    def _was_signalled(self) -> bool:
        was, self._signalled = self._signalled, False
        return was

    def select(self, timeout: float | None = None) -> _Files:
        """Return the files that are ready; park the loop if it has nothing else to do."""
        actor = self.actor
        if actor is None:
            return self._real.select(timeout)
        waits = timeout is None or timeout > 0
        # A system call costs more than the rest of an iteration: only if a file or a signal may
        # be ready. A signal writes to the pipe, and its handler may have filled `_ready`.
        if self.files or self.hears_signals:
            ready = self._files_of(self._real.select(0))
            if ready or not waits or self._loop._ready:
                return ready
        elif not waits:
            return []
        sequencer = self._sequencer
        until = None if timeout is None else sequencer.now + max(1, round(timeout * 1e9))
        if until is not None and sequencer.jump(actor, until, self._is_signalled):
            return []
        return self._park(actor, until)

    def _park(self, actor: Actor, until: int | None) -> _Files:
        sequencer = self._sequencer
        self._turn = False
        was_seen = actor.was_seen
        me = threading.get_ident()

        def kick() -> None:
            # The flag first: the thread reads it as soon as it is awake.
            self._turn = True
            # On its own thread it has not entered its `select` yet.
            if threading.get_ident() != me:
                self._loop.wake_for_real()

        # Before it is parked, since another thread may kick it from then on.
        pending = self._loop._ready  # asyncio's own queue
        actor.kick = kick
        actor.has_work = lambda: bool(pending)
        if not sequencer.try_park(actor, until, None, "its event loop", self._was_signalled):
            return []
        sequencer.dispatch()
        ready: _Files = []
        while not self._turn:
            # A ready file stays ready until the loop has its turn, so it is not polled again.
            ready += self._wait_for_real(actor, self._pipe_only() if ready else self._real)
        # Whether the loop was woken by its own pipe, and what this thread dispatched, is chance.
        actor.was_seen = was_seen
        self._raise_error(actor)
        return ready

    def _raise_error(self, actor: Actor) -> None:
        """Raise the error that the thread was woken with, where the test waits if possible."""
        error = actor.error
        if (
            isinstance(error, Exception)
            and actor is self._sequencer.first
            and self._loop.throw(error)
        ):
            actor.error = None
        actor.raise_error()

    def _wait_for_real(self, actor: Actor, selector: selectors.BaseSelector) -> _Files:
        """Wait for `Actor.kick` or a file in real time; return the files that are ready."""
        sequencer = self._sequencer
        step = sequencer.watchdog.interval(actor)
        found = selector.select(step)
        if not found:
            if not self._turn:
                sequencer.watchdog.check(actor, step)
            return []
        files = self._files_of(found)
        if files or self._loop._ready:  # a signal's handler
            sequencer.wake(actor)
        return files

    def _files_of(self, found: _Files) -> _Files:
        """Return *found* without the loop's own pipe, which is emptied."""
        pipe = self._loop.pipe
        files = [one for one in found if one[0].fd != pipe]
        if len(files) < len(found):
            self._loop.drain_self()
        return files

    def _pipe_only(self) -> selectors.BaseSelector:
        if self._pipe_alone is None:
            self._pipe_alone = selectors.DefaultSelector()
            self._pipe_alone.register(self._loop.pipe, selectors.EVENT_READ)
        return self._pipe_alone
