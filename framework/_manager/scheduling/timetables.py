"""Timetables: when one schedule runs next, and the book of schedules that no process shares.

Guarantees: a due time is picked once, unless it is not settled; nothing here waits.
Lock order: the lock of a book is innermost.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from framework._records.due import DueTimes, Every, recent
from framework._records.records import TaskRecord
from framework._records.schedules import (
    CLOCK_ERROR,
    RunClaim,
    ScheduleState,
    answer_to,
    state_after,
    state_entered,
    state_paused,
)
from framework._records.statuses import FINAL
from framework._tasks.live import LiveTask
from framework._tasks.specs import Schedule, TaskSpec
from framework._threads.loggers import SafeLogger
from framework.protocols import Clock, ScheduleBook, TimerHandle

_LOGGER = SafeLogger("asyncframe")

MOST: Final = 100
"""How many missed due times are told apart, and made up for at most."""

PUNCTUAL: Final = 60.0
"""Seconds by which a run may be late and still counts as in time."""

_ROUNDING: Final = 1e-6
"""Seconds by which a timer may fire early, since times since the epoch are rounded."""


class Timetable:
    """The state of one schedule in one framework.

    Args:
        name: Its name, which no other schedule of the framework has.
        schedule: The schedule.
        clock: The framework's clock.
        book: Where its runs are claimed.
        is_shared: Whether other processes claim them too, so that the book may block.

    Attributes:
        schedule: The schedule; a weak reference, so that a timer does not keep a function alive
            that was dropped.
        spec: What to run.
        times: When it is due.
        on_wall: Whether its times are those of the wall clock, and not monotonic ones.
        max_delay: The longest time in seconds by which a run is put off at random.
        last: The latest due time that is settled, as far as this process knows.
        state: What a shared book has last said.
        entered: Whether it is in the book.
        entered_at: When it was entered, by the clock of its due times: what was due by then was
            missed.
        missed: How many due times have passed without a run.
        waits: Whether the book has not answered when it was last asked.
        offered: The task of a claim that nobody has answered; None if there is none.
        timer: The timer of the next run; None if it is not set.
    """

    def __init__(
        self, name: str, schedule: Schedule, clock: Clock, book: ScheduleBook, *, is_shared: bool
    ) -> None:
        times = schedule.times
        self.on_wall = is_shared or not isinstance(times, Every)
        if isinstance(times, Every) and not is_shared:
            times = Every(times.seconds, clock.monotonic())
        self.name = name
        self.schedule = weakref.ref(schedule)
        self.spec: TaskSpec = schedule.spec
        self.times: DueTimes = times
        self.book = book
        self.is_shared = is_shared
        self._clock = clock
        self._takes_due = schedule.takes_due
        self._missed_policy = schedule.options["missed"]
        jitter: float = schedule.options["jitter"]
        self.max_delay: float = jitter * times.seconds if isinstance(times, Every) else 0.0
        self.last = self.now()
        self.state = ScheduleState(name, times.text, self.last)
        self.entered, self.entered_at = False, self.last
        self.missed = 0
        self.waits = False
        self.offered: LiveTask | None = None
        self.timer: TimerHandle | None = None

    def set_timer(self, timer: TimerHandle | None) -> None:
        """Set the timer of the next run, in place of the one that was set."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = timer

    @property
    def skips(self) -> bool:
        """Whether a due time is skipped if the run before is still live."""
        return self._missed_policy != "all"

    def now(self) -> float:
        """Return the time by the clock of its due times."""
        return self._clock.time() if self.on_wall else self._clock.monotonic()

    def monotonic(self, due: float) -> float:
        """Return the monotonic second of a due time."""
        if not self.on_wall:
            return due
        return self._clock.monotonic() + max(0.0, due - self._clock.time())

    def moment(self, due: float) -> datetime | None:
        """Return a due time in UTC; None for one that lies beyond all dates."""
        passed = 0.0 if self.on_wall else self._clock.time() - self._clock.monotonic()
        try:
            return datetime.fromtimestamp(due + passed, UTC)
        except (ValueError, OverflowError, OSError):
            return None

    def due(self) -> list[float]:
        """Return the due times that have come and are not settled, the latest `MOST` of them."""
        now = self.now() + _ROUNDING
        if self.last > now + CLOCK_ERROR:
            _LOGGER.warning(
                "scheduled %s has run for a time that lies more than three hours ahead: the clock "
                "is wrong, or was; the schedule goes on from now",
                self.name,
            )
            self.last = now
        return recent(self.times, self.last, now, MOST)

    def is_behind(self, due: Sequence[float]) -> bool:
        """Return whether *due* has more than one time that has just come."""
        return len(due) > 1 or bool(due and self._is_late(due[0]))

    def _is_late(self, due: float) -> bool:
        return due < self.now() - PUNCTUAL - self.max_delay

    def pick(self, due: Sequence[float], *, make_up: bool = False) -> float | None:
        """Return which of some due times to run now; None for none of them.

        Args:
            due: The due times, at least one.
            make_up: Whether one that was missed is run, though the schedule skips those.
        """
        if self._missed_policy == "all":
            return due[0]
        if self._missed_policy == "skip" and not make_up and self._is_late(due[-1]):
            return None
        return due[-1]

    def answered(self, claim: RunClaim, due: float | None, task: TaskRecord, skip: bool) -> None:
        """Note the answer to a claim of this process; *due* is None for a run by hand."""
        state = self.state
        if claim == "claimed" and due is not None:
            state = replace(state, paused=False)
        task_id, now = task.task_id, task.created_at
        self.state = state_after(state, claim, due, task_id, now, skip=skip)

    def known(self) -> ScheduleState:
        """Return what is known about it, as far as this process has heard."""
        return self.state if self.is_shared else self.book.schedules()[0]

    def arguments(self, due: float | None) -> dict[str, Any]:
        """Return the arguments of the function for a run; *due* is None for one by hand."""
        if not self._takes_due:
            return {}
        moment = self.moment(self.now() if due is None else due)
        return {"due": None if moment is None else moment.astimezone(self.times.zone)}

    def next_due(self) -> float | None:
        """Return the next due time that has not come; None if there is none."""
        return self.times.after(max(self.last, self.now()))


def _is_live(latest: TaskRecord | None) -> bool:
    return latest is not None and (latest.status not in FINAL or latest.still_running)


class OwnBook(ScheduleBook):
    """The book of one schedule that only this process runs; never blocks.

    Its times are by the clock of the schedule's due times. Its state has no name before the
    first call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = ScheduleState("", "", 0.0)
        self._latest: TaskRecord | None = None

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter the schedule, and return what is known about it."""
        with self._lock:
            known = self._state if self._state.name else None
            self._state = state_entered(known, name, timing, now)
            return self._state

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of the schedule."""
        task_id, now = record.task_id, record.created_at
        with self._lock:
            found, latest = self._state if self._state.name else None, self._latest
            answer = answer_to(found, due, task_id, lambda: _is_live(latest))
            state = found or ScheduleState(name, "", now if due is None else due)
            self._state = state_after(state, answer, due, task_id, now, skip=skip)
            if answer == "claimed":
                self._latest = record
        return answer

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause the schedule, or resume it."""
        with self._lock:
            if not self._state.name:
                return False
            self._state = state_paused(self._state, paused, now)
        return True

    def schedules(self) -> Sequence[ScheduleState]:
        """Return what is known about the schedule."""
        with self._lock:
            return [self._state]
