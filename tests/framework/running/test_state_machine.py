"""The state machine: every pair of status and move, and what is told and counted.

Sequences of moves are in `test_ledger_model`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from framework import TaskManager, TaskStatus, async_task
from framework._records.statuses import (
    CANCELLED,
    COMPLETED,
    FAILED,
    INTERRUPTED,
    RUNNING,
    TIMEOUT,
    TRAITS,
)
from framework._tasks.live import LiveTask, copy_record
from framework.exceptions import TaskTimeoutError
from framework.protocols import TaskEvent, TaskRecord
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.framework.running.held import MOVES, TABLE, HeldEngine, submitted
from tests.patience import PATIENCE

# How a task comes to have a status.
ROADS = {
    "pending": (),
    "running": (RUNNING,),
    "completed": (RUNNING, COMPLETED),
    "failed": (RUNNING, FAILED),
    "timeout": (RUNNING, TIMEOUT),
    "cancelled": (CANCELLED,),
    "interrupted": (RUNNING, INTERRUPTED),
}


def record_in(status: str, manager: TaskManager) -> LiveTask:
    """Return a task of *manager* that was led to *status* by moves alone."""
    task = submitted(manager)
    for at, move in enumerate(ROADS[status], start=1):
        assert step(manager, task, move, 1_000.0 + at)
    assert task.status.value == status
    return task


def step(manager: TaskManager, task: LiveTask, move: TaskStatus, now: float) -> bool:
    """Make one move through the ledger; return whether it was allowed."""
    if move is RUNNING:
        return manager._core.ledger.start(task, now)
    ended = manager._core.ledger.end(task, move, now, "result", ValueError(move), "reason")
    return ended is not None


@pytest.fixture
def held_engine() -> HeldEngine:
    """Return an engine that starts nothing by itself."""
    return HeldEngine()


@pytest.fixture
def held_manager(task_clock: VirtualClock, held_engine: HeldEngine) -> Iterator[TaskManager]:
    """Give a manager whose tasks run when the test says so."""
    with override_framework(clock=task_clock, engine=held_engine, nested=True) as manager:
        yield manager


def test_every_move_from_every_status() -> None:
    """A move leads to the status in the table and is counted there; a refused one changes nothing.

    Since it leaves every field as it was, no sequence of moves leads out of a final status.
    """
    assert set(TABLE) == set(itertools.product([status.value for status in TaskStatus], MOVES))
    wrong: dict[tuple[str, str], object] = {}
    for (status, move), target in TABLE.items():
        engine = HeldEngine()
        with override_framework(clock=VirtualClock(), engine=engine, nested=True) as manager:
            task = record_in(status, manager)
            before = copy_record(task)

            allowed = step(manager, task, TaskStatus(move), 2_000.0)

            figures = manager.get_stats()
            counted = {one.value: figures[one.value] for one in TaskStatus if figures[one.value]}
            found = (allowed, task.status.value, counted)
            after = target or status
            if found != (target is not None, after, {after: 1}):
                wrong[status, move] = found
            if target is None and (changed := changes(before, task)):
                wrong[status, move] = changed
    assert wrong == {}


def changes(before: TaskRecord, task: TaskRecord) -> list[str]:
    """Return the fields in which a task differs from a copy made before."""
    fields = set(TaskRecord.__slots__) - {"rest"}
    changed = [field for field in fields if getattr(task, field) is not getattr(before, field)]
    return changed + ["rest"] * (task.rest != before.rest)


def test_final_statuses() -> None:
    """The table of statuses has all of them; those that no move leads out of are final."""
    assert set(TRAITS) == set(TaskStatus)
    leads_on = {status for status, move in TABLE if TABLE[status, move]}

    assert {status.value for status in TaskStatus if not status.is_final} == leads_on


class Notes(list[object]):
    """A shared store that notes which tasks it is told of."""

    def note(self, task: object) -> None:
        """Note one."""
        self.append(task)


def test_first_start_sets_the_stamp(
    held_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each way to start, a further delivery counts an attempt and leaves the first stamp."""
    core, told, heard = held_manager._core, Notes(), list[str]()
    monkeypatch.setattr(core.ledger, "shared", told)
    held_manager.subscribe(lambda event: heard.append(event.kind))
    found: list[object] = []

    def look() -> None:
        found.append((task.status, task.started, task.attempts, task.bodies, [*told], [*heard]))

    def start(task: LiveTask) -> bool:
        started = core.runner.start(task) is not None
        if started:
            look()
        return started

    for way in (start, core.runner.body_runner()):
        task = core.ledger.find_live(held_manager.submit_nowait(look)) or LiveTask()
        for clear in (told.clear, heard.clear):
            clear()
        assert step(held_manager, task, RUNNING, 1_001.0)
        by_ledger = [*told]
        core.ledger.share(task)
        assert by_ledger == told[1:] == [task]
        assert way(task)
        assert found == [(RUNNING, 1_001.0, 2, 2, [task] * 3, ["started"] * 2)]
        core.endings.end(task, FAILED, error=ValueError())
        told.clear()
        assert not way(task)
        assert not core.ledger.start(task, 1_003.0)
        assert (told, len(found)) == ([], 1)
        found.clear()


