"""How the manager handles what a remote engine and a shared store report about tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import Any

import pytest

from framework import (
    FrameworkNotStartedError,
    Task,
    TaskCancelledError,
    TaskInterruptedError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.hosting import host as _host
from framework._manager.hosting.host import RemoteHost
from framework._records.ids import random_id
from framework._records.records import Heading, TaskEvent, TaskRecord
from framework._tasks.places import PlaceRequest
from framework.exceptions import BrokerUnavailableError
from framework.protocols import EngineHost, EngineTask, Kind, Run
from tests.framework.faults.refusals import said_by
from tests.framework.running.messages import CANCELLED, INTERRUPTED, NOT_STARTED, STOPPED
from tests.patience import PATIENCE


class Workers:
    """A remote engine whose workers the test plays.

    Attributes:
        host: Where it reports on its tasks.
        started: The ids that were given to it, in order.
        records: What `fetch` knows.
        fault: What `open` and `admit` raise; None for nothing.
    """

    host: EngineHost

    def __init__(self) -> None:
        self.started: list[str] = []
        self.records: dict[str, TaskRecord] = {}
        self.fault: Exception | None = None
        self.forgotten: list[str] = []
        self.closed = 0

    def open(self, host: EngineHost) -> None:
        """Begin."""
        if self.fault is not None:
            raise self.fault
        self.host = host

    def close(self, patience: float) -> None:
        """Leave."""
        self.closed += 1

    def admit(self, task: EngineTask) -> None:
        """Refuse, if the test says so."""
        if self.fault is not None:
            raise self.fault

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Take a task in."""
        self.started.append(task.task_id)

    def withdraw(self, task: EngineTask) -> None:
        """Forget it."""

    def abandon(self, task: EngineTask) -> None:
        """Do nothing."""

    def run_inline(self, task: EngineTask) -> bool:
        """Run nothing here."""
        return False

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what the test has written down."""
        return [self.records[one] for one in task_ids if one in self.records]

    def forget(self, task_ids: Collection[str]) -> None:
        """Note what is forgotten."""
        self.forgotten += task_ids

    def request_cancel(self, task_id: str) -> bool:
        """Cancel at the broker."""
        self.host.ended(task_id, TaskStatus.CANCELLED, self.host.clock.time(), reason="asked")
        return True


@background_task(timeout=5)
def work(number: int) -> int:
    """Never run here."""
    raise AssertionError(number)


@async_task
async def awaited(number: int) -> int:
    """Never run here either."""
    raise AssertionError(number)


@pytest.fixture
def workers() -> Workers:
    """An engine whose workers the test plays."""
    return Workers()


@pytest.fixture
async def manager(workers: Workers) -> AsyncIterator[TaskManager]:
    """The manager of a framework that uses that engine."""
    async with setup_async_framework(None, engine=workers):
        yield get_task_manager()


@pytest.fixture
def host(workers: Workers, manager: TaskManager) -> RemoteHost:
    """Where the engine reports on its tasks."""
    assert isinstance(workers.host, RemoteHost)
    return workers.host


async def status(manager: TaskManager, task_id: str) -> TaskStatus:
    """Return the status of a known task."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task.status


# -- what an engine reports


async def test_whole_life(manager: TaskManager, host: RemoteHost, workers: Workers) -> None:
    """The engine's reports take a task from PENDING to its end."""
    heard: list[str] = []
    manager.subscribe(lambda event: heard.append(event.kind))
    task_id = work(1)
    assert workers.started == [task_id]
    host.waiting(task_id, "the broker is away")
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.reason) == (TaskStatus.PENDING, "the broker is away")
    now = host.clock.time()
    host.started(task_id, now, 1)
    host.progress(task_id, 0.5, "half")
    host.announce(task_id, "retrying", 0.1, ValueError("once"))
    host.started(task_id, now, 2)
    host.ended(task_id, TaskStatus.COMPLETED, now, result=7, attempts=2)
    assert await manager.get_result(task_id) == 7
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.attempts, task.progress, task.reason) == (2, 0.5, "")
    assert heard == ["submitted", "started", "progress", "retrying", "completed"]
    assert manager.get_stats()["retrying"] == 1


