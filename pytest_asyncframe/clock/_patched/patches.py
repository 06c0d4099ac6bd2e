"""Patches of the standard library and anyio that make a test's threads wait on its clock.

Guarantees: on threads that are no actors of the test, patched functions behave as before.
All patches are undone in reverse order.
Relies on: waits in Python going through `threading.Condition`. Locks, ``SimpleQueue`` and
sockets wait in C, in real time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from framework import ThreadPoolExecutorEnhanced
from framework.testing import before_waits
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe._turns.servers import waits_outside
from pytest_asyncframe.clock._clock import VirtualClock
from pytest_asyncframe.clock._patched import anyio, runners, threads
from pytest_asyncframe.clock._patched.present import Make, Present, Replaced, replaced


@contextmanager
def installed(clock: VirtualClock, *, wall: bool) -> Iterator[None]:
    """Let the actors of *clock* wait on it inside the block.

    Args:
        clock: The test's clock.
        wall: Whether ``datetime.now()`` and ``time.time()`` show its time too, if
            time-machine is installed.
    """
    with ExitStack() as stack:
        stack.enter_context(_real_in_children(clock.sequencer, stack))
        if wall:
            # First, since it starts what is replaced then.
            _show_wall(stack, clock)
        stack.enter_context(replaced(clock, all_replaced()))
        stack.enter_context(before_waits(functools.partial(_check_loop, clock)))
        yield


def all_replaced() -> Iterator[Replaced]:
    """Yield what is replaced in a test, in order."""
    yield from _REPLACED
    # Looked up for each test: where `sys.modules` was restored meanwhile, the test has loaded a
    # second copy of the module and uses that.
    pools = _module("concurrent.futures.process")
    if pools is not None:
        yield pools.ProcessPoolExecutor, "submit", _submit_to_process
    pools = _module("multiprocessing.pool")
    # Without this class, who waits for such a pool is told that nothing can continue.
    if hasattr(pools, "_PoolCache"):
        yield pools.ApplyResult, "__init__", _expect
        yield pools.IMapIterator, "__init__", _expect
        yield pools._PoolCache, "__delitem__", _take_out
        yield pools.Pool, "terminate", _give_up
    yield from anyio.counted()
    yield from runners.on_the_clock()
    for module, class_name in (("time_machine", "travel"), ("freezegun.api", "_freeze_time")):
        moves_time = getattr(sys.modules.get(module), class_name, None)
        if moves_time is not None:
            yield moves_time, "start", _refused


def _module(name: str) -> Any:  # Any: a module, whose functions are replaced
    found = sys.modules.get(name)
    if found is not None:
        return found
    try:
        return importlib.import_module(name)
    except ImportError:  # pragma: no cover  # some systems lack the semaphores for pools
        return None


_IN_CHILDREN: list[Callable[[], object]] = []
"""Called in forked children, which run in real time."""


def _after_fork() -> None:
    while _IN_CHILDREN:
        _IN_CHILDREN.pop()()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows cannot fork
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _real_in_children(sequencer: Sequencer, stack: ExitStack) -> Iterator[None]:
    """Let children that are forked inside the block run in real time, without the patches."""

    def put_back() -> None:
        sequencer.forget()
        stack.close()

    _IN_CHILDREN.append(put_back)
    try:
        yield
    finally:
        if put_back in _IN_CHILDREN:
            _IN_CHILDREN.remove(put_back)


def _condition_wait(present: Present, real: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(real)
    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        clock = present.clock
        if clock.sequencer.here is None or waits_outside():
            return real(self, timeout)
        with _watch_block(clock, "Condition.wait"):
            return clock.wait(self, timeout)

    return wait


def _sleep(present: Present, real: Callable[[float], None]) -> Callable[[float], None]:
    @functools.wraps(real)
    def sleep(seconds: float, /) -> None:
        clock = present.clock
        if clock.sequencer.here is None or waits_outside():
            real(seconds)
        elif seconds <= 0:
            clock.sleep(seconds)
        else:
            with _watch_block(clock, "time.sleep"):
                clock.sleep(seconds)

    return sleep


def _watch_block(clock: VirtualClock, what: str) -> AbstractContextManager[object]:
    """Record the wait inside the block if it blocks an event loop."""
    return nullcontext() if asyncio._get_running_loop() is None else clock.on_block(what)


def _of_clock(find: Callable[[VirtualClock], Callable[[], Any]]) -> Make:
    """Return what replaces a function by one of the clock, on the actors of the test."""

    def make(present: Present, real: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(real)
        def sync_inner() -> Any:
            clock = present.clock
            return real() if clock.sequencer.here is None else find(clock)()

        return sync_inner

    return make


_monotonic = _of_clock(lambda clock: clock.monotonic)
_new_event_loop = _of_clock(lambda clock: clock.new_event_loop)


def _real_time(present: Present, real: Callable[[], float]) -> Callable[[], float]:
    name = real.__name__

    @functools.wraps(real)
    def read() -> float:
        clock = present.clock
        if clock.sequencer.here is not None:
            clock.on_read(name, sys._getframe(1))
        return real()

    return read


class _Instant(float):
    """A monotonic time at which a deadline counts as passed, not only after it.

    Otherwise ``concurrent.futures.as_completed`` would wait once more, for 0 seconds.
    """

    def __rsub__(self, deadline: float) -> float:
        return deadline - float(self) or -1e-9


def _time_module(present: Present, real: Any) -> SimpleNamespace:
    def monotonic() -> float:
        clock = present.clock
        return real.monotonic() if clock.sequencer.here is None else _Instant(clock.monotonic())

    found = SimpleNamespace()
    vars(found).update(vars(real), monotonic=monotonic)
    return found


def _check_loop(clock: VirtualClock) -> None:
    # The clock counts the thread of any other loop as running, so time would stand still.
    if clock.sequencer.here is not None:
        clock.require_loop("waiting for a task")


def _through(find: Callable[[Present], Callable[..., Any]]) -> Make:
    """Return what replaces a method by one that a part of the test calls instead.

    Args:
        find: Returns what is called with the real method and all that this was given.
    """

    def make(present: Present, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def sync_inner(*args: Any, **kwargs: Any) -> Any:
            return find(present)(real, *args, **kwargs)

        return sync_inner

    return make


_submit_to_thread = _through(lambda present: present.pools.submit)
_shut_down = _through(lambda present: present.pools.shut_down)
_submit_to_process = _through(lambda present: present.pools.submit_to_process)
_expect = _through(lambda present: present.pools.expect)
_take_out = _through(lambda present: present.pools.take_out)
_give_up = _through(lambda present: present.pools.give_up)

# Functions that wait, the clocks by which they measure their timeouts, and functions that start
# work on other threads.
_REPLACED: tuple[Replaced, ...] = (
    (threading.Condition, "wait", _condition_wait),
    (threading, "_time", _monotonic),
    (queue, "time", _monotonic),
    (concurrent.futures._base, "time", _time_module),
    (time, "sleep", _sleep),
    (time, "monotonic", _real_time),
    (time, "perf_counter", _real_time),
    # asyncio.Runner and asyncio.run use the first one.
    (asyncio.events, "new_event_loop", _new_event_loop),
    (asyncio, "new_event_loop", _new_event_loop),
    (threading.Thread, "start", threads.start_on),
    (threading.Thread, "join", threads.join_on),
    (ThreadPoolExecutor, "submit", _submit_to_thread),
    (ThreadPoolExecutor, "shutdown", _shut_down),
    (ThreadPoolExecutorEnhanced, "submit", _submit_to_thread),
    (ThreadPoolExecutorEnhanced, "shutdown", _shut_down),
)


def _refused(present: Present, real: Callable[..., Any]) -> Callable[..., Any]:
    name = real.__module__.partition(".")[0]

    @functools.wraps(real)
    def start(self: Any) -> Any:  # Any: a class of time-machine or freezegun
        clock = present.clock
        # Also in a fixture that outlives the test: it would hide the date of the clock.
        if clock.date_is_real or threading.get_ident() not in clock.sequencer.actors:
            return real(self)
        raise RuntimeError(
            f"{name} was started in a test with a virtual clock, which sets datetime.now(): set "
            "the date with @pytest.mark.asyncframe(start='2030-01-01T00:00:00+00:00') or "
            "asyncframe_start in the ini file, and move time with advance() or run_for()"
        )

    return start


def _show_wall(stack: ExitStack, clock: VirtualClock) -> None:
    try:
        import time_machine  # optional
    except ImportError:
        return
    begun = clock.time()
    traveller = stack.enter_context(time_machine.travel(begun, tick=False))
    shown = clock.date_moved

    def follow() -> None:
        nonlocal shown
        now = clock.date_moved
        if now != shown:
            traveller.shift((now - shown) / 1e9)
            shown = now

    clock.sequencer.on_move = follow
    stack.callback(setattr, clock.sequencer, "on_move", None)
