"""The state machine: every pair of status and move, and what is told and counted."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import get_args

import pytest

from framework import TaskManager, TaskStatus, async_task
from framework._tasks.live import LiveTask, Move, copy_record
from framework.exceptions import TaskTimeoutError
from framework.protocols import EngineTask, Kind, Run, TaskEvent, TaskRecord
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.patience import PATIENCE

MOVES: tuple[Move, ...] = get_args(Move)

# What each move leads to, by hand: a status, or None where it is refused.
TABLE: dict[tuple[str, str], str | None] = {
    ("pending", "start"): "running",
    ("pending", "complete"): None,
    ("pending", "fail"): "failed",
    ("pending", "time_out"): None,
    ("pending", "cancel"): "cancelled",
    ("pending", "interrupt"): "interrupted",
    ("running", "start"): "running",
    ("running", "complete"): "completed",
    ("running", "fail"): "failed",
    ("running", "time_out"): "timeout",
    ("running", "cancel"): "cancelled",
    ("running", "interrupt"): "interrupted",
    ("completed", "start"): None,
    ("completed", "complete"): None,
    ("completed", "fail"): None,
    ("completed", "time_out"): None,
    ("completed", "cancel"): None,
    ("completed", "interrupt"): None,
    ("failed", "start"): None,
    ("failed", "complete"): None,
    ("failed", "fail"): None,
    ("failed", "time_out"): None,
    ("failed", "cancel"): None,
    ("failed", "interrupt"): None,
    ("timeout", "start"): None,
    ("timeout", "complete"): None,
    ("timeout", "fail"): None,
    ("timeout", "time_out"): None,
    ("timeout", "cancel"): None,
    ("timeout", "interrupt"): None,
    ("cancelled", "start"): None,
    ("cancelled", "complete"): None,
    ("cancelled", "fail"): None,
    ("cancelled", "time_out"): None,
    ("cancelled", "cancel"): None,
    ("cancelled", "interrupt"): None,
    ("interrupted", "start"): None,
    ("interrupted", "complete"): None,
    ("interrupted", "fail"): None,
    ("interrupted", "time_out"): None,
    ("interrupted", "cancel"): None,
    ("interrupted", "interrupt"): None,
}
FINAL = ("completed", "failed", "timeout", "cancelled", "interrupted")

# How a task comes to have a status.
ROADS: dict[str, tuple[Move, ...]] = {
    "pending": (),
    "running": ("start",),
    "completed": ("start", "complete"),
    "failed": ("start", "fail"),
    "timeout": ("start", "time_out"),
    "cancelled": ("cancel",),
    "interrupted": ("start", "interrupt"),
}


class HeldEngine:
    """Starts nothing by itself: what it was given waits for the test to run it."""

    def __init__(self) -> None:
        self.held: list[tuple[EngineTask, Run]] = []
        self.refusal: Exception | None = None

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Keep a task, or refuse it."""
        if self.refusal is not None:
            raise self.refusal
        self.held.append((task, run))

    def withdraw(self, task: EngineTask) -> None:
        """Keep it: a late delivery of a cancelled task must do no harm."""

    def abandon(self, task: EngineTask) -> None:
        """Do nothing: the thread is the test's own."""

    def run_inline(self, task: EngineTask) -> bool:
        """Run nothing inline."""
        return False

    def run_next(self) -> bool:
        """Deliver the oldest task, on this thread; return what the run says."""
        task, run = self.held.pop(0)
        return run(task)


def record_in(status: str, manager: TaskManager) -> LiveTask:
    """Return a task of *manager* that was led to *status* by moves alone."""
    task = submitted(manager)
    for at, move in enumerate(ROADS[status], start=1):
        assert step(manager, task, move, 1_000.0 + at)
    assert task.status.value == status
    return task


def submitted(manager: TaskManager) -> LiveTask:
    """Return a task of *manager* that was just submitted."""
    task = manager._core.ledger.find(manager.submit_nowait(print))
    assert isinstance(task, LiveTask)
    return task


def step(manager: TaskManager, task: LiveTask, move: Move, now: float) -> bool:
    """Make one move through the ledger; return whether it was allowed."""
    if move == "start":
        return manager._core.ledger.start(task, now)
    return manager._core.ledger.end(task, move, now, error=ValueError(move)) is not None


@pytest.fixture
def held_engine() -> HeldEngine:
    """Return an engine that starts nothing by itself."""
    return HeldEngine()