async def test_asked_elsewhere(manager: TaskManager, host: RemoteHost, workers: Workers) -> None:
    """A task that another process has asked to cancel shows it, and then what came of it."""
    task_id = work(1)
    host.started(task_id, host.clock.time(), 1)
    assert manager.get_all_tasks()[task_id]["cancel"] is None
    for _ in range(2):
        host.asked_to_cancel(task_id)
        assert manager.get_all_tasks()[task_id]["cancel"] == "asked"
    host.ended(task_id, TaskStatus.COMPLETED, host.clock.time(), result=7, attempts=1)
    host.asked_to_cancel(task_id)
    assert manager.get_all_tasks()[task_id]["cancel"] == "cannot"


async def test_end_without_a_start(manager: TaskManager, host: RemoteHost) -> None:
    """A task that ends without a reported start counts as started."""
    task_id = work(1)
    host.ended(task_id, TaskStatus.COMPLETED, host.clock.time(), result=1)
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.attempts, task.duration) == (TaskStatus.COMPLETED, 1, 0.0)


OTHER_ENDS: dict[str, tuple[TaskStatus, BaseException | None, str]] = {
    "failed": (TaskStatus.FAILED, KeyError("k"), "KeyError: 'k'"),
    "failed, untold": (
        TaskStatus.FAILED,
        None,
        "RemoteTaskError: unknown: its error was not reported",
    ),
    "timeout": (
        TaskStatus.TIMEOUT,
        TaskTimeoutError("i", "n", 6.0),
        "TaskTimeoutError: task 'i' (n) ran past its time limit of 6 s",
    ),
    "timeout, untold": (
        TaskStatus.TIMEOUT,
        None,
        "TaskTimeoutError: {who} ran past its time limit of 5 s",
    ),
    "cancelled": (TaskStatus.CANCELLED, None, "TaskCancelledError: {who} was cancelled"),
    "interrupted": (
        TaskStatus.INTERRUPTED,
        None,
        "TaskInterruptedError: {who} was interrupted before it could end; it may have run in part",
    ),
}


async def test_other_ends(manager: TaskManager, host: RemoteHost) -> None:
    """Every other end raises the error of its kind, whether or not the engine reports one."""
    wrong = {}
    for case, (end, error, text) in OTHER_ENDS.items():
        task_id = work(1)
        host.started(task_id, host.clock.time(), 1)
        host.ended(task_id, end, host.clock.time(), error=error, reason="told")
        found = await said_by(partial(manager.get_result, task_id))
        task = await manager.get_task(task_id)
        assert task is not None
        state = found, task.status, task.reason
        who = f"task {task_id!r} ({__name__}.work)"
        if state != (text.format(who=who), end, "told"):
            wrong[case] = state
    assert wrong == {}


async def test_late_and_unknown_reports(manager: TaskManager, host: RemoteHost) -> None:
    """Reports on a final task, or on one of another process, change nothing."""
    task_id = work(1)
    now = host.clock.time()
    host.ended(task_id, TaskStatus.COMPLETED, now, result=1)
    before = manager.get_all_tasks()
    for one in (task_id, "nobody"):
        host.waiting(one, "why")
        host.started(one, now, 3)
        host.progress(one, 1.0, "all")
        host.announce(one, "retrying", 1.0, None)
        host.ended(one, TaskStatus.FAILED, now, error=ValueError("late"))
    assert manager.get_all_tasks() == before
    assert "retrying" not in manager.get_stats()


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
async def test_clock_of_another_machine(manager: TaskManager, host: RemoteHost, off: float) -> None:
    """Stamps of a clock that is an hour off are kept between the submission and now."""
    task_id = work(1)
    host.started(task_id, host.clock.time() + off, 1)
    host.ended(task_id, TaskStatus.COMPLETED, host.clock.time() + off, result=1)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.started_at is not None
    assert task.ended_at is not None
    assert task.created_at <= task.started_at <= task.ended_at
    assert task.ended_at.timestamp() <= host.clock.time()


