"""Ledger, endings and retention against a model: what is counted, told, kept and woken."""

from __future__ import annotations

import queue
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from framework import QueueFullError, Task, TaskStatus
from framework._records.records import TaskRecord
from framework._tasks.live import LiveTask
from framework.protocols import TaskEvent
from framework.stores.memory import MemoryStore
from framework.testing import override_framework
from tests.framework.drawn import explored
from tests.framework.exact import ExactClock
from tests.framework.running.asked import Store
from tests.framework.running.held import FINAL, MOVES, TABLE, HeldEngine
from tests.patience import PATIENCE

MOST_WAITING = 4
MOST_KEPT = 3
STEPS = 40
IDS = ("a", "b")
"""Ids that are chosen, so that some are chosen twice."""

EVENTS = {status: status for status in FINAL} | {"timeout": "timed_out"}

# Sixty-fourths, so that sums and differences are exact.
pauses = st.integers(0, 128).map(lambda count: count / 64)
shares = st.sampled_from([0.0, 0.5, 1.0])


def raised(text: str) -> ValueError:
    """Return an error that has a traceback."""
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


class Waiting:
    """A waiter that notes in *woken* that it was woken."""

    def __init__(self, reads: bool, woken: list[Waiting]) -> None:
        self.reads = reads
        self._woken = woken

    def wake(self) -> None:
        """Note it."""
        self._woken.append(self)

    def nudge(self) -> None:
        """Do nothing: nothing runs inline."""


@dataclass(eq=False)
class Modelled:
    """What is known of one task, and what must be true of it.

    Attributes:
        counted: Whether the counters of this process have it.
        hooked: Whether it has hooks that were not called.
    """

    task: LiveTask
    hooked: bool
    status: str = "pending"
    attempts: int = 0
    bodies: int = 0
    started: float | None = None
    ended: float | None = None
    requested: bool = False
    progress: float | None = None
    logged: bool = False
    counted: bool = True
    evicted: bool = False
    still_running: bool = False
    waiters: list[Waiting] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL


