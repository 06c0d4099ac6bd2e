"""What makes the threads of a test wait on its clock, put in place for one test at a time.

Guarantees: replaced functions do what they did on every thread that is no actor of the
test's sequencer; everything is put back, in the opposite order.
Relies on: waits in Python going through `threading.Condition`. Locks, ``SimpleQueue`` and
sockets wait in C and stay real.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from framework.testing import ControlledExecutor
from pytest_asyncframe._sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock

_ENDED = "_asyncframe_ended"
"""The attribute of a thread in which there is an event that is set at its end."""


@contextmanager
def installed(clock: VirtualClock, *, wall: bool) -> Iterator[None]:
    """Let the actors of *clock* wait on it, inside.

    Args:
        clock: The test's clock.
        wall: Whether ``datetime.now()`` and ``time.time()`` show it too, where
            time-machine is installed.
    """
    with ExitStack() as stack:
        for owner, name, make in _REPLACED:
            _replace(stack, owner, name, make(clock, getattr(owner, name)))
        _replace(stack, _anyio("to_thread"), "run_sync", _run_sync(clock.sequencer))
        portal = _portal(clock)
        _replace(stack, _anyio("from_thread"), "start_blocking_portal", portal)
        if wall:
            _show_wall(stack, clock)
        yield


def _replace(stack: ExitStack, owner: Any, name: str, new: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, new)


def _condition_wait(clock: VirtualClock, real: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(real)
    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        if clock.sequencer.here is None:
            return real(self, timeout)
        return clock.wait(self, timeout)

    return wait


def _sleep(clock: VirtualClock, real: Callable[[float], None]) -> Callable[[float], None]:
    @functools.wraps(real)
    def sleep(seconds: float, /) -> None:
        if clock.sequencer.here is None:
            real(seconds)
        else:
            clock.sleep(seconds)

    return sleep


def _monotonic(clock: VirtualClock, real: Callable[[], float]) -> Callable[[], float]:
    def monotonic() -> float:
        return real() if clock.sequencer.here is None else clock.monotonic()

    return monotonic


def _time_module(clock: VirtualClock, real: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(real), "monotonic": _monotonic(clock, real.monotonic)})


def _thread_start(
    clock: VirtualClock, real: Callable[[threading.Thread], None]
) -> Callable[[threading.Thread], None]:
    @functools.wraps(real)
    def start(self: threading.Thread) -> None:
        # Inside of a pool's submit the starter is away.
        if threading.get_ident() in clock.sequencer.actors and not hasattr(self, _ENDED):
            _tell_end(clock.sequencer, self)
        # It waits until the new thread has begun, which needs no virtual time.
        with clock.sequencer.real():
            real(self)

    return start


def _tell_end(sequencer: Sequencer, thread: Any) -> None:  # Any: it gets attributes
    run = thread.run
    ended = threading.Event()
    setattr(thread, _ENDED, ended)

    def run_and_tell() -> None:
        try:
            run()
        finally:
            del thread.run
            ended.set()
            sequencer.has_ended(threading.get_ident())

    thread.run = run_and_tell


def _thread_join(clock: VirtualClock, real: Callable[..., None]) -> Callable[..., None]:
    sequencer = clock.sequencer

    @functools.wraps(real)
    def join(self: threading.Thread, timeout: float | None = None) -> None:
        ended = getattr(self, _ENDED, None)
        ident = self.ident
        if (
            ended is None
            or ident not in sequencer.known
            or sequencer.here is None
            or self is threading.current_thread()
        ):
            real(self, timeout)
            return
        with sequencer.joining(ident):
            gone = ended.wait(None if timeout is None else max(timeout, 0))
        if gone:
            real(self)

    return join


def _submit(clock: VirtualClock, real: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    lanes: dict[ThreadPoolExecutor, _Lane] = {}
    sequencer = clock.sequencer

    @functools.wraps(real)
    def submit(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if isinstance(self, ControlledExecutor) or sequencer.here is None:
            return real(self, fn, *args, **kwargs)
        lane = lanes.get(self)
        if lane is None:
            lane = lanes[self] = _Lane(sequencer, self._max_workers)
        return lane.submit(functools.partial(real, self), fn, args, kwargs)

    return submit


# What waits, and by what it measures how long.
_REPLACED: tuple[tuple[Any, str, Callable[[VirtualClock, Any], Any]], ...] = (
    (threading.Condition, "wait", _condition_wait),
    (threading.Thread, "start", _thread_start),
    (threading.Thread, "join", _thread_join),
    (threading, "_time", _monotonic),
    (queue, "time", _monotonic),
    (concurrent.futures._base, "time", _time_module),
    (time, "sleep", _sleep),
    (ThreadPoolExecutor, "submit", _submit),
)


class _Lane:
    """A pool of the user's own: counts as many of its queued calls as it has threads for."""

    def __init__(self, sequencer: Sequencer, places: int) -> None:
        self._sequencer = sequencer
        self._places = places
        self._lock = threading.Lock()
        self._waiting = self._working = self._counted = 0

    def submit(
        self,
        real: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Submit a call that is counted from now until its future's callbacks have run."""
        visit = _Visit(self)
        self.count(waiting=1)
        try:
            # It may start a thread, and looks whether one is idle.
            with self._sequencer.real():
                future = real(visit.run, fn, args, kwargs)
        except BaseException:
            self.count(waiting=-1)
            raise
        visit.follow(future)
        return future

    def count(self, waiting: int = 0, working: int = 0) -> None:
        """Count calls that wait or are worked on."""
        with self._lock:
            self._waiting += waiting
            self._working += working
            more = self._recount()
        if more:
            self._sequencer.expect(more)

    def begin(self) -> bool:
        """Count a call as worked on, and return whether its thread is expected."""
        with self._lock:
            expected = self._counted > 0
            self._counted -= expected
            self._waiting -= 1
            self._working += 1
            more = self._recount()
        if more:
            self._sequencer.expect(more)
        return expected

    def _recount(self) -> int:
        due = min(self._waiting, max(0, self._places - self._working))
        more, self._counted = due - self._counted, due
        return more


class _Visit:
    """One call in a lane.

    Its thread is an actor until the callbacks of its future have run, since these wake
    who waits for it: the future tells of that, being asked to invoke them.
    """

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self._begun = False
        self._followed = threading.Lock()
        self._followed.acquire()

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call on the pool's thread, as an actor."""
        # Its end is told by the future, which its submitter is just getting hold of.
        self._followed.acquire()
        self._begun = True
        name = threading.current_thread().name
        self._lane._sequencer.enter(name, expected=self._lane.begin())
        return fn(*args, **kwargs)

    def follow(self, future: Any) -> None:  # Any: a Future, whose inner parts are used
        """Leave once the callbacks of *future* have run."""
        invoke = future._invoke_callbacks

        def invoke_and_leave() -> None:
            try:
                invoke()
            finally:
                self._leave()

        future._invoke_callbacks = invoke_and_leave
        self._followed.release()

    def _leave(self) -> None:
        if not self._begun:
            self._lane.count(waiting=-1)
            return
        self._lane.count(working=-1)
        actor = self._lane._sequencer.here
        if actor is not None:
            self._lane._sequencer.leave(actor)


def _anyio(name: str) -> Any:  # Any: a module, whose function is replaced
    # Only tests that use virtual time need it.
    return importlib.import_module(f"anyio.{name}")


def _portal(clock: VirtualClock) -> Callable[..., AbstractContextManager[Any]]:
    real = _anyio("from_thread").start_blocking_portal

    @functools.wraps(real)
    @contextmanager
    def start_blocking_portal(
        backend: str = "asyncio", backend_options: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[Any]:
        if clock.sequencer.here is not None and backend == "asyncio":
            backend_options = {"loop_factory": clock.new_event_loop, **(backend_options or {})}
        made = real(backend, backend_options, **options)
        with ExitStack() as stack:
            # Its thread is seen only once its loop runs.
            with clock.sequencer.away(counted=True):
                portal = stack.enter_context(made)
            yield portal

    return start_blocking_portal


def _run_sync(sequencer: Sequencer) -> Callable[..., Any]:
    real = _anyio("to_thread").run_sync

    @functools.wraps(real)
    async def run_sync(
        func: Callable[..., Any], *args: Any, limiter: Any = None, **options: Any
    ) -> Any:
        if sequencer.here is None:
            return await real(func, *args, limiter=limiter, **options)
        stay = _Stay(sequencer, limiter)
        return await real(stay.run, func, args, limiter=stay, **options)

    return run_sync


class _Stay:
    """One function in a thread of anyio's; stands in the place of the limiter.

    It is counted from the moment at which it has a thread until its awaiter goes on, and
    not while it waits for the limiter: those that hold this may be asleep.
    """

    def __init__(self, sequencer: Sequencer, limiter: Any) -> None:
        self._sequencer = sequencer
        self._limiter = limiter
        self._lock = threading.Lock()
        self._awaited = True
        self._inside = False

    async def __aenter__(self) -> None:
        if self._limiter is None:
            self._limiter = _anyio("to_thread").current_default_thread_limiter()
        await self._limiter.__aenter__()
        self._sequencer.expect()

    async def __aexit__(self, *error: object) -> Any:
        with self._lock:
            self._awaited = False
            counted = not self._inside
        if counted:
            self._sequencer.expect(-1)
        return await self._limiter.__aexit__(*error)

    def run(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run *func* on anyio's thread, as an actor."""
        with self._lock:
            expected = self._awaited
            self._inside = True
        actor = self._sequencer.enter(threading.current_thread().name, expected=expected)
        try:
            return func(*args)
        finally:
            with self._lock:
                # Given up by its awaiter meanwhile: nobody else would count it down.
                awaited = self._awaited
                self._inside = False
            self._sequencer.leave(actor, expected=awaited)


def _show_wall(stack: ExitStack, clock: VirtualClock) -> None:
    try:
        import time_machine  # optional
    except ImportError:
        return
    begun = clock.time()
    traveller = stack.enter_context(time_machine.travel(begun, tick=False))
    shown = clock.sequencer.now

    def follow() -> None:
        nonlocal shown
        now = clock.sequencer.now
        if now != shown:
            traveller.shift((now - shown) / 1e9)
            shown = now

    clock.sequencer.on_move = follow
    stack.callback(setattr, clock.sequencer, "on_move", None)