async def test_awaited_coroutine(manager: TaskManager, host: RemoteHost, workers: Workers) -> None:
    """An async_task on a coroutine function runs on the engine too."""
    waiting = asyncio.ensure_future(awaited(1))
    await asyncio.wait([waiting], timeout=0)
    (task_id,) = workers.started
    host.ended(task_id, TaskStatus.COMPLETED, host.clock.time(), result=4)
    assert await waiting == 4


async def test_refused(manager: TaskManager, workers: Workers) -> None:
    """A call that the engine does not admit raises in the caller and makes no task."""
    workers.fault = ValueError("no such function")
    with pytest.raises(ValueError, match=r"^no such function$"):
        work(1)
    assert manager.get_stats()["submitted"] == 0
    workers.fault = None


async def test_id_of_another_process(
    manager: TaskManager, host: RemoteHost, workers: Workers
) -> None:
    """The id of a task of another process is refused, another is not; its call is not known."""
    now = manager.clock.time()
    workers.records = {"order-7": record_of("order-7", TaskStatus.RUNNING, now)}
    with pytest.raises(
        ValueError,
        match=r"^task_id must be one that no task has, not 'order-7': choose another, "
        r"or leave it out for a random one$",
    ):
        await manager.submit(work, (1,), task_id="order-7")
    assert await manager.submit(work, (1,), task_id="order-8") == "order-8"
    assert host.call_of(workers.records["order-7"], 1_000) is None


async def test_cancel(manager: TaskManager, host: RemoteHost) -> None:
    """A cancelled task ends CANCELLED, whether it is at the engine or still delayed."""
    here, delayed = work(1), await manager.submit(work, (1,), delay=60)
    assert await manager.cancel_task(here)
    assert await manager.cancel_task(delayed)
    assert [await status(manager, one) for one in (here, delayed)] == [TaskStatus.CANCELLED] * 2
    task = await manager.get_task(here)
    assert task is not None
    assert task.reason == "asked"


async def test_cancel_a_running_one(manager: TaskManager, host: RemoteHost) -> None:
    """Cancelling blocking code that already runs on a worker requests it and does not wait."""
    task_id = work(1)
    host.started(task_id, host.clock.time(), 1)
    host.ended = lambda *_, **__: None  # type: ignore[method-assign]  # the worker goes on
    assert await manager.cancel_task(task_id) is False
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.cancel_requested


@pytest.mark.extended("time")
async def test_forgotten(manager: TaskManager, host: RemoteHost, workers: Workers) -> None:
    """A clean-up makes the engine forget the tasks as well."""
    task_id = work(1)
    host.ended(task_id, TaskStatus.COMPLETED, host.clock.time(), result=1)
    assert manager.cleanup_completed_tasks(0) == 1
    assert await manager.get_task(task_id) is None
    assert workers.forgotten == [task_id]


async def test_hooks_hold_nothing_up(manager: TaskManager, host: RemoteHost) -> None:
    """A hook that blocks does not hold up the engine's other reports."""
    entered, leave = threading.Event(), threading.Event()

    def hook(_: Task) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    slow, other = await manager.submit(work, (1,), on_complete=hook), work(2)
    for task_id in (slow, other):
        host.ended(task_id, TaskStatus.COMPLETED, host.clock.time(), result=5)
    assert entered.wait(PATIENCE)
    assert await manager.get_result(other) == 5
    leave.set()


# -- beginning and ending


async def test_not_opened(workers: Workers) -> None:
    """An engine that fails to open stops the app from starting, and leaves no manager behind."""
    workers.fault = ValueError("the visibility timeout is too short")
    with pytest.raises(ValueError, match=r"^the visibility timeout is too short$"):
        async with setup_async_framework(None, engine=workers):
            pytest.fail("it started")
    with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
        get_task_manager()