class LedgerModel(RuleBasedStateMachine):
    """One thread does all that can be done to tasks, in any order."""

    tasks: Bundle[Modelled] = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.engine = ExactClock(), HeldEngine()
        self._context = override_framework(
            clock=self.clock, engine=self.engine, store=self.make_store(), nested=True
        )
        self.manager = self._context.__enter__()
        self.ledger, self.endings = self.manager._core.ledger, self.manager._core.endings
        self.overview = self.manager._core.overview
        self.all: list[Modelled] = []
        # In the order in which they ended.
        self.kept: list[Modelled] = []
        self.events: list[tuple[str, str, str, int]] = []
        self.told: list[tuple[str, str, str, int]] = []
        self.abandoned: list[str] = []
        self.woken: list[Waiting] = []
        self.hooks: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.extra = dict.fromkeys(("rejected", "late_results", "evicted"), 0)
        self._unsubscribe = self.manager.subscribe(self._hear)

    def _hear(self, event: TaskEvent) -> None:
        self.told.append((event.kind, str(event.task_id), str(event.status), event.attempt))

    def _hook(self, task: Task) -> None:
        self.hooks.put((task.task_id, task.status.value))

    def teardown(self) -> None:
        """End the framework; what still lives ends with it."""
        self._unsubscribe()
        assert self.hooks.empty()
        self._context.__exit__(None, None, None)

    def make_store(self) -> MemoryStore:
        """Return where finished tasks are kept."""
        return MemoryStore()

    # -- the model

    def _now(self) -> float:
        return self.clock.monotonic()

    def _expect(self, kind: str, one: Modelled) -> None:
        self.events.append((kind, one.task.task_id, one.status, one.attempts))

    def _live(self) -> list[Modelled]:
        return [one for one in self.all if not one.is_final]

    def _waiting(self) -> int:
        return sum(one.status == "pending" for one in self._live())

    def _evict(self, gone: list[Modelled]) -> None:
        for one in gone:
            self.kept.remove(one)
            one.evicted = True
            one.logged |= one.status in ("failed", "timeout")
            self._expect("evicted", one)
        self.extra["evicted"] += len(gone)

    def _end(self, one: Modelled, status: str) -> list[Waiting]:
        """Make a task final; return who must be woken."""
        one.status, one.ended = status, self._now()
        one.still_running = one.bodies > 0
        reads = any(waiter.reads for waiter in one.waiters)
        one.logged |= status in ("failed", "timeout") and not reads
        self._expect(EVENTS[status], one)
        self.kept.append(one)
        if len(self.kept) > self.endings.retention.max_finished:
            self._evict(self.kept[: len(self.kept) - self.endings.retention.max_finished])
        woken, one.waiters = one.waiters, []
        return woken

    def _body_ends(self, one: Modelled) -> None:
        if one.bodies:
            one.bodies -= 1
            one.still_running &= one.bodies > 0

    def _late(self, one: Modelled) -> None:
        self.extra["late_results"] += 1
        self._expect("late_result", one)

    def _check_end(self, one: Modelled, woken: list[Waiting]) -> None:
        """See that the waiters of a task that has just ended were woken, and its hook called."""
        assert self.woken == woken
        self.woken.clear()
        if one.hooked:
            one.hooked = False
            assert self.hooks.get(timeout=PATIENCE) == (one.task.task_id, one.status)
        assert self.hooks.empty()

    # -- what happens

    @initialize(waiting=st.integers(1, MOST_WAITING), kept=st.integers(0, MOST_KEPT))
    def set_up(self, waiting: int, kept: int) -> None:
        """Set how many tasks may wait, and how many that have ended are kept."""
        self.ledger.queue_size, self.endings.retention.max_finished = waiting, kept

    @rule(target=tasks, hooked=st.booleans(), task_id=st.none() | st.sampled_from(IDS))
    def submit(self, hooked: bool, task_id: str | None) -> Any:
        """A task is taken if its id is free and the queue has room."""
        hook = self._hook if hooked else None
        known = {one.task.task_id for one in [*self._live(), *self.kept]}
        full = self._waiting() >= self.ledger.queue_size
        if task_id in known or full:
            kind = ValueError if task_id in known else QueueFullError
            text = (
                f"task_id must be one that no task has, not {task_id!r}"
                if task_id in known
                else f"the task queue is full: {self.ledger.queue_size} tasks are waiting; "
            )
            self.extra["rejected"] += kind is QueueFullError
            with pytest.raises(kind, match=f"^{re.escape(text)}"):
                self.manager.submit_nowait(int, task_id=task_id)
            return multiple()
        new = self.manager.submit_nowait(int, task_id=task_id, on_complete=hook, on_error=hook)
        assert task_id in (None, new)
        task = self.ledger.find(new)
        assert isinstance(task, LiveTask)
        one = Modelled(task, hooked)
        self.all.append(one)
        self._expect("submitted", one)
        return one

    @rule(one=tasks)
    def start(self, one: Modelled) -> None:
        """A task that has not ended starts, or is delivered once more."""
        allowed = TABLE[one.status, "running"] is not None
        if allowed:
            if one.status == "pending":
                one.status, one.started = "running", self._now()
            one.attempts += 1
            one.bodies += 1
            self._expect("started", one)

        assert self.ledger.start(one.task, self._now()) is allowed
        if allowed:
            self.ledger.flush(one.task)

    @rule(one=tasks)
    def complete(self, one: Modelled) -> None:
        """A result ends a task that runs, and is late for one that has ended."""
        target = TABLE[one.status, "completed"]
        self._body_ends(one)
        woken: list[Waiting] = []
        if target is None:
            self._late(one)
        else:
            woken = self._end(one, target)

        assert self.endings.complete(one.task, one) is (target is not None)
        if target is not None:
            assert one.task.result is one
            self._check_end(one, woken)

    @rule(
        one=tasks,
        move=st.sampled_from([move for move in MOVES if move not in ("running", "completed")]),
        only_from=st.none() | st.sampled_from([TaskStatus.PENDING, TaskStatus.RUNNING]),
        body_ended=st.booleans(),
    )
    def end(
        self, one: Modelled, move: TaskStatus, only_from: TaskStatus | None, body_ended: bool
    ) -> None:
        """A task ends without a result, unless it has ended or has not the status asked for."""
        target = TABLE[one.status, move]
        if only_from is not None and one.status != only_from:
            target = None
        if body_ended and only_from is None:
            self._body_ends(one)
        woken: list[Waiting] = []
        if target is not None:
            woken = self._end(one, target)
            if not body_ended:
                self.abandoned.append(one.task.task_id)
        elif move is TaskStatus.FAILED and body_ended and only_from is None:
            self._late(one)
        error = raised(move)

        ended = self.endings.end(one.task, move, error, move, only_from, body_ended)

        assert ended is (target is not None)
        if ended:
            assert (one.task.error, one.task.reason) == (error, move)
            assert one.task.traceback is error.__traceback__ is not None
            self._check_end(one, woken)

    @rule(one=tasks, share=shares)
    def progress(self, one: Modelled, share: float) -> None:
        """A task that has not ended reports progress; a final one is left as it is."""
        if not one.is_final:
            one.progress = share
            self._expect("progress", one)

        self.ledger.progress(one.task, share, f"{share}")

    @rule(one=tasks)
    def request_cancel(self, one: Modelled) -> None:
        """A cancellation can be requested of a task that has not ended."""
        one.requested |= not one.is_final

        assert self.ledger.request_cancel(one.task) is not one.is_final

    @rule(one=tasks, reads=st.booleans())
    def wait(self, one: Modelled, reads: bool) -> None:
        """A task that has not ended can be waited for."""
        waiter = Waiting(reads, self.woken)
        if not one.is_final:
            one.waiters.append(waiter)

        assert self.ledger.register(one.task, waiter) is not one.is_final

    @precondition(lambda self: any(one.waiters for one in self.all))
    @rule(data=st.data())
    def stop_waiting(self, data: st.DataObject) -> None:
        """Whoever stops waiting is not woken."""
        one = data.draw(st.sampled_from([one for one in self.all if one.waiters]))
        place = data.draw(st.integers(0, len(one.waiters) - 1))

        self.ledger.unregister(one.task, one.waiters.pop(place))

    @rule(seconds=pauses)
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(age=pauses)
    def clean(self, age: float) -> None:
        """Tasks that ended so long ago are forgotten."""
        before = self._now() - age
        gone = [one for one in self.kept if one.ended is not None and one.ended <= before]
        self._evict(gone)

        assert self.manager.cleanup_completed_tasks(age) == len(gone)

    @rule(one=consumes(tasks))
    def leave(self, one: Modelled) -> None:
        """A task that another process takes is not counted here, and its waiters are told."""
        if one.is_final:
            return
        woken, one.waiters = one.waiters, []
        one.counted, one.status = False, "interrupted"

        with self.ledger.lock:
            waiters = self.ledger.give_away(one.task)
        one.task.home.live.pop(one.task.task_id)

        assert list(waiters) == woken
        assert self.ledger.register(one.task, Waiting(True, self.woken)) is False
        assert not self.ledger.start(one.task, self._now())

    # -- what is true after each step

    @invariant()
    def counted(self) -> None:
        """Each task is counted under its status, and under no other."""
        figures = self.overview.own_figures()
        ours = [one for one in self.all if one.counted]
        for status in TaskStatus:
            assert figures[status.value] == sum(one.status == status for one in ours), status
        assert figures["submitted"] == len(ours)
        assert figures["kept"] == len(self.kept)
        assert {name: figures.get(name, 0) for name in self.extra} == self.extra

    @invariant()
    def found(self) -> None:
        """All that is live or kept is found, and nothing else."""
        live = self._live()
        expected = {one.task.task_id: one.status for one in [*live, *self.kept]}
        found = self.overview.records()
        assert {task_id: record.status.value for task_id, record in found.items()} == expected
        for status in TaskStatus:
            ids = {task_id for task_id, its in expected.items() if its == status}
            assert set(self.overview.records(status)) == ids
        assert self.ledger.unfinished() == [one.task for one in live]
        ids = {record.task_id for record in self.overview.active_records()}
        assert ids == {one.task.task_id for one in live}
        for one in [*live, *self.kept]:
            assert self.ledger.find(one.task.task_id) is one.task
            assert self.overview.unstored([one.task]) == [one.task] * (not one.is_final)

    @invariant()
    def recorded(self) -> None:
        """Each record says what has happened to its task."""
        for one in self.all:
            task = one.task
            found = (task.status.value, task.attempts, task.bodies, task.started, task.ended)
            assert found == (one.status, one.attempts, one.bodies, one.started, one.ended)
            assert (task.cancel_requested, task.still_running, task.logged) == (
                one.requested,
                one.still_running,
                one.logged,
            )
            assert task.progress == one.progress
            gone = one.counted and (one.status == "completed" or one.evicted)
            assert (task.args is None) is gone
            assert (task.context is None) is (one.is_final and one.counted)

    @invariant()
    def told_in_order(self) -> None:
        """Each change was told once, in the order of the changes."""
        assert self.told == self.events

    @invariant()
    def stopped(self) -> None:
        """A thread is given up exactly if its task ended before its body."""
        assert self.engine.abandoned == self.abandoned