# -- one event for each transition


def kinds(events: list[TaskEvent]) -> list[str]:
    """Return the kinds of *events* in their order."""
    return [event.kind for event in events]


def test_completed_events(held_manager: TaskManager, held_engine: HeldEngine) -> None:
    """A task that succeeds has one event each for its submission, its start and its end."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)

    held_manager.submit_nowait(int)
    held_engine.run_next()

    assert kinds(events) == ["submitted", "started", "completed"]


def test_failed_events(held_manager: TaskManager, held_engine: HeldEngine) -> None:
    """A task that raises ends with one event, which carries the error."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)

    held_manager.submit_nowait(int, args=("no number",))
    held_engine.run_next()

    assert kinds(events) == ["submitted", "started", "failed"]
    assert isinstance(events[-1].error, ValueError)


def test_start_refused_events(held_manager: TaskManager, held_engine: HeldEngine) -> None:
    """A task that the engine refuses is FAILED without a start."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)
    held_engine.refusal = RuntimeError("no thread")

    held_manager.submit_nowait(int)

    assert kinds(events) == ["submitted", "failed"]
    assert events[-1].error is held_engine.refusal


async def test_cancelled_events(held_manager: TaskManager, held_engine: HeldEngine) -> None:
    """A pending task that is cancelled never starts, even if it is delivered later."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)

    task_id = held_manager.submit_nowait(int)
    await held_manager.cancel_task(task_id)
    delivered = held_engine.run_next()

    assert kinds(events) == ["submitted", "cancelled"]
    assert not delivered


def test_timed_out_events(
    held_manager: TaskManager, held_engine: HeldEngine, task_clock: VirtualClock
) -> None:
    """A task over its limit is TIMEOUT once, and its late result is a separate event."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)

    held_manager.submit_nowait(task_clock.advance, args=(10,), timeout=5)
    held_engine.run_next()

    assert kinds(events) == ["submitted", "started", "timed_out", "late_result"]
    assert isinstance(events[-2].error, TaskTimeoutError)
    assert events[-2].at == 5.0


def test_second_delivery_events(held_manager: TaskManager, held_engine: HeldEngine) -> None:
    """A task that is delivered again after its end does not run and has no event."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)

    held_manager.submit_nowait(int)
    (record, run) = held_engine.held[0]
    held_engine.run_next()
    again = run(record)

    assert kinds(events) == ["submitted", "started", "completed"]
    assert not again


def test_evicted_events(held_manager: TaskManager, held_engine: HeldEngine) -> None:
    """A task that is evicted has one event for it."""
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)
    held_manager.submit_nowait(int)
    held_engine.run_next()

    removed = [held_manager.cleanup_completed_tasks(0) for _ in range(2)]

    assert kinds(events) == ["submitted", "started", "completed", "evicted"]
    assert removed == [1, 0]


async def test_in_place_events(task_manager: TaskManager) -> None:
    """An awaited coroutine has the same three events as any task."""
    events: list[TaskEvent] = []
    task_manager.subscribe(events.append)

    @async_task
    async def answer() -> int:
        return 42

    assert await answer() == 42
    assert kinds(events) == ["submitted", "started", "completed"]
    assert [event.status for event in events] == ["pending", "running", "completed"]


def test_kept_is_read_with_the_other_counters(held_manager: TaskManager) -> None:
    """The number of kept tasks is read under the same lock as the counts of each status."""
    manager, ledger = held_manager, held_manager._core.ledger

    class EndsATaskWhenReleased:
        """The ledger's lock; right after it was released, one more task ends."""

        def __init__(self) -> None:
            self.inner = ledger.lock

        def __enter__(self) -> None:
            self.inner.acquire()

        def __exit__(self, *_: object) -> None:
            self.inner.release()
            ledger.lock = self.inner
            ledger.end(task, COMPLETED, 1.0)

    task = record_in("running", manager)
    ledger.lock = EndsATaskWhenReleased()  # type: ignore[assignment]  # for one reading
    stats = manager.get_stats()
    assert stats["kept"] == stats["completed"] == 0


def test_race_of_ends(held_manager: TaskManager) -> None:
    """When many threads end one task at once, one of them does, and there is one event."""
    task = record_in("running", held_manager)
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)
    moves: list[TaskStatus] = [COMPLETED, FAILED, TIMEOUT, CANCELLED, INTERRUPTED]
    barrier = threading.Barrier(len(moves))
    won: list[TaskStatus] = []

    def end(move: TaskStatus) -> None:
        barrier.wait(PATIENCE)
        endings = held_manager._core.endings
        if move is COMPLETED:
            ended = endings.complete(task, None)
        else:
            ended = endings.end(task, move, ValueError(move), body_ended=False)
        if ended:
            won.append(move)

    threads = [threading.Thread(target=end, args=(move,)) for move in moves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (move,) = won
    assert task.status.value == TABLE["running", move]
    # A result that came second is told of as what it is.
    assert [event.status for event in events if event.kind != "late_result"] == [task.status]