async def test_shutdown_lets_go(workers: Workers) -> None:
    """A shutdown cancels delayed tasks, and leaves published ones as they are and uncounted."""
    ends: list[TaskEvent] = []
    async with setup_async_framework(None, engine=workers):
        manager = get_task_manager()
        manager.subscribe(ends.append, kinds=["cancelled", "interrupted"])
        published, delayed = work(1), await manager.submit(work, (2,), delay=60)
        waiting = asyncio.ensure_future(manager.get_result(published))
        await asyncio.wait([waiting], timeout=0)
    assert [event.task_id for event in ends] == [delayed]
    figures = manager.get_stats()
    assert (figures["submitted"], figures["pending"], figures["cancelled"]) == (1, 0, 1)
    with pytest.raises(FrameworkNotStartedError, match=STOPPED):
        await waiting
    assert workers.closed == 1


class Keepers(Workers):
    """Workers that also have the tasks that wait.

    Attributes:
        kept: What was said of these: the id, when it is due, and how many places it needs.
        secured: The ids that somebody waited for.
        meanwhile: Called before a task is kept.
        withdrawn: The ids that were withdrawn after they were kept.
    """

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self.durable = durable
        self.meanwhile: Callable[[EngineTask], object] = bool
        self.withdrawn: list[str] = []
        self.secured: list[str] = []
        self.kept: list[tuple[str, float | None, int]] = []

    def keep(self, task: EngineTask, due: float | None, requests: Sequence[PlaceRequest]) -> bool:
        """Answer for a task that waits."""
        self.meanwhile(task)
        self.kept.append((task.task_id, due, len(requests)))
        return True

    def withdraw(self, task: EngineTask) -> None:
        """Note that, if it was kept."""
        if task.task_id in [task_id for task_id, _, _ in self.kept]:
            self.withdrawn.append(task.task_id)

    def secure(self, task: EngineTask, told: Callable[[BaseException | None], None]) -> None:
        """Say that the first task is safe, and that no other one is."""
        self.secured.append(task.task_id)
        told(BrokerUnavailableError("full") if len(self.secured) > 1 else None)


async def test_engine_that_keeps_what_waits() -> None:
    """What waits is kept by the engine: it is cancelled there, and a shutdown leaves it alone.

    So does a task that is cancelled before the engine has heard of it.
    """
    workers = Keepers()
    ends: list[TaskEvent] = []
    async with setup_async_framework(None, engine=workers):
        manager = get_task_manager()
        manager.subscribe(ends.append, kinds=["cancelled", "interrupted"])
        later, alone = work.options(delay=60), work.options(max_running=1)
        ids = [await manager.submit(one, (1,)) for one in (work, later, later, alone, alone)]
        tasks = [await manager.get_task(one) for one in ids]
        assert await manager.cancel_task(ids[1])
        assert manager.get_stats()["delayed"] == 1
        runner = manager._core.runner

        def cancel(task: EngineTask) -> None:
            found = runner.ledger.find_live(task.task_id)
            assert found is not None
            runner.cancel_pending(found, "at once")

        workers.meanwhile = cancel
        ids.append(later(1))
        assert workers.withdrawn == [ids[5]]
        assert workers.kept.pop()[0] == ids[5]
    due = [pytest.approx(one.created_at.timestamp() + 60) for one in tasks if one is not None]
    assert workers.started == [ids[0], ids[3]]
    assert workers.kept == [
        (ids[1], due[1], 0), (ids[2], due[2], 0), (ids[3], None, 1), (ids[4], None, 1),
    ]  # fmt: skip
    told = [(event.task_id, event.message) for event in ends]
    assert told == [(ids[1], "asked"), (ids[5], "at once")]


async def test_engine_that_secures_tasks() -> None:
    """With a durable engine a submission waits for it, and ends the task that is not safe."""
    workers = Keepers(durable=True)
    async with setup_async_framework(None, engine=workers):
        manager = get_task_manager()
        safe = await manager.submit(work, (1,))
        with pytest.raises(BrokerUnavailableError, match=r"^full$"):
            await asyncio.to_thread(work, 2)
        [lost] = (await manager.list_tasks(status=TaskStatus.FAILED)).tasks
        assert workers.secured == [one for one, _, _ in workers.kept] == [safe, lost.task_id]
        assert workers.started == [safe]
        assert await status(manager, safe) is TaskStatus.PENDING


