"""Races, each forced in both orders; the sequence stands in numbered steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from framework import (
    FrameworkNotStartedError,
    QueueFullError,
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    get_task_manager,
    setup_async_framework,
)
from framework._running.throttle import Gate, Gates, throttle_policy
from framework._tasks.live import LiveTask, Waiter
from framework._threads.pool_threads import PoolThread
from framework.protocols import Interceptor, TaskRecord
from framework.stores.memory import MemoryStore
from framework.testing import override_framework
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock
from tests.patience import PATIENCE

FINAL = {"completed", "failed", "timed_out", "cancelled", "interrupted"}


class RacingClock(VirtualClock):
    """A clock beside the production pool: it fires while threads work, so that they race.

    Attributes:
        held: How many calls of `hold` have not been given back.
    """

    def __init__(self) -> None:
        super().__init__(Sequencer())
        self._changed = threading.Condition()
        self.held = 0

    def hold(self) -> None:
        """Count one piece of work that is about to be queued."""
        with self._changed:
            self.held += 1

    def release(self) -> None:
        """Count one piece of work as done."""
        with self._changed:
            self.held -= 1
            self._changed.notify_all()

    def wait_until_released(self) -> None:
        """Block until everything that was queued has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.held == 0, PATIENCE)


@pytest.fixture
def racing_clock() -> RacingClock:
    """Give a clock that waits for no thread."""
    return RacingClock()


@pytest.fixture
def task_manager(racing_clock: RacingClock) -> Iterator[TaskManager]:
    """Give a manager on the production pool, in place of the plugin's with its own one."""
    with override_framework(clock=racing_clock) as manager:
        yield manager


