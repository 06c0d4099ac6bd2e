"""Races of tasks, each forced in both orders; the sequence stands in numbered steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

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
from framework._tasks.live import Home, LiveTask, Waiter
from framework.protocols import Interceptor, TaskRecord
from framework.stores.memory import MemoryStore
from framework.testing import override_framework
from tests.framework.racing import Body, RacingClock, Turnstile, cancel, ends_of, heard, status_of
from tests.framework.running.held import HeldEngine, submitted
from tests.framework.running.messages import CANCELLED, QUEUE_FULL, STOPPED, TIMED_OUT
from tests.patience import PATIENCE


@pytest.fixture
def task_manager(racing_clock: RacingClock) -> Iterator[TaskManager]:
    """Give a manager on the production pool, in place of the plugin's with its own one."""
    with override_framework(clock=racing_clock) as manager:
        yield manager


# -- result against limit


def test_the_limit_comes_before_the_result(
    task_manager: TaskManager, racing_clock: RacingClock
) -> None:
    """A body that returned, but whose limit is decided first, is TIMEOUT and stays so."""
    # 1 the body returns, 2 the limit passes and is decided, 3 the result is refused.
    ledger = task_manager._core.ledger
    gate = Turnstile(ledger, "end", lambda _, move, *__, **___: move is TaskStatus.COMPLETED)
    ends, late = ends_of(task_manager), heard(task_manager, "late_result")
    task_id = task_manager.submit_nowait(lambda: 7, timeout=1.0)
    gate.await_arrival()
    racing_clock.advance(1.0)
    gate.let_in()
    assert late.wait(PATIENCE)
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
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
    gate = Turnstile(ledger, "end", lambda _, move, *__, **___: move is TaskStatus.TIMEOUT)
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
    gate = Turnstile(ledger, "end", lambda _, move, *__, **___: move is TaskStatus.CANCELLED)
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
        seen.append((task.driver is not None, core.runner.cancel_pending(task, "cancelled")))

    asyncio.get_running_loop().call_soon(cancel_it)
    with pytest.raises(TaskCancelledError, match=CANCELLED):
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
    with pytest.raises(FrameworkNotStartedError, match=STOPPED):
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
    with pytest.raises(TaskCancelledError, match=CANCELLED):
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
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
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


def test_a_home_is_added_while_a_task_is_submitted(aside: ThreadPoolExecutor) -> None:
    """A task that is submitted while its home is being added is found by its id."""
    # 1 a thread adds a home and is held up before the ledger knows it, 2 another one submits a
    # task, 3 it asks for the task.
    with override_framework() as manager:
        core = manager._core
        adding = Turnstile(core.ledger, "add_home", lambda home: home.app == "app")
        home = Home(core, "app", None)
        added = aside.submit(core.intake.add_home, home)
        adding.await_arrival()
        body = Body()
        task_id = manager.submit_nowait(body)
        assert task_id in manager.get_all_tasks()
        body.gate.set()
        adding.let_in()
        added.result(PATIENCE)
        assert core.intake.homes[0] is home


def test_of_two_submissions_of_one_id_one_is_accepted() -> None:
    """A chosen id that is being submitted is in use, though no task has it yet."""
    store = SubmitsMeanwhile()
    refused: list[ValueError] = []

    def submit_again() -> None:
        # 1 the first submission finds no live task of the id, 2 this one comes, 3 the
        # first looks into the store. Accepted at 2, this one's task could end before 3.
        with pytest.raises(
            ValueError,
            match=r"^task_id must be one that no task has, not 'mine': choose another, or "
            r"leave it out for a random one$",
        ) as info:
            manager.submit_nowait(int, task_id="mine")
        refused.append(info.value)

    with override_framework(store=store) as manager:
        store.meanwhile = submit_again
        task_id = manager.submit_nowait(int, task_id="mine")
        assert manager.wait_result(task_id, PATIENCE) == 0
        assert len(refused) == 1
        with pytest.raises(
            ValueError,
            match=r"^task_id must be one that no task has, not 'mine': choose another, or "
            r"leave it out for a random one$",
        ):
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
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            manager.submit_nowait(int, task_id="mine")
        assert manager.submit_nowait(int, task_id="mine") == "mine"


def test_two_threads_are_to_pack_the_finished_tasks() -> None:
    """Of two threads that find many finished tasks at once, one packs them, and all are found."""
    # 1 a thread finds enough to pack, 2 another one packs it, 3 the first gets the lock.
    store = MemoryStore()
    packed: list[int] = []

    class Overtaken:
        """The store's lock, before which another thread comes."""

        def __init__(self) -> None:
            self.inner = store._lock

        def __enter__(self) -> None:
            store._lock = self.inner
            store._pack()
            packed.append(len(store._latest))
            self.inner.acquire()

        def __exit__(self, *_: object) -> None:
            self.inner.release()

    with override_framework(engine=HeldEngine(), store=store, nested=True) as manager:
        ids = []
        for number in range(512):
            task = submitted(manager)
            ids.append(task.task_id)
            if number == 511:
                store._lock = Overtaken()  # type: ignore[assignment]  # for one packing
            manager._core.ledger.start(task, 1.0)
            manager._core.ledger.end(task, TaskStatus.COMPLETED, 2.0, number)
        results = [manager.wait_result(task_id) for task_id in ids]

    assert packed == [len(store._latest)] == [256]
    assert results == list(range(512))