# -- tasks of processes that have died


def record_of(task_id: str, end: TaskStatus, now: float) -> TaskRecord:
    """Return a record as a store or an engine has it."""
    record = TaskRecord()
    record.task_id, record.heading, record.status = task_id, Heading(work_name(), "kept"), end
    record.created_at, record.created = now - 2.0, 0.0
    record.queued, record.started = 0.0, None if end is TaskStatus.PENDING else 1.0
    record.ended = 2.0 if end.is_final else None
    record.attempts, record.result, record.code, record.rest = 1, 9, None, None
    record.remote = True
    return record


def work_name() -> str:
    """Return the name of `work`."""
    return f"{__name__}.work"


async def test_adopted(manager: TaskManager, host: RemoteHost, workers: Workers) -> None:
    """Adopted tasks of a dead process get the state that the engine reports."""
    now = host.clock.time()
    states = {
        "ended": TaskStatus.COMPLETED,
        "runs": TaskStatus.RUNNING,
        "waits": TaskStatus.PENDING,
    }
    workers.records = {one: record_of(one, end, now) for one, end in states.items()}
    caught_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    manager.subscribe(lambda _: loop.call_soon_threadsafe(caught_up.set), kinds=["interrupted"])
    host.adopt([record_of(one, TaskStatus.PENDING, now) for one in (*states, "lost")])
    assert await manager.get_result("ended", timeout=PATIENCE) == 9
    await asyncio.wait_for(caught_up.wait(), PATIENCE)
    assert {one: await status(manager, one) for one in states} == states
    lost = await manager.get_task("lost")
    assert lost is not None
    assert lost.reason == "its process died before it was published"
    assert lost.description == "kept"
    host.ended("runs", TaskStatus.COMPLETED, host.clock.time(), result=3)
    assert await manager.get_result("runs") == 3


async def test_adopted_of_an_unknown_function(manager: TaskManager, host: RemoteHost) -> None:
    """A task of a function that this process does not know can be adopted as well."""
    record = record_of("strange", TaskStatus.PENDING, host.clock.time())
    record.heading = Heading("nowhere.at_all", "")
    host.adopt([record])
    assert (await status(manager, "strange")) in {TaskStatus.PENDING, TaskStatus.INTERRUPTED}


