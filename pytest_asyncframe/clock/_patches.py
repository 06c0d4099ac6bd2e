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
from pytest_asyncframe.clock import _anyio, _pools, _processes, _threads
from pytest_asyncframe.clock._clock import VirtualClock


@contextmanager
def installed(clock: VirtualClock, *, wall: bool) -> Iterator[None]:
    """Let the actors of *clock* wait on it inside the block.

    Args:
        clock: The test's clock.
        wall: Whether ``datetime.now()`` and ``time.time()`` show its time too, if
            time-machine is installed.
    """
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, new: Any) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, new)

    with ExitStack() as stack:
        stack.enter_context(_real_in_children(clock.sequencer, stack))
        stack.callback(_put_back, replaced)
        for owner, name, make in _REPLACED:
            replace(owner, name, make(clock, getattr(owner, name)))
        for owner, name, count in _COUNTED:
            replace(owner, name, count(clock.sequencer, getattr(owner, name)))
        pools = _pools.Pools(clock.sequencer)
        for kind in (ThreadPoolExecutor, ThreadPoolExecutorEnhanced):
            replace(kind, "submit", pools.counted_submit(kind.submit))
            replace(kind, "shutdown", pools.shutdown_on_the_clock(kind.shutdown))
        for owner, name, new in (*_processes.counted(clock.sequencer), *_anyio.counted(clock)):
            replace(owner, name, new)
        stack.enter_context(before_waits(functools.partial(_check_loop, clock)))
        if wall:
            _show_wall(stack, clock)
        for module, class_name in (("time_machine", "travel"), ("freezegun.api", "_freeze_time")):
            moves_time = getattr(sys.modules.get(module), class_name, None)
            if moves_time is not None:
                replace(moves_time, "start", _refused(clock, module, moves_time.start))
        yield


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


def _put_back(replaced: list[tuple[Any, str, Any]]) -> None:
    for owner, name, old in reversed(replaced):
        setattr(owner, name, old)


def _condition_wait(clock: VirtualClock, real: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(real)
    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        if clock.sequencer.here is None:
            return real(self, timeout)
        with _watch_block(clock, "Condition.wait"):
            return clock.wait(self, timeout)

    return wait


def _sleep(clock: VirtualClock, real: Callable[[float], None]) -> Callable[[float], None]:
    @functools.wraps(real)
    def sleep(seconds: float, /) -> None:
        if clock.sequencer.here is None:
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


def _monotonic(clock: VirtualClock, real: Callable[[], float]) -> Callable[[], float]:
    def monotonic() -> float:
        return real() if clock.sequencer.here is None else clock.monotonic()

    return monotonic


def _real_time(clock: VirtualClock, real: Callable[[], float]) -> Callable[[], float]:
    name = real.__name__

    @functools.wraps(real)
    def read() -> float:
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


def _time_module(clock: VirtualClock, real: Any) -> SimpleNamespace:
    def monotonic() -> float:
        return real.monotonic() if clock.sequencer.here is None else _Instant(clock.monotonic())

    found = SimpleNamespace()
    vars(found).update(vars(real), monotonic=monotonic)
    return found


def _new_event_loop(
    clock: VirtualClock, real: Callable[[], asyncio.AbstractEventLoop]
) -> Callable[[], asyncio.AbstractEventLoop]:
    @functools.wraps(real)
    def new_event_loop() -> asyncio.AbstractEventLoop:
        return real() if clock.sequencer.here is None else clock.new_event_loop()

    return new_event_loop


def _check_loop(clock: VirtualClock) -> None:
    # The clock counts the thread of any other loop as running, so time would stand still.
    if clock.sequencer.here is not None:
        clock.require_loop("waiting for a task")


# Functions that wait, and the clocks by which they measure their timeouts.
_REPLACED: tuple[tuple[Any, str, Callable[[VirtualClock, Any], Any]], ...] = (
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
)

# Functions that start work on other threads, or wait for them to end.
_COUNTED: tuple[tuple[Any, str, Callable[[Sequencer, Any], Any]], ...] = (
    (threading.Thread, "start", _threads.start_on),
    (threading.Thread, "join", _threads.join_on),
)


def _refused(clock: VirtualClock, module: str, real: Callable[..., Any]) -> Callable[..., Any]:
    name = module.partition(".")[0]

    @functools.wraps(real)
    def start(self: Any) -> Any:  # Any: a class of time-machine or freezegun
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
    shown = clock.sequencer.now

    def follow() -> None:
        nonlocal shown
        now = clock.sequencer.now
        if now != shown:
            traveller.shift((now - shown) / 1e9)
            shown = now

    clock.sequencer.on_move = follow
    stack.callback(setattr, clock.sequencer, "on_move", None)