class Turnstile:
    """Stands before a method: a call that `concerns` it says so and waits to be let in."""

    def __init__(
        self, target: Any, name: str, concerns: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        self.arrived = threading.Event()
        self.open = threading.Event()
        self.passed = threading.Event()
        self._method = getattr(target, name)
        self._concerns = concerns
        setattr(target, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, when the way is open."""
        if not self._concerns(*args, **kwargs):
            return self._method(*args, **kwargs)
        self.arrived.set()
        assert self.open.wait(PATIENCE)
        try:
            return self._method(*args, **kwargs)
        finally:
            self.passed.set()

    def await_arrival(self) -> None:
        """Block until a call stands before the turnstile."""
        assert self.arrived.wait(PATIENCE)

    def let_in(self) -> None:
        """Let every call in, and wait until one is through."""
        self.open.set()
        assert self.passed.wait(PATIENCE)


class Body:
    """A task's function that runs until it is let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.runs = 0
        self.thread = 0

    def __call__(self) -> str:
        """Say that it runs, and wait."""
        self.runs += 1
        self.thread = threading.get_ident()
        self.started.set()
        assert self.gate.wait(PATIENCE)
        return "result"


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Give threads that have nothing to do with the framework."""
    with ThreadPoolExecutor(4) as threads:
        yield threads


def ends_of(manager: TaskManager) -> list[str]:
    """Return a list that fills with the kinds of final events."""
    ends: list[str] = []
    manager.subscribe(lambda event: ends.append(event.kind) if event.kind in FINAL else None)
    return ends


def heard(manager: TaskManager, kind: str) -> threading.Event:
    """Return an event that is set when the manager tells of *kind*."""
    told = threading.Event()
    manager.subscribe(lambda event: told.set() if event.kind == kind else None)
    return told


def status_of(manager: TaskManager, task_id: str) -> TaskStatus:
    """Return a task's status, from any thread."""
    return TaskStatus(str(manager.get_all_tasks()[task_id]["status"]))


def cancel(manager: TaskManager, task_id: str) -> bool:
    """Cancel a task from a thread without a loop."""
    return asyncio.run(manager.cancel_task(task_id))


# -- result against limit


def test_the_limit_comes_before_the_result(
    task_manager: TaskManager, racing_clock: RacingClock
) -> None:
    """A body that returned, but whose limit is decided first, is TIMEOUT and stays so."""
    # 1 the body returns, 2 the limit passes and is decided, 3 the result is refused.
    ledger = task_manager._core.ledger
    gate = Turnstile(ledger, "end", lambda _, move, *__, **___: move == "complete")
    ends, late = ends_of(task_manager), heard(task_manager, "late_result")
    task_id = task_manager.submit_nowait(lambda: 7, timeout=1.0)
    gate.await_arrival()
    racing_clock.advance(1.0)
    gate.let_in()
    assert late.wait(PATIENCE)
    with pytest.raises(TaskTimeoutError):
        task_manager.wait_result(task_id)
    assert ends == ["timed_out"]
    assert status_of(task_manager, task_id) is TaskStatus.TIMEOUT


def test_the_result_comes_before_the_limit(
    task_manager: TaskManager, racing_clock: RacingClock, aside: ThreadPoolExecutor
) -> None:
    """A limit that has begun to fire, but is decided second, changes nothing."""
    # 1 the limit fires, 2 the body returns and is decided, 3 the limit is refused.
    ledger = task_manager._core.ledger
    body, ends = Body(), ends_of(task_manager)
    gate = Turnstile(ledger, "end", lambda _, move, *__, **___: move == "time_out")
    task_id = task_manager.submit_nowait(body, timeout=1.0)
    assert body.started.wait(PATIENCE)
    moving = aside.submit(racing_clock.advance, 1.0)
    gate.await_arrival()
    body.gate.set()
    assert task_manager.wait_result(task_id) == "result"
    gate.let_in()
    moving.result(PATIENCE)
    assert ends == ["completed"]
    assert task_manager.wait_result(task_id) == "result"
    assert "late_results" not in task_manager.get_stats()


# -- cancel against start


def test_the_cancellation_comes_before_the_start(task_manager: TaskManager) -> None:
    """A task that a thread has taken, but that is cancelled before it starts, never runs."""
    # 1 a thread takes the task, 2 it is cancelled, 3 the thread may not start it.
    gate = Turnstile(task_manager._core.ledger, "start")
    body, ends = Body(), ends_of(task_manager)
    task_id = task_manager.submit_nowait(body)
    gate.await_arrival()
    assert cancel(task_manager, task_id) is True
    gate.let_in()
    task_manager.pool.shutdown()
    assert (body.runs, ends) == (0, ["cancelled"])


def test_the_start_comes_before_the_cancellation(
    task_manager: TaskManager, aside: ThreadPoolExecutor
) -> None:
    """A cancellation that found the task pending, but is decided after its start, is False."""
    # 1 the cancellation has seen a live task, 2 the task starts, 3 the cancellation is
    # refused as a pending one and only noted.
    ledger = task_manager._core.ledger
    starting = Turnstile(ledger, "start")
    gate = Turnstile(ledger, "end", lambda _, move, *__, **___: move == "cancel")
    body, ends = Body(), ends_of(task_manager)
    task_id = task_manager.submit_nowait(body)
    cancelling = aside.submit(cancel, task_manager, task_id)
    gate.await_arrival()
    starting.let_in()
    assert body.started.wait(PATIENCE)
    gate.let_in()
    assert cancelling.result(PATIENCE) is False
    body.gate.set()
    assert task_manager.wait_result(task_id) == "result"
    assert ends == ["completed"]
    assert task_manager.get_all_tasks()[task_id]["cancel_requested"] is True


async def test_a_coroutine_is_cancelled_before_its_first_step(task_manager: TaskManager) -> None:
    """A coroutine whose asyncio task exists, but has not begun, never runs once cancelled."""
    # 1 the loop's turn makes the asyncio task, 2 a callback of the same turn cancels the
    # task, 3 the asyncio task makes its first step.
    runs: list[int] = []

    async def body() -> None:
        runs.append(1)

    core = task_manager._core
    task_id = task_manager.submit_nowait(body)
    task = core.ledger.find(task_id)
    assert isinstance(task, LiveTask)
    seen: list[tuple[bool, bool]] = []

    def cancel_it() -> None:
        seen.append((task.driver is not None, core.intake.cancel_pending(task, "cancelled")))

    asyncio.get_running_loop().call_soon(cancel_it)
    with pytest.raises(TaskCancelledError):
        await task_manager.get_result(task_id)
    assert seen == [(True, True)]
    assert runs == []


# -- what is cancelled before it is queued


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_the_clock_is_let_go_by_a_task_cancelled_while_it_is_queued(
    task_manager: TaskManager,
    racing_clock: RacingClock,
    aside: ThreadPoolExecutor,
    cancelled_first: bool,
) -> None:
    """A task cancelled before or after it reaches the engine gives back its hold of the clock."""
    # 1 the task is accepted, 2 it is cancelled, 3 it is held and handed to the engine; or
    # 1, 3, 2 while the only thread is busy.
    task_manager.pool._crew.max_workers = 1
    busy = Body()
    task_manager.submit_nowait(busy)
    assert busy.started.wait(PATIENCE)
    runner = task_manager._core.runner
    gate = Turnstile(runner, "launch")
    submitting = aside.submit(task_manager.submit_nowait, int, task_id="mine")
    gate.await_arrival()
    if cancelled_first:
        assert cancel(task_manager, "mine")
        gate.let_in()
    else:
        gate.let_in()
        assert cancel(task_manager, "mine")
    assert submitting.result(PATIENCE) == "mine"
    busy.gate.set()
    racing_clock.wait_until_released()
    task_manager.pool.shutdown()
    assert racing_clock.held == 0


# -- submit against shutdown


async def test_the_shutdown_comes_before_the_submission(aside: ThreadPoolExecutor) -> None:
    """A submission that has begun, but is decided after the shutdown, is refused."""
    # 1 a thread submits, 2 the framework stops, 3 the task is to be accepted.
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        manager = get_task_manager()
        gate = Turnstile(manager._core.ledger, "add")
        submitting = aside.submit(manager.submit_nowait, int)
        gate.await_arrival()
    gate.let_in()
    with pytest.raises(FrameworkNotStartedError):
        submitting.result(PATIENCE)
    assert manager.get_stats()["submitted"] == 0


async def test_the_shutdown_comes_between_acceptance_and_queue(
    aside: ThreadPoolExecutor,
) -> None:
    """A task that is accepted, but not queued when the framework stops, ends CANCELLED."""
    # 1 a thread's task is accepted, 2 the framework stops and ends what is pending, 3 the
    # task reaches the engine.
    body = Body()
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        manager = get_task_manager()
        gate = Turnstile(manager._core.engine, "start")
        submitting = aside.submit(manager.submit_nowait, body)
        gate.await_arrival()
    gate.let_in()
    task_id = submitting.result(PATIENCE)
    with pytest.raises(TaskCancelledError):
        await manager.get_result(task_id)
    assert body.runs == 0


async def test_the_submission_comes_before_the_shutdown() -> None:
    """A task that was accepted before the framework stops is waited for and COMPLETED."""
    # 1 the task is accepted, still staged on the loop, 2 the framework stops.
    async with setup_async_framework(None, graceful_shutdown_timeout=PATIENCE):
        manager = get_task_manager()
        task_id = manager.submit_nowait(lambda: 7)
    assert await manager.get_result(task_id) == 7


def test_a_bare_submission_against_the_pools_shutdown() -> None:
    """A call that is queued before the pool shuts down runs; one that comes after is refused."""
    # 1 a thread is about to queue, 2 the pool shuts down, 3 it queues; then the other way.
    pool = ThreadPoolExecutorEnhanced(1)
    before = pool.submit(lambda: 7)
    gate = Turnstile(pool._crew, "put")
    with ThreadPoolExecutor(1) as aside:
        after = aside.submit(pool.submit, int)
        gate.await_arrival()
        pool.shutdown()
        gate.let_in()
        assert isinstance(after.exception(PATIENCE), RuntimeError)
    assert before.result(0) == 7


# -- waiter against completion


@pytest.mark.parametrize("registered_first", [True, False])
def test_a_thread_waits_while_the_task_completes(
    task_manager: TaskManager, aside: ThreadPoolExecutor, registered_first: bool
) -> None:
    """A thread that begins to wait just before or just after the end gets the result."""
    # 1 the waiter finds the task live, 2 it registers, 3 the task ends; or 1, 3, 2.
    body, ended = Body(), heard(task_manager, "completed")
    gate = Turnstile(task_manager._core.ledger, "register")
    task_id = task_manager.submit_nowait(body)
    waiting = aside.submit(task_manager.wait_result, task_id)
    gate.await_arrival()
    if registered_first:
        gate.let_in()
        body.gate.set()
    else:
        body.gate.set()
        assert ended.wait(PATIENCE)
        gate.let_in()
    assert waiting.result(PATIENCE) == "result"


@pytest.mark.parametrize("registered_first", [True, False])
async def test_a_coroutine_waits_while_the_task_completes(
    task_manager: TaskManager, registered_first: bool
) -> None:
    """A coroutine gets the result though the task ends around its registration."""
    # 1 the waiter finds the task live, 2 it registers, 3 the task ends, 4 it suspends; or
    # 1, 3, 2. The loop stands still meanwhile, so nothing else can come in between.
    body, ended = Body(), heard(task_manager, "completed")
    register = task_manager._core.ledger.register

    def end() -> None:
        body.gate.set()
        assert ended.wait(PATIENCE)

    def lying_register(task: LiveTask, waiter: Waiter) -> bool:
        if not registered_first:
            end()
        registered = register(task, waiter)
        if registered_first:
            end()
        return registered

    task_manager._core.ledger.register = lying_register  # type: ignore[method-assign]
    task_id = await task_manager.submit(body)
    assert await asyncio.to_thread(body.started.wait, PATIENCE)
    assert await asyncio.wait_for(task_manager.get_result(task_id), PATIENCE) == "result"


# -- late result against eviction


@pytest.mark.parametrize("evicted_first", [True, False])
def test_a_late_result_meets_the_eviction(
    task_manager: TaskManager, racing_clock: RacingClock, evicted_first: bool
) -> None:
    """A late result neither brings an evicted task back nor hinders its eviction."""
    # 1 the task is TIMEOUT, 2 it is evicted, 3 its thread returns; or 1, 3, 2.
    body, ends = Body(), ends_of(task_manager)
    late = heard(task_manager, "late_result")
    task_id = task_manager.submit_nowait(body, timeout=1.0)
    assert body.started.wait(PATIENCE)
    racing_clock.advance(1.0)
    with pytest.raises(TaskTimeoutError):
        task_manager.wait_result(task_id)
    if evicted_first:
        assert task_manager.cleanup_completed_tasks(0) == 1
    body.gate.set()
    assert late.wait(PATIENCE)
    if not evicted_first:
        assert task_manager.cleanup_completed_tasks(0) == 1
    assert asyncio.run(task_manager.get_task(task_id)) is None
    stats = task_manager.get_stats()
    assert (stats["timeout"], stats["late_results"], stats["evicted"], stats["kept"]) == (
        1,
        1,
        1,
        0,
    )
    assert ends == ["timed_out"]


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

    crew._parked = (
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

        crew._parked = LyingList(submit, lambda: None)
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
    task_manager: TaskManager, inline_first: bool
) -> None:
    """A queued task that its waiter and a free thread both want runs once, and is waited for."""
    # As for futures above.
    pool = task_manager.pool
    pool._crew.max_workers = 2
    claim = Turnstile(pool._crew, "run_inline")
    busy, inner, outer = Body(), Body(), Outer(task_manager)
    inner.gate.set()
    task_manager.submit_nowait(busy)
    waiting = task_manager.submit_nowait(outer)
    assert busy.started.wait(PATIENCE)
    assert outer.started.wait(PATIENCE)
    outer.target = task_manager.submit_nowait(inner)
    outer.go.set()
    claim.await_arrival()
    if inline_first:
        claim.let_in()
        assert task_manager.wait_result(waiting) == "result"
        busy.gate.set()
        assert inner.thread == outer.thread
    else:
        busy.gate.set()
        assert inner.started.wait(PATIENCE)
        claim.let_in()
        assert task_manager.wait_result(waiting) == "result"
        assert inner.thread != outer.thread
    assert inner.runs == 1


# -- a throttle's gate against its retirement


class LyingGates(Gates):
    """Gates that do something between finding a gate and using it."""

    __slots__ = ("between",)

    between: Callable[[], None]

    def _of(self, key: Any, monotonic: Callable[[], float]) -> Gate:
        gate = super()._of(key, monotonic)
        between, self.between = self.between, lambda: None
        between()
        return gate


def lying_gates(clock: VirtualClock, between: Callable[[LyingGates], None]) -> LyingGates:
    """Return gates for one call in 10 s whose only gate has become idle."""
    policy = throttle_policy("f", rate_limit=1, time_window=10.0, when_limited="raise", key=str)
    gates = LyingGates(policy)
    gates.between = lambda: None
    assert gates.take("key", clock.monotonic) is None
    clock.advance(10.0)
    gates.between = lambda: between(gates)
    return gates


def test_a_gate_retires_before_it_is_used(racing_clock: RacingClock) -> None:
    """A call that found a gate which is dropped before use is counted by the fresh one."""
    # 1 a call finds the gate, 2 the gate is retired and dropped, 3 the call is counted.
    gates = lying_gates(racing_clock, lambda it: it._purge(racing_clock.monotonic()))
    assert gates.take("key", racing_clock.monotonic) is None
    assert gates.take("key", racing_clock.monotonic) == racing_clock.monotonic() + 10.0
    assert len(gates) == 1


def test_a_gate_is_used_before_it_retires(racing_clock: RacingClock) -> None:
    """A gate that has just counted a call is not dropped, so the limit still holds."""
    # 1 a call finds the gate, 2 the call is counted, 3 the gate is to be retired.
    gates = lying_gates(racing_clock, lambda _: None)
    assert gates.take("key", racing_clock.monotonic) is None
    gates._purge(racing_clock.monotonic())
    assert gates.take("key", racing_clock.monotonic) == racing_clock.monotonic() + 10.0
    assert len(gates) == 1


def test_a_gate_is_to_retire_while_a_call_holds_its_slot() -> None:
    """A gate whose only slot a call has just taken out is not retired, and the call counts."""
    # 1 the call takes the slot out, 2 the gate is to be retired, 3 the slot is put back.
    gate = Gate(1, 10.0)
    assert gate.take(lambda: 0.0) is None
    retired: list[bool] = []

    def meanwhile() -> float:
        retired.append(gate.retire(20.0))
        return 20.0

    assert gate.take(meanwhile) is None
    assert retired == [False]
    assert gate.take(lambda: 20.0) == 30.0


def test_two_refused_calls_put_their_slots_back_the_wrong_way_round() -> None:
    """The slots are in order again, so the next call is let pass by the older one."""
    # 1 a call takes the older slot out, 2 another the younger one, 3 the first puts its own
    # back, 4 so does the second, in front of it.
    gate = Gate(2, 10.0)
    assert gate.take(lambda: 0.0) is None
    assert gate.take(lambda: 1.0) is None
    holds, go_on = threading.Event(), threading.Event()
    due: list[float | None] = []

    def held_up() -> float:
        holds.set()
        assert go_on.wait(PATIENCE)
        return 5.0

    first = threading.Thread(target=lambda: due.append(gate.take(held_up)))
    first.start()
    assert holds.wait(PATIENCE)

    def overtaken() -> float:
        go_on.set()
        first.join(PATIENCE)
        return 5.0

    due.append(gate.take(overtaken))
    assert due == [10.0, 10.0]
    assert gate.take(lambda: 10.0) is None
    assert gate.take(lambda: 10.0) == 11.0


# -- one chosen id, submitted twice


class SubmitsMeanwhile(MemoryStore):
    """A store that, asked for an id, has another submission of it tried first."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = None

    def get(self, task_id: str) -> TaskRecord | None:
        """Look the id up, after what is to come in between."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().get(task_id)


def test_of_two_submissions_of_one_id_one_is_accepted() -> None:
    """A chosen id that is being submitted is in use, though no task has it yet."""
    store = SubmitsMeanwhile()
    refused: list[ValueError] = []

    def submit_again() -> None:
        # 1 the first submission finds no live task of the id, 2 this one comes, 3 the
        # first looks into the store. Accepted at 2, this one's task could end before 3.
        with pytest.raises(ValueError, match=r"^task_id must be one that no task has") as info:
            manager.submit_nowait(int, task_id="mine")
        refused.append(info.value)

    with override_framework(store=store) as manager:
        store.meanwhile = submit_again
        task_id = manager.submit_nowait(int, task_id="mine")
        assert manager.wait_result(task_id, PATIENCE) == 0
        assert len(refused) == 1
        with pytest.raises(ValueError, match=r"^task_id must be one that no task has"):
            manager.submit_nowait(int, task_id="mine")


def test_a_refused_submission_gives_its_id_back() -> None:
    """An id whose submission was refused is free again."""

    class RefusesOnce(Interceptor):
        refused = False

        def before_accept(self, record: TaskRecord) -> None:
            if not self.refused:
                self.refused = True
                raise QueueFullError(1)

    with override_framework(interceptor=RefusesOnce()) as manager:
        with pytest.raises(QueueFullError):
            manager.submit_nowait(int, task_id="mine")
        assert manager.submit_nowait(int, task_id="mine") == "mine"


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
            parked = pool._crew._parked = TellingList(2)
            two, three = threading.Barrier(2), threading.Barrier(3)
            for call in [pool.submit(two.wait, PATIENCE) for _ in range(2)]:
                call.result()
            assert parked.full.wait(PATIENCE)
            burst = [pool.submit(three.wait, PATIENCE) for _ in range(3)]
            assert sorted(call.result() for call in burst) == [0, 1, 2]