async def test_adopted_while_the_engine_is_away(
    manager: TaskManager, host: RemoteHost, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks adopted while the engine does not answer wait, and it is asked for them again."""
    monkeypatch.setattr(_host, "_ASK_AGAIN", 0.0)
    now, answers = host.clock.time(), iter([BrokerUnavailableError("away")] * 2)

    def away(_: Collection[str]) -> Sequence[TaskRecord]:
        for error in answers:
            assert [record.task_id for record in host.live()] == ["waits"]
            raise error
        return [record_of("waits", TaskStatus.CANCELLED, now)]

    workers.fetch = away  # type: ignore[assignment,method-assign]  # as said
    host.adopt([record_of("waits", TaskStatus.PENDING, now)])
    ended = await manager.wait("waits", timeout=PATIENCE)
    assert ended.status is TaskStatus.CANCELLED


async def test_end_is_read_before_it_is_reported(
    manager: TaskManager, host: RemoteHost, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever got a result from the engine finds the task ended here, where it was adopted."""
    monkeypatch.setattr(_host, "_ASK_AGAIN", 3_600.0)
    now = host.clock.time()
    ended = record_of("kept", TaskStatus.COMPLETED, now)
    ended.progress = 0.5
    asked: list[Collection[str]] = []

    def adopt_meanwhile(task_ids: Collection[str]) -> Sequence[TaskRecord]:
        asked.append(task_ids)
        if len(asked) > 1:  # what the adoption asks must not be what ends it
            raise BrokerUnavailableError("away")
        host.adopt([record_of("kept", TaskStatus.PENDING, now)])
        host.started("kept", now, 1)
        return [ended]

    workers.fetch = adopt_meanwhile  # type: ignore[method-assign]
    assert await manager.get_result("kept", timeout=PATIENCE) == 9
    task = await manager.get_task("kept")
    assert task is not None
    assert (task.status, task.result, task.progress) == (TaskStatus.COMPLETED, 9, 0.5)
    host.started("kept", now, 1)
    host.ended("kept", TaskStatus.COMPLETED, now, result=9)
    stats = manager.get_stats()
    assert (stats["running"], stats["completed"], stats.get("late_results", 0)) == (0, 1, 0)


async def test_adopted_twice(manager: TaskManager, host: RemoteHost) -> None:
    """A task that is already followed is not adopted again."""
    task_id = work(1)
    host.adopt([record_of(task_id, TaskStatus.PENDING, host.clock.time())])
    assert manager.get_stats()["submitted"] == 1
    assert await status(manager, task_id) is TaskStatus.PENDING


# -- what a shared store reports on tasks that run here


@background_task
async def forever() -> None:
    """Run until cancelled."""
    await asyncio.Event().wait()


async def test_replaced_by_another_process(manager: TaskManager, host: RemoteHost) -> None:
    """A task at the engine is cancelled there if another process asks for that."""
    task_id = work(1)
    host.cancel(task_id, "it was replaced")
    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.cancel_requested, task.reason) == (True, "asked")


async def test_cancelled_by_another_process() -> None:
    """A task whose cancellation another process requests is cancelled, before or while it runs."""
    async with setup_async_framework(None):
        manager: Any = get_task_manager()
        host = RemoteHost(manager._core)
        runs, waits = forever(), await manager.submit(forever, delay=60)
        begun = asyncio.Event()
        manager.subscribe(lambda _: begun.set(), kinds=["started"])
        await asyncio.wait_for(begun.wait(), PATIENCE)
        for one in (runs, waits, "nobody"):
            host.cancel(one, "it was replaced")
        for one in (runs, waits):
            with pytest.raises(TaskCancelledError, match=CANCELLED):
                await manager.get_result(one, timeout=PATIENCE)
            task = await manager.get_task(one)
            assert task.reason == "it was replaced"


async def test_given_up_by_the_others() -> None:
    """A process that the others have given up for dead ends its live tasks as INTERRUPTED."""
    async with setup_async_framework(None):
        manager: Any = get_task_manager()
        task_id = forever()
        begun = asyncio.Event()
        manager.subscribe(lambda _: begun.set(), kinds=["started"])
        await asyncio.wait_for(begun.wait(), PATIENCE)
        RemoteHost(manager._core).interrupt("it stood still")
        with pytest.raises(TaskInterruptedError, match=INTERRUPTED):
            await manager.get_result(task_id, timeout=PATIENCE)
        task = await manager.get_task(task_id)
        assert task.reason == "it stood still"


async def test_tasks_of_the_dead_are_told_of() -> None:
    """What a store has ended for a process that has died is an event here, with its reason."""
    async with setup_async_framework(None):
        manager: Any = get_task_manager()
        told: list[TaskEvent] = []
        manager.subscribe(told.append)
        records = []
        for status in (TaskStatus.INTERRUPTED, TaskStatus.CANCELLED):
            record = TaskRecord()
            record.task_id, record.heading = random_id(), Heading("shop.resize", "")
            record.rest = record.code = None
            record.status, record.attempts, record.instruction = status, 1, 0
            record.created = record.queued = record.started = 1.0
            record.ended, record.reason = 3.5, "its process ended"
            records.append(record)
        RemoteHost(manager._core).buried(records)
    found = [(one.kind, one.name, one.attempt, one.duration, one.message) for one in told]
    expected = ("shop.resize", 1, 2.5, "its process ended")
    assert found == [("interrupted", *expected), ("cancelled", *expected)]
