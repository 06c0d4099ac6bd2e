"""Scenarios of schedules: who runs what is due, and a pause or a run by hand beside it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from framework import TaskManager
from framework._manager.others.other_processes import OtherProcesses
from framework._manager.scheduling.schedules import Schedules
from framework._manager.scheduling.timetables import OwnBook
from framework._records.records import TaskRecord
from framework._records.schedules import RunClaim, ScheduleState
from framework._tasks.live import LiveTask
from framework._tasks.specs import Schedule
from framework._threads.waiters import Mailboxes
from tests.explore.ourselves.run import Run
from tests.explore.ourselves.stores import Elsewheres
from tests.explore.ourselves.timers import every_second


class SharedBook(OwnBook):
    """A book of one schedule that several frameworks share; keeps the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[tuple[RunClaim, float | None]] = []
        self._entered = False

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter the schedule once, as a store that outlives its processes."""
        if not self._entered:
            self._entered = True
            return super().enter_schedule(name, timing, now)
        return self.schedules()[0]

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run."""
        answer = super().claim_run(name, due, record, skip=skip)
        self.claims.append((answer, due))
        return answer


@contextmanager
def sharing(run: Run, manager: TaskManager, book: SharedBook, schedule: Schedule) -> Iterator[None]:
    """Run a schedule as a framework that shares the book; all submit to one manager."""
    elsewhere = OtherProcesses([Elsewheres()], run.clock, Mailboxes(), run.clock)
    schedules = Schedules(manager._core.intake, random.Random(0), book, elsewhere)
    schedules.start()
    schedules.add_own(schedule, None)
    yield
    schedules.stop()
    run.sleep(0.5)
    elsewhere.close()


def claim_a_run_twice(run: Run) -> None:
    """Two threads claim one due time: one of them gets it."""
    book, answers = OwnBook(), list[RunClaim]()
    book.enter_schedule("nightly", "", 0.0)

    def claim(task_id: str) -> None:
        task = LiveTask()
        task.task_id, task.created_at, task.rest = task_id, 0.0, None
        answers.append(book.claim_run("nightly", 1.0, task))

    run.together(lambda: claim("1"), lambda: claim("2"))
    assert sorted(answers) == ["claimed", "taken"], answers


def share_a_schedule(run: Run) -> None:
    """Two frameworks with one book run each due time once, whichever comes first."""
    book, runs = SharedBook(), list[float]()
    kept = every_second(lambda: runs.append(run.clock.time()))
    manager = run.manager(1)
    with sharing(run, manager, book, kept), sharing(run, manager, book, kept):
        run.sleep(2.5)
    due = [due for answer, due in book.claims if answer == "claimed"]
    assert len(due) == len(set(due)), due
    assert len(runs) == len(due)
    assert run.clock._live == 0, "a timer is left"


def pause_or_claim(run: Run) -> None:
    """A schedule is paused as it falls due: once it is paused, no run is claimed."""
    book, runs = SharedBook(), list[int]()
    kept = every_second(lambda: runs.append(1))
    claimed: list[int] = []

    def count() -> int:
        return sum(answer == "claimed" for answer, _ in list(book.claims))

    def pause() -> None:
        run.sleep(1.0 - run.clock.time() % 1.0)
        book.pause_schedule("", True, run.clock.time())
        claimed.append(count())

    with sharing(run, run.manager(1), book, kept):
        run.together(pause)
        run.sleep(3.0)
    # One that was answered before the pause may be counted only now.
    assert count() - claimed[0] in (0, 1)
    assert len(runs) == count() <= 1, book.claims


def by_hand_or_due(run: Run) -> None:
    """A schedule is run by hand as it falls due: its runs do not overlap."""
    manager, live, most = run.manager(2), list[int](), list[int]()

    def body() -> None:
        live.append(1)
        most.append(len(live))
        live.pop()

    kept = every_second(body)
    schedules = manager._core.schedules
    schedules.start()
    schedules.add_own(kept, None)
    (table,) = schedules.tables()

    def by_hand() -> None:
        run.sleep(1.0)
        schedules.run_by_hand(table, manager._core.intake.offer(table.spec, {}, _frame()))

    run.together(by_hand, by_hand)
    schedules.stop()
    run.sleep(0.5)
    assert set(most) == {1}, most


def _frame() -> Any:
    return sys._getframe()


SCENARIOS: list[Callable[[Run], None]] = [
    claim_a_run_twice,
    share_a_schedule,
    pause_or_claim,
    by_hand_or_due,
]
