"""Threads that a test starts: starting, joining, and those that are left running.

Relies on: a thread's `run` being looked up when it starts, and its `_invoke_excepthook`;
the frames of threads, to tell which ones are idle.
"""

from __future__ import annotations

import functools
import inspect
import queue
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from math import inf
from types import CodeType, FrameType
from typing import Any

from framework.testing import is_caller, is_courier, is_idle, is_pool_thread
from pytest_asyncframe._locations import called_at, is_installed, is_users, location_of, outwards
from pytest_asyncframe._turns.activity import GONE, glance
from pytest_asyncframe._turns.actors import Arrival, TestEndedError
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe._turns.servers import Server
from pytest_asyncframe._turns.turns import POLL_INTERVAL
from pytest_asyncframe.clock._loop import VirtualLoop
from pytest_asyncframe.clock._patched.call_names import name_of_call
from pytest_asyncframe.clock._patched.present import Present
from pytest_asyncframe.clock._patched.queues import ModelQueue

Start = Callable[[threading.Thread], None]
Join = Callable[..., None]

_JOIN = threading.Thread.join

_WAITING = {
    *("threading", "queue", "selectors", "contextlib", "asyncio.runners"),
    f"{__package__}.patches",
}
"""Modules that wait for others: their caller shows whether a thread is idle."""

_IDLE = {("concurrent.futures.thread", "_worker"), ("anyio._backends._asyncio", "run")}
"""Where idle threads of other pools wait for work: the module and the function."""

_OF_TOOLS = frozenset({"execnet", "xdist", "pytest_timeout", "coverage", "debugpy", "pydevd"})
"""Packages whose threads work for pytest or a debugger, and answer no test."""

_ENDED = "_asyncframe_ended"
"""The attribute of a thread that holds its `_End`."""

_TO_END = 0.5
"""Real seconds within which a thread ends that has done its work."""

_STARTED = "_asyncframe_started"
"""The attribute of a thread that says where it was started."""


def start_on(present: Present, real: Start) -> Start:
    """Return a `Thread.start` for threads that actors may join on the clock."""

    @functools.wraps(real)
    def start(self: threading.Thread) -> None:
        sequencer = present.clock.sequencer
        # Not `sequencer.here`: within a pool's submit this thread is away.
        if threading.get_ident() not in sequencer.actors or hasattr(self, _ENDED):
            real(self)
            return
        users = _is_users_timer(self, sys._getframe(1)) or (
            sequencer.takes_threads and sequencer.here is not None and _runs_users_code(self)
        )
        counted = users or is_caller(self) or is_courier(self, present.clock)
        pooled = sequencer.here is None or _works_on_the_clock(self)
        server = None
        if sequencer.takes_threads and not (counted or pooled) and _may_serve(self):
            counted, server = True, Server()
        arrival = sequencer.expect(_name(self)) if counted else None
        _tell_end(sequencer, self, arrival, server, pooled=pooled)
        if not (counted or pooled):
            sequencer.outside.add_thread(self)
        try:
            # It waits for the new thread to start, which takes no virtual time.
            with sequencer.real():
                real(self)
        except BaseException:  # raised again: no thread has started
            sequencer.outside.remove_thread(self)
            sequencer.give_up(arrival)
            raise
        if users:
            sequencer.has_started("Thread.start()")

    return start


def _runs_users_code(thread: Any) -> bool:  # Any: its target is not a public attribute
    """Whether what a thread runs is the user's code, and not that of a library's worker."""
    runs = _target(thread) or type(thread).run
    code = getattr(inspect.unwrap(runs), "__code__", None) if callable(runs) else None
    return code is not None and is_users(code)


def _may_serve(thread: threading.Thread) -> bool:
    """Whether a thread is that of an installed package and knows a queue, so it may serve that."""
    # Any other `SimpleQueue` waits in C.
    return any(issubclass(type(one), (queue.Queue, ModelQueue)) for one in known_to(thread))


def known_to(thread: Any) -> list[object]:  # Any: its arguments are no public attributes
    """Return what the thread of an installed package was given, and has; [] for other threads."""
    runs = _target(thread) or type(thread).run
    code = getattr(inspect.unwrap(runs), "__code__", None) if callable(runs) else None
    if code is None or not is_installed(code):
        return []
    known: list[object] = [*getattr(thread, "_args", ()), *getattr(thread, "_kwargs", {}).values()]
    for owner in (thread, getattr(runs, "__self__", None)):
        known += getattr(owner, "__dict__", {}).values()
    return known


def is_server(thread: threading.Thread) -> bool:
    """Whether a thread is a `Server`, which takes turns whenever it works."""
    end: _End | None = getattr(thread, _ENDED, None)
    return end is not None and end.serves


