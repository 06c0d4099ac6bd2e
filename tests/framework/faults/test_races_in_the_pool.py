"""Races of a pool's threads, each forced; the sequence stands in numbered steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
)
from framework._threads.pool_threads import PoolThread
from framework.testing import override_framework
from tests.framework.racing import Body, RacingClock, Turnstile, cancel
from tests.patience import PATIENCE

# -- a parking thread against the release


class LyingList(list[PoolThread]):
    """A list of parked threads that does something before or after one parks."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__()
        self._before = before
        self._after = after

    def append(self, thread: PoolThread) -> None:
        """Park a thread."""
        self._before()
        super().append(thread)
        self._after()


@pytest.mark.parametrize("released_first", [True, False])
def test_a_thread_parks_while_the_pool_is_released(released_first: bool) -> None:
    """A thread that is about to park when the pool is released still ends."""
    # 1 a thread finds no item and the pool open, 2 `release` closes it and wakes parked
    # threads, 3 the thread parks; or 1, 3, 2.
    pool = ThreadPoolExecutorEnhanced(1)
    crew = pool._crew

    def nothing() -> None:
        """Do nothing, for the other order."""

    crew.queue.parked = (
        LyingList(crew.release, nothing) if released_first else LyingList(nothing, crew.release)
    )
    thread = pool.submit(threading.current_thread).result(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_call_is_queued_while_a_thread_parks() -> None:
    """A call that is queued just before a thread parks is found by that thread or another."""
    # 1 the only thread has looked and found nothing, 2 a call wants to be queued and finds
    # no parked thread yet, 3 the thread parks, 4 the call is queued and wakes it. The lock
    # makes 2 wait for 3; without it the call would lie there for ever.
    pool = ThreadPoolExecutorEnhanced(1)
    crew = pool._crew
    submitting: list[Any] = []
    with ThreadPoolExecutor(1) as aside:

        def submit() -> None:
            if not submitting:
                submitting.append(aside.submit(pool.submit, lambda: "found"))

        crew.queue.parked = LyingList(submit, lambda: None)
        pool.submit(int).result(PATIENCE)
        pool.submit(int).result(PATIENCE)
        assert submitting[0].result(PATIENCE).result(PATIENCE) == "found"
    pool.shutdown()


# -- a pool's thread that waits, against what it waits for


@pytest.fixture
def one_thread(racing_clock: RacingClock) -> Iterator[TaskManager]:
    """Give a manager whose pool has one thread."""
    pool = ThreadPoolExecutorEnhanced(1, clock=racing_clock)
    with override_framework(clock=racing_clock, pool=pool) as manager:
        yield manager
    pool.shutdown()


class Outer:
    """A task that waits for another one by its id."""

    def __init__(self, manager: TaskManager) -> None:
        self.manager = manager
        self.target: str = ""
        self.started = threading.Event()
        self.go = threading.Event()
        self.thread = 0

    def __call__(self) -> Any:
        """Wait for the target, once it is known."""
        self.thread = threading.get_ident()
        self.started.set()
        assert self.go.wait(PATIENCE)
        return self.manager.wait_result(self.target)


@pytest.mark.parametrize("waits_first", [True, False])
async def test_a_staged_task_and_a_thread_that_waits_for_it(
    one_thread: TaskManager, waits_first: bool
) -> None:
    """The only thread, waiting for a task that is still staged on the loop, runs it."""
    # 1 the task is staged, 2 the thread looks for it in the queue, finds nothing and
    # waits, 3 the loop's turn queues it; or 1, 3, 2. The loop stands still until then.
    looked = Turnstile(one_thread._core.engine, "run_inline")
    looked.open.set()
    outer = Outer(one_thread)
    waiting = await one_thread.submit(outer)
    assert await asyncio.to_thread(outer.started.wait, PATIENCE)
    outer.target = one_thread.submit_nowait(threading.get_ident)
    if not waits_first:
        await asyncio.to_thread(int)
        assert one_thread.pool.get_stats()["queued"] == 1
    outer.go.set()
    if waits_first:
        assert looked.passed.wait(PATIENCE)
    assert await asyncio.wait_for(one_thread.get_result(waiting), PATIENCE) == outer.thread


@pytest.mark.parametrize("waits_first", [True, False])
def test_a_delayed_task_and_a_thread_that_waits_for_it(
    one_thread: TaskManager, racing_clock: RacingClock, waits_first: bool
) -> None:
    """The only thread, waiting for a delayed task, runs it when it falls due."""
    # 1 the task is delayed, 2 the thread looks for it in the queue, finds nothing and
    # waits, 3 the task falls due and is queued; or 1, 3, 2.
    looked = Turnstile(one_thread._core.engine, "run_inline")
    looked.open.set()
    outer = Outer(one_thread)
    waiting = one_thread.submit_nowait(outer)
    assert outer.started.wait(PATIENCE)
    outer.target = one_thread.submit_nowait(threading.get_ident, delay=5.0)
    if waits_first:
        outer.go.set()
        assert looked.passed.wait(PATIENCE)
        racing_clock.advance(5.0)
    else:
        racing_clock.advance(5.0)
        outer.go.set()
    assert one_thread.wait_result(waiting, timeout=None) == outer.thread


@pytest.mark.parametrize("due_first", [True, False])
def test_a_delayed_task_falls_due_while_it_is_cancelled(
    one_thread: TaskManager,
    racing_clock: RacingClock,
    aside: ThreadPoolExecutor,
    due_first: bool,
) -> None:
    """A delayed task that is cancelled around its due moment never runs, nor holds the clock."""
    # 1 the timer has fired and found the task pending, 2 the task is cancelled, 3 it is
    # handed to the engine; or 2 before 1.
    body = Body()
    gate = Turnstile(one_thread._core.runner, "launch")
    task_id = one_thread.submit_nowait(body, delay=5.0)
    if due_first:
        moving = aside.submit(racing_clock.advance, 5.0)
        gate.await_arrival()
        assert cancel(one_thread, task_id) is True
        gate.let_in()
        moving.result(PATIENCE)
    else:
        assert cancel(one_thread, task_id) is True
        racing_clock.advance(5.0)
    one_thread.pool.shutdown()
    assert (body.runs, racing_clock.held) == (0, 0)
    assert one_thread.get_stats()["delayed"] == 0


@pytest.mark.parametrize("inline_first", [True, False])
def test_a_future_is_claimed_inline_while_a_thread_takes_it(inline_first: bool) -> None:
    """A queued call that its waiter and a free thread both want runs once, and is waited for."""
    # 1 a call waits for a queued one, 2 it claims it, 3 a thread becomes free and finds
    # nothing; or 1, 3 the thread takes it, 2 the claim finds nothing.
    pool = ThreadPoolExecutorEnhanced(2)
    claim = Turnstile(pool._crew, "run_inline")
    busy, inner = Body(), Body()
    inner.gate.set()
    pool.submit(busy)
    assert busy.started.wait(PATIENCE)
    queued: list[Any] = []
    ready = threading.Event()

    def outer() -> tuple[int, str]:
        queued.append(pool.submit(inner))
        ready.set()
        return threading.get_ident(), queued[0].result()

    future = pool.submit(outer)
    assert ready.wait(PATIENCE)
    claim.await_arrival()
    if inline_first:
        claim.let_in()
        here, result = future.result(PATIENCE)
        busy.gate.set()
        assert inner.thread == here
    else:
        busy.gate.set()
        assert inner.started.wait(PATIENCE)
        claim.let_in()
        here, result = future.result(PATIENCE)
        assert inner.thread != here
    pool.shutdown()
    assert (result, inner.runs) == ("result", 1)


@pytest.mark.parametrize("inline_first", [True, False])
def test_a_task_is_claimed_inline_while_a_thread_takes_it(
    one_thread: TaskManager, inline_first: bool
) -> None:
    """A queued task that its waiter and a free thread both want runs once, and is waited for."""
    # As for futures above.
    pool = one_thread.pool
    pool._crew.max_workers = 2
    claim = Turnstile(pool._crew, "run_inline")
    busy, inner, outer = Body(), Body(), Outer(one_thread)
    inner.gate.set()
    one_thread.submit_nowait(busy)
    waiting = one_thread.submit_nowait(outer)
    assert busy.started.wait(PATIENCE)
    assert outer.started.wait(PATIENCE)
    outer.target = one_thread.submit_nowait(inner)
    outer.go.set()
    claim.await_arrival()
    if inline_first:
        claim.let_in()
        assert one_thread.wait_result(waiting) == "result"
        busy.gate.set()
        assert inner.thread == outer.thread
    else:
        busy.gate.set()
        assert inner.started.wait(PATIENCE)
        claim.let_in()
        assert one_thread.wait_result(waiting) == "result"
        assert inner.thread != outer.thread
    assert inner.runs == 1


# -- a burst against threads that park


class TellingList(list[Any]):
    """Tells when so many have been put into it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.full = threading.Event()
        self._count = count

    def append(self, item: Any) -> None:
        """Put something in, and tell."""
        super().append(item)
        if len(self) == self._count:
            self.full.set()


def test_a_burst_over_idle_threads_has_a_thread_for_each_call() -> None:
    """An idle thread that is to come for one call is not counted on for the next one too."""
    for _ in range(20):
        with ThreadPoolExecutorEnhanced(3) as pool:
            parked = pool._crew.queue.parked = TellingList(2)
            two, three = threading.Barrier(2), threading.Barrier(3)
            for call in [pool.submit(two.wait, PATIENCE) for _ in range(2)]:
                call.result()
            assert parked.full.wait(PATIENCE)
            burst = [pool.submit(three.wait, PATIENCE) for _ in range(3)]
            assert sorted(call.result() for call in burst) == [0, 1, 2]


# -- a thread that cannot be started


class TellingGate:
    """The gate of a thread, which tells when the thread has come to wait at it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._lock.acquire()

    def acquire(self) -> bool:
        """Tell, and wait."""
        self.reached.set()
        return self._lock.acquire()

    def release(self) -> None:
        """Let the thread go on."""
        self._lock.release()


def test_a_thread_parks_while_another_one_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was meant for a thread that cannot start is run by one that has parked."""
    # 1 a call is taken off the queue for a new thread, 2 the only other thread finds the queue
    # empty and parks, 3 the new thread cannot be started, and the call is queued again.
    gate, ended, go_on = TellingGate(), threading.Event(), threading.Event()

    class Refused(PoolThread):
        """A thread that can be started if it is the first one."""

        def start(self) -> None:
            """Start, or wait until the first one has parked and refuse."""
            if ended.is_set():
                go_on.set()
                assert gate.reached.wait(PATIENCE)
                raise RuntimeError("can't start new thread")
            monkeypatch.setattr(self, "gate", gate)
            super().start()

        def count(self) -> None:
            """Count the first call, and wait until the next one is on its way."""
            super().count()
            ended.set()
            assert go_on.wait(PATIENCE)

    with ThreadPoolExecutorEnhanced(2) as pool:
        monkeypatch.setattr(pool._crew, "thread_type", Refused)
        pool.submit(int)
        assert ended.wait(PATIENCE)
        assert pool.submit(int).result(PATIENCE) == 0