class NotingStore(Store):
    """A store that other processes read; see `Store`.

    Attributes:
        noted: The last state of each task that it was told of.
        refusal: What it raises for the next task; None if it takes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[TaskRecord, tuple[object, ...]] = {}
        self.refusal: Exception | None = None

    def note(self, record: TaskRecord) -> None:
        """Note what a task is like now."""
        if self.refusal is not None:
            raise self.refusal
        self.noted[record] = shown(record)

    def figures(self) -> dict[str, int]:
        """Return how many tasks have ended."""
        statuses = [record.status for record in self.list()]
        return {status.value: statuses.count(status) for status in TaskStatus if status.is_final}


def shown(record: TaskRecord) -> tuple[object, ...]:
    """Return what other processes read of a task that has not ended."""
    return record.status, record.attempts, record.cancel_requested, record.progress


class SharedLedgerModel(LedgerModel):
    """The same with a store that other processes read."""

    def make_store(self) -> MemoryStore:
        """Return a store that is told of every change."""
        self.store = NotingStore()
        return self.store

    @rule()
    def refused_by_the_store(self) -> None:
        """A task that the store refuses was never there."""
        if self._waiting() >= self.ledger.queue_size:
            return
        self.store.refusal = OSError("the disk is full")
        with pytest.raises(OSError, match=r"^the disk is full$"):
            self.manager.submit_nowait(int)
        self.store.refusal = None
        self.extra["rejected"] += 1

    @invariant()
    def told_to_others(self) -> None:
        """Other processes know each task that has not ended as it is."""
        for one in self._live():
            assert self.store.noted[one.task] == shown(one.task)

    @invariant()
    def counted_with_others(self) -> None:
        """The counters of all processes are those of the live tasks and of all that is kept."""
        figures = self.overview.figures()
        statuses = [one.status for one in [*self._live(), *self.kept]]
        for status in TaskStatus:
            assert figures[status.value] == statuses.count(status.value), status
        assert figures["submitted"] == len(statuses)
        assert figures["kept"] == len(self.kept)


TestLedger = LedgerModel.TestCase
TestLedger.settings = settings(explored, max_examples=60, stateful_step_count=STEPS)
TestSharedLedger = SharedLedgerModel.TestCase
TestSharedLedger.settings = TestLedger.settings