def _is_users_timer(thread: threading.Thread, caller: FrameType) -> bool:
    """Whether a thread is a timer of a test or its app, not a timeout of pytest's."""
    if not isinstance(thread, threading.Timer):
        return False
    for frame in outwards(caller):
        if is_users(frame.f_code):
            return True
        # A plugin started it. What lies further out has called pytest, such as a test of it.
        if str(frame.f_globals.get("__name__")).startswith("_pytest."):
            break
    return False


def _works_on_the_clock(thread: Any) -> bool:  # Any: its target is not a public attribute
    """Whether a thread belongs to a pool or to anyio, or shuts down the executor of a loop."""
    of_a_loop = isinstance(getattr(_target(thread), "__self__", None), VirtualLoop)
    return of_a_loop or is_pool_thread(thread) or _is_anyios(thread)


def _is_anyios(thread: Any) -> bool:  # Any: its target is not a public attribute
    """Whether a thread is one of anyio's workers, or runs the loop of a portal."""
    modules = [getattr(one, "__module__", "") for one in (type(thread), _target(thread))]
    return any(str(module).startswith("anyio.") for module in modules)


def _name(thread: Any) -> str:  # Any: see above
    runs = _target(thread)
    return "thread" if runs is None else name_of_call(runs)


def _target(thread: Any) -> Any:  # Any: see above
    return getattr(thread, "_target", None)


class _End:
    """The end of a thread.

    Attributes:
        came: Set on the thread when its work is done.
        pooled: Whether it belongs to a pool, so that all its work is on the clock.
        serves: Whether it is a `Server`, which is no actor at times, and yet goes on.
        arrival: Its announcement, which is open until it is an actor; None for no actor.
    """

    def __init__(self, arrival: Arrival | None, *, pooled: bool, serves: bool) -> None:
        self.came = threading.Event()
        self.arrival = arrival
        self.pooled = pooled
        self.serves = serves

    @property
    def is_to_come(self) -> bool:
        """Whether it is that of an actor, which may not have begun yet."""
        return self.arrival is not None and not self.came.is_set()


def _tell_end(
    sequencer: Sequencer,
    thread: Any,  # it gets attributes
    arrival: Arrival | None,
    server: Server | None,
    *,
    pooled: bool,
) -> None:
    run = thread.run
    end = _End(arrival, pooled=pooled, serves=server is not None)
    setattr(thread, _ENDED, end)

    def run_and_tell() -> None:
        actor = None
        if server is not None:
            server.begin(sequencer, arrival)
        elif arrival is not None:
            actor = sequencer.enter(arrival)
        try:
            run()
        except (TestEndedError, SystemExit):  # these end a thread as it should
            if arrival is None:
                raise
        except BaseException:
            if actor is None:
                raise
            # In its turn: whether the test has ended by then would be chance after it.
            thread._invoke_excepthook(thread)
        finally:
            del thread.run
            sequencer.listeners.released(thread)
            end.came.set()
            sequencer.outside.remove_thread(thread)
            if actor is not None:
                sequencer.leave(actor)
            if server is not None:
                server.end()
            sequencer.has_ended(threading.get_ident())

    thread.run = run_and_tell


def join_on(present: Present, real: Join) -> Join:
    """Return a `Thread.join` that waits on the clock for threads that have worked on it."""

    @functools.wraps(real)
    def join(self: threading.Thread, timeout: float | None = None) -> None:
        sequencer = present.clock.sequencer
        _join(sequencer, real, self, timeout)
        sequencer.listeners.acquired(self)

    return join


def _join(
    sequencer: Sequencer, real: Join, thread: threading.Thread, timeout: float | None
) -> None:
    end, ident, actor = getattr(thread, _ENDED, None), thread.ident, sequencer.here
    if end is None or ident is None or actor is None or thread is threading.current_thread():
        real(thread, timeout)
        return
    outside = not (end.pooled or end.is_to_come or ident in sequencer.known)
    if outside:
        if _has_ended_alone(sequencer, real, thread, timeout):
            return
    elif ident not in sequencer.actors and not (end.serves or end.is_to_come):
        # It is about to end, in real time. Others run only after that: whether it has ended
        # by now is chance.
        with sequencer.real():
            real(thread, _TO_END)
        if not thread.is_alive():
            return
    frame = sys._current_frames().get(ident)
    idle = ident not in sequencer.actors and frame is not None and _idle(frame)
    # An idle thread of a pool ends when the pool is shut down, not by itself.
    with nullcontext() if idle or outside or end.serves else sequencer.joining(ident, actor):
        gone = end.came.wait(None if timeout is None else max(timeout, 0))
    if gone:
        real(thread)