@pytest.fixture
def held_manager(task_clock: VirtualClock, held_engine: HeldEngine) -> Iterator[TaskManager]:
    """Give a manager whose tasks run when the test says so."""
    with override_framework(clock=task_clock, engine=held_engine, nested=True) as manager:
        yield manager


def test_table_is_complete() -> None:
    """The table written out by hand has every pair of a status and a move."""
    assert set(TABLE) == set(itertools.product([status.value for status in TaskStatus], MOVES))


@pytest.mark.parametrize(("status", "move"), TABLE)
def test_move(held_manager: TaskManager, status: str, move: Move) -> None:
    """A move leads to the status in the table, or is refused."""
    task = record_in(status, held_manager)

    allowed = step(held_manager, task, move, 2_000.0)

    assert allowed == (TABLE[status, move] is not None)
    assert task.status.value == (TABLE[status, move] or status)


@pytest.mark.parametrize(("status", "move"), [pair for pair in TABLE if TABLE[pair] is None])
def test_refused_move_changes_nothing(held_manager: TaskManager, status: str, move: Move) -> None:
    """A refused move leaves every field of the record as it was."""
    task = record_in(status, held_manager)
    before = copy_record(task)

    ledger = held_manager._core.ledger
    if move == "start":
        ledger.start(task, 2_000.0)
    else:
        ledger.end(task, move, 2_000.0, "late", OSError(), None, "late", None, False)

    assert task.rest == before.rest
    for field in set(TaskRecord.__slots__) - {"rest"}:
        assert getattr(task, field) is getattr(before, field), field


@pytest.mark.parametrize("status", FINAL)
def test_finals_are_sticky(held_manager: TaskManager, status: str) -> None:
    """No sequence of moves ever leads out of a final status."""
    task = record_in(status, held_manager)

    for moves in itertools.permutations(MOVES):
        for move in moves:
            step(held_manager, task, move, 2_000.0)
        assert task.status.value == status


@pytest.mark.parametrize("status", list(TaskStatus))
def test_is_final(status: TaskStatus) -> None:
    """`is_final` holds for the statuses that no move leads out of, and for no others."""
    leads_on = any(TABLE[status.value, move] for move in MOVES)

    assert status.is_final is not leads_on


def test_first_start_sets_the_stamp(held_manager: TaskManager) -> None:
    """A further delivery counts an attempt and leaves the first start's stamp."""
    task = record_in("pending", held_manager)

    step(held_manager, task, "start", 1_001.0)
    step(held_manager, task, "start", 1_002.0)

    assert (task.started, task.attempts) == (1_001.0, 2)


@pytest.mark.parametrize(("status", "move"), TABLE)
def test_counts_follow_moves(held_manager: TaskManager, status: str, move: Move) -> None:
    """The ledger counts a task under its new status and no longer under its old one."""
    task = record_in(status, held_manager)

    allowed = step(held_manager, task, move, 2_000.0)

    figures = held_manager.get_stats()
    assert allowed == (TABLE[status, move] is not None)
    counted = {one.value: figures[one.value] for one in TaskStatus if figures[one.value]}
    assert counted == {TABLE[status, move] or status: 1}


def test_counters_identity(held_manager: TaskManager) -> None:
    """Submitted is the sum over all statuses after any sequence of moves."""
    tasks = [submitted(held_manager) for _ in range(len(MOVES) ** 2)]
    for index, (first, second) in enumerate(itertools.product(MOVES, MOVES)):
        for move in (first, second):
            step(held_manager, tasks[index], move, 2_000.0)

            figures = held_manager.get_stats()
            counted = sum(figures[status.value] for status in TaskStatus)
            assert counted == figures["submitted"] == len(tasks)


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
            ledger.end(task, "complete", 1.0)

    task = record_in("running", manager)
    ledger.lock = EndsATaskWhenReleased()  # type: ignore[assignment]  # for one reading
    stats = manager.get_stats()
    assert stats["kept"] == stats["completed"] == 0


def test_race_of_ends(held_manager: TaskManager) -> None:
    """When many threads end one task at once, one of them does, and there is one event."""
    task = record_in("running", held_manager)
    events: list[TaskEvent] = []
    held_manager.subscribe(events.append)
    moves: list[Move] = ["complete", "fail", "time_out", "cancel", "interrupt"]
    barrier = threading.Barrier(len(moves))
    won: list[Move] = []

    def end(move: Move) -> None:
        barrier.wait(PATIENCE)
        endings = held_manager._core.endings
        if move == "complete":
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