def _has_ended_alone(
    sequencer: Sequencer, real: Join, thread: threading.Thread, timeout: float | None
) -> bool:
    """Wait in real time for a thread that is outside of the clock.

    It may wait for tasks, as that of a test client does. If it is the first to submit any, nobody
    but the joining thread can let them start.

    Returns:
        Whether it has ended, or *timeout* has passed; False if a task waits to start.
    """
    left = inf if timeout is None else timeout
    while left > 0:
        step = min(POLL_INTERVAL, left)
        real(thread, step)
        if not thread.is_alive():
            break
        if sequencer.has_startable:
            return False
        left -= step
    return True


def is_join(code: CodeType) -> bool:
    """Whether code is that of `Thread.join`, replaced or not."""
    return code in (_JOIN.__code__, _join.__code__, _has_ended_alone.__code__)


def busy(before: set[threading.Thread]) -> Iterator[threading.Thread]:
    """Yield the threads that are not idle, except those of *before*."""
    found = [one for one in threading.enumerate() if one.ident is not None and one not in before]
    if not found:
        return
    frames = sys._current_frames()
    for thread in found:
        frame = frames.get(thread.ident or 0)
        # A thread without a frame is just starting, or runs code of a C library.
        if not (_has_ended(thread) if frame is None else _idle(frame)):
            yield thread


def _has_ended(thread: threading.Thread) -> bool:
    """Whether a thread without a frame, that Python has not started, is only listed any more.

    Until Python 3.12 it is listed until another thread gets its identifier.
    """
    return isinstance(thread, threading._DummyThread) and glance(thread.native_id) is GONE


def lasting(threads: Collection[threading.Thread]) -> Iterator[threading.Thread]:
    """Yield those of *threads*, which outlive tests, that may have work to do for one."""
    there = {*threads} - {threading.current_thread(), threading.main_thread()}
    if not there:
        return
    frames = sys._current_frames()
    for thread in busy(set(threading.enumerate()) - there):
        frame = frames.get(thread.ident or 0)
        homes = {str(one.f_globals.get("__name__")).partition(".")[0] for one in outwards(frame)}
        if _OF_TOOLS.isdisjoint(homes):
            yield thread


def _idle(frame: FrameType) -> bool:
    for step in outwards(frame):
        module, code = step.f_globals.get("__name__"), step.f_code
        if module not in _WAITING:
            return is_idle(code) or (module, code.co_name) in _IDLE
    return False


class StartedThreads:
    """The threads that a test has started, and where.

    Attributes:
        before: The threads that existed before the test.
    """

    def __init__(self) -> None:
        self.before: set[threading.Thread] = set(threading.enumerate())

    @contextmanager
    def lasting(self) -> Iterator[set[threading.Thread]]:
        """Let the threads that are started inside the block count as those from before.

        Yields:
            What holds these threads after the block.
        """
        there = set(threading.enumerate())
        made: set[threading.Thread] = set()
        yield made
        made.update(one for one in threading.enumerate() if one not in there)
        self.before.update(made)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record where threads are started inside the block."""
        real = threading.Thread.start

        @functools.wraps(real)
        def start(self: threading.Thread) -> None:
            setattr(self, _STARTED, called_at(sys._getframe(1)))
            real(self)

        threading.Thread.start = start  # type: ignore[method-assign]  # see above
        try:
            yield
        finally:
            threading.Thread.start = real  # type: ignore[method-assign]

    def left(self, grace: float) -> list[str]:
        """Return the threads of the test that still work, a line each.

        Daemon threads are left out, since nobody has to end them, and so are anyio's, which
        end with their loop, and idle threads of pools, which tests may share.

        Args:
            grace: Real seconds to wait for each of them to end, 0 or more.
        """
        processes: Any = sys.modules.get("concurrent.futures.process")
        # Without this table, a pool of processes that a test has not shut down is named as well.
        managers = getattr(processes, "_threads_wakeups", ())
        lines = []
        for thread in list(busy(self.before)):
            if thread.daemon or thread in managers or _is_anyios(thread):
                continue
            # In real time, so threads that sleep on the clock sleep on.
            _JOIN(thread, grace)
            frame = sys._current_frames().get(thread.ident or 0)
            if not thread.is_alive() or frame is None or _idle(frame):
                continue
            started = getattr(thread, _STARTED, "")
            here = location_of(outwards(frame))
            lines.append(
                thread.name
                + (f", started at {started}" if started else "")
                + (f", is at {here}" if here else "")
            )
        return lines
