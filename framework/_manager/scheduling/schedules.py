"""Schedules: run functions when they are due, as ordinary tasks.

Guarantees: a due time of a schedule is run once, and by one process if several share a book;
runs of a schedule do not overlap; what was missed is made up for as the schedule says.
Relies on: the framework's clock, whose timers may fire on any thread; the book, which decides
who runs what. A book that is shared may block, so it is only asked on the thread of
`other_processes`.
Lock order: `_lock` guards the tables; only the clock's own lock is taken under it.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import weakref
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

from framework._manager.others.other_processes import OtherProcesses
from framework._manager.scheduling.timetables import OwnBook, Timetable
from framework._manager.submitting.intake import Intake
from framework._records.schedules import RunClaim, ScheduleState
from framework._tasks import registry
from framework._tasks.live import Home, LiveTask
from framework._tasks.specs import Hook, Schedule
from framework._tasks.task import Task
from framework._threads.loggers import SafeLogger
from framework.exceptions import (
    FrameworkError,
    FrameworkNotStartedError,
    StoreUnavailableError,
)
from framework.protocols import ScheduleBook, TimerHandle

_LOGGER = SafeLogger("asyncframe")

_RETRY = 1.0
"""Seconds until a book that did not answer is asked again."""

_AGAIN = 5.0
"""Seconds until a due time is claimed again that waits for a run of another process to end."""

_WATCH = 30.0
"""Seconds between two looks whether the wall clock was set, or the machine was asleep."""

_SET = 1.0
"""Seconds by which the wall clock must have moved to count as set."""


class Schedules:
    """The schedules of one framework.

    Args:
        intake: Makes a task of each run.
        rng: Source of the jitter.
        book: Where runs are claimed if processes share them; None if they do not.
        others: Its thread asks a shared book.
        only: The names of those that it runs; None for all.
    """

    def __init__(
        self,
        intake: Intake,
        rng: random.Random,
        book: ScheduleBook | None,
        others: OtherProcesses,
        only: Collection[str] | None = None,
    ) -> None:
        self.book = book
        self._only = only
        self._intake = intake
        self._clock = intake.ledger.clock
        self._rng = rng
        self._others = others
        self._lock = threading.Lock()
        self._timetables: weakref.WeakKeyDictionary[Schedule, Timetable] = (
            weakref.WeakKeyDictionary()
        )
        # Those that no other framework runs, with the app whose stop ends each; None if only
        # the stop of the framework does.
        self._own: weakref.WeakKeyDictionary[Schedule, Home | None] = weakref.WeakKeyDictionary()
        self._running = False
        self._watch_timer: TimerHandle | None = None
        self._ahead = 0.0

    # -- starting and stopping

    def start(self) -> None:
        """Start all schedules; may be called twice."""
        with self._lock:
            if self._running:
                return
            self._running = True
            own = list(self._own)
        for schedule in (*registry.listen(self), *own):
            self.add(schedule)

    def stop(self) -> None:
        """Stop all schedules; may be called twice."""
        registry.unlisten(self)
        with self._lock:
            self._running = False
            for table in self._timetables.values():
                table.set_timer(None)
            if self._watch_timer is not None:
                self._watch_timer.cancel()
            self._watch_timer = None
            self._timetables.clear()
            self._own.clear()

    def __len__(self) -> int:
        return len(self._timetables)

    def tables(self) -> list[Timetable]:
        """Return the schedules that run, in the order of their declaration."""
        with self._lock:
            return list(self._timetables.values())

    def own(self) -> list[Schedule]:
        """Return the schedules that no other framework runs."""
        with self._lock:
            return list(self._own)

    def add(self, schedule: Schedule) -> None:
        """Start a schedule, unless this process is to run others only."""
        if self._only is not None and schedule.spec.name not in self._only:
            return
        shared = None if schedule.options["each_process"] else self.book
        with self._lock:
            if not self._running or schedule in self._timetables:
                return
            table = Timetable(
                self._free_name(schedule.spec.name),
                schedule,
                self._clock,
                OwnBook() if shared is None else shared,
                is_shared=shared is not None,
            )
            self._timetables[schedule] = table
        if table.on_wall:
            self._start_to_watch()
        self.check(table)

    def _free_name(self, name: str) -> str:
        """Return *name*, with a number if another schedule has it already."""
        taken = {table.name for table in self._timetables.values()}
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}#{number}"
        return free

    def add_own(self, schedule: Schedule, home: Home | None) -> None:
        """Start a schedule that no other core runs, now or when this core starts.

        Args:
            schedule: The schedule, which was declared while this core was current.
            home: The app whose stop ends it; None if only the stop of the core does.
        """
        with self._lock:
            self._own[schedule] = home
        self.add(schedule)

    def leave(self, home: Home) -> None:
        """Stop the schedules of an app that stops while the core keeps running."""
        with self._lock:
            gone = [schedule for schedule, its in self._own.items() if its is home]
            for schedule in gone:
                del self._own[schedule]
                table = self._timetables.pop(schedule, None)
                if table is not None:
                    table.set_timer(None)

    # -- running what is due

    def check(self, table: Timetable) -> None:
        """Run what is due of a schedule, and set the timer of its next run; any thread."""
        if not table.is_shared:
            self._check(table)
            return
        # Until the book has answered, virtual time must not pass.
        self._clock.hold()
        if not self._others.post(partial(self._check_shared, table)):
            self._clock.release()

    def _check_shared(self, table: Timetable) -> None:
        try:
            self._check(table)
        finally:
            self._clock.release()

    def _check(self, table: Timetable) -> None:
        schedule = table.schedule()
        if schedule is None or self._timetables.get(schedule) is not table:
            return
        delay: float | None = None
        try:
            delay = self._run_due(schedule, table)
            table.waits = False
        except StoreUnavailableError as error:
            if not table.waits and self._running:
                _LOGGER.warning("scheduled %s waits for the store: %s", table.name, error)
            table.waits, delay = True, _RETRY
        except Exception:  # one fault must not end the schedule
            _LOGGER.exception("unexpected error in the schedule %s", table.name)
            delay = _RETRY
        self._plan(table, delay)

    def _run_due(self, schedule: Schedule, table: Timetable) -> float | None:
        """Run what is due.

        Returns:
            In how many seconds to look again; None for when the next run is due.

        Raises:
            StoreUnavailableError: If the book does not answer.
        """
        at_start = not table.entered and schedule.options["run_at_start"]
        if not table.entered:
            self._enter(schedule, table)
        due = table.due()
        if table.is_shared and table.is_behind(due):
            # This process stood still, and others perhaps did not.
            self._ask(table)
            due = table.due()
        if not due:
            return None
        # What was offered has to be answered: it may have been claimed.
        picked = table.pick(due, make_up=at_start or table.offered is not None)
        if picked is None:
            table.missed += len(due)
            table.last = due[-1]
            return None
        # What was missed is not skipped: the run before was perhaps cut off with its process,
        # of which nobody knows yet that it is dead.
        skip = table.skips and picked > table.entered_at
        claim = self._claim(table, picked, skip)
        if claim == "busy" and not skip:
            return None if self._is_checked_after(table) else _AGAIN
        if claim == "claimed" and table.skips:
            table.missed += len(due) - 1
        table.last = due[-1] if claim == "paused" else picked
        return None

    def _is_checked_after(self, table: Timetable) -> bool:
        """Return whether the last run is live here, and its end leads to the next check."""
        task_id = table.known().task_id
        live = None if task_id is None else self._intake.ledger.find_live(task_id)
        return live is not None and not table.skips

    def _enter(self, schedule: Schedule, table: Timetable) -> None:
        state = self._ask(table)
        if schedule.options["run_at_start"] and state.task_id is None and not state.paused:
            # The same moment for all processes that find the schedule new.
            first = math.nextafter(state.last_due, math.inf)
            self._claim(table, first, table.skips)
            table.last = first
        table.entered, table.entered_at = True, table.now()

    def _ask(self, table: Timetable) -> ScheduleState:
        """Return what the book knows about a schedule, which is entered if it is new."""
        table.state = state = table.book.enter_schedule(table.name, table.times.text, table.now())
        table.last = max(table.last, state.last_due) if table.entered else state.last_due
        return state

    def _claim(self, table: Timetable, due: float, skip: bool) -> RunClaim:
        """Claim a run, and submit its task."""
        ledger = self._intake.ledger
        if ledger.pending >= ledger.queue_size:
            # Not claimed, since another process may have room.
            if skip:
                self._skip(table, "the queue is full")
            return "busy"
        task = table.offered or self.offer(table, due, sys._getframe())
        # If the book does not answer, it is offered again: this claim may have had its effect.
        table.offered = task
        task.kwargs = table.arguments(due) or None
        claim = table.book.claim_run(table.name, due, task, skip=skip)
        table.offered = None
        table.answered(claim, due, task, skip)
        if claim == "claimed":
            self._accept(table, task)
        elif claim == "busy" and skip:
            ledger.count("scheduled_skipped")
        return claim

    def offer(self, table: Timetable, due: float | None, frame: FrameType) -> LiveTask:
        """Make a task of a run, to be accepted once it is claimed; see `Timetable.arguments`."""
        task = self._intake.offer(table.spec, table.arguments(due), frame)
        if not table.skips:
            # What was put off while this run was live comes right after it.
            complete, error = task.hooks or (None, None)
            again = partial(self._check_after, table, task)
            task.hooks = _followed(complete, again), _followed(error, again)
        return task

    def _check_after(self, table: Timetable, task: LiveTask) -> None:
        """Check a schedule once others can see that its run has ended."""
        shared = self._intake.ledger.shared
        if table.is_shared and shared is not None:
            shared.secure(task, lambda _: self.check(table))
        else:
            self.check(table)

    def run_by_hand(self, table: Timetable, task: LiveTask) -> bool:
        """Submit an offered task as a run of a schedule; False if its last run has not ended.

        Raises:
            FrameworkError: If the task is not accepted, or a shared book does not answer.
        """
        try:
            if table.book.claim_run(table.name, None, task) != "claimed":
                return False
            table.answered("claimed", None, task, table.skips)
            self._intake.accept(task)
        # Also if the book has not answered: it may have stored the task.
        except (FrameworkError, ValueError, TypeError) as error:
            self._intake.turn_away(task, error, is_stored=table.is_shared)
            raise
        return True

    def arguments_by_hand(self, name: str, now: float) -> dict[str, Any]:
        """Return what the function of a schedule takes for a run that was triggered at *now*.

        Args:
            name: The schedule; one that does not run here takes nothing.
            now: In seconds since the epoch.
        """
        tables = [table for table in self.tables() if table.name == name and table.is_shared]
        return tables[0].arguments(now) if tables else {}

    def note_pause(self, table: Timetable, paused: bool) -> None:
        """Note that a schedule was paused or resumed here: what was due meanwhile is settled."""
        if not paused:
            table.last = max(table.last, table.now())
        table.state = replace(table.state, paused=paused)

    def _accept(self, table: Timetable, task: LiveTask) -> None:
        try:
            self._intake.accept(task)
        except FrameworkNotStartedError:
            # Others find what was claimed as they find what a process leaves that is killed.
            left = "it is left to the other processes" if table.is_shared else "it does not run"
            _LOGGER.info("scheduled %s was due while the framework stopped: %s", table.name, left)
        # A full queue, or an engine that refuses the function, must not end the schedule.
        except (FrameworkError, ValueError, TypeError) as error:
            self._intake.turn_away(task, error, is_stored=table.is_shared)
            self._skip(table, str(error))

    def _skip(self, table: Timetable, why: str) -> None:
        self._intake.ledger.count("scheduled_skipped")
        _LOGGER.warning("scheduled %s was skipped: %s", table.name, why)

    def _plan(self, table: Timetable, delay: float | None) -> None:
        """Set the timer of the next run, or of another try in *delay* seconds."""
        clock = self._clock
        due = table.next_due()
        when = math.inf if delay is None else clock.monotonic() + delay
        if due is not None:
            late = self._rng.uniform(0.0, table.max_delay) if table.max_delay else 0.0
            when = min(when, table.monotonic(due) + late)
        schedule = table.schedule()
        if schedule is None:
            return
        with self._lock:
            if not self._running or self._timetables.get(schedule) is not table:
                return
            table.set_timer(
                clock.call_at(when, lambda: self.check(table), background=True)
                if when < math.inf
                else None
            )

    # -- the wall clock

    def _start_to_watch(self) -> None:
        """Look now and then whether the wall clock has moved against the monotonic one.

        It does when it is set, and when the machine was asleep, which many monotonic clocks do
        not count. In virtual time neither happens.
        """
        if getattr(self._clock, "may_be_set", False):
            with self._lock:
                if self._watch_timer is None and self._running:
                    self._ahead = self._clock.time() - self._clock.monotonic()
                    self._watch_again()

    def _watch_again(self) -> None:
        """Set the timer of the next look; called with the lock held."""
        when = self._clock.monotonic() + _WATCH
        self._watch_timer = self._clock.call_at(when, self._watch, background=True)

    def _watch(self) -> None:
        ahead = self._clock.time() - self._clock.monotonic()
        with self._lock:
            if not self._running:
                return
            was_set = abs(ahead - self._ahead) > _SET
            if was_set:
                self._ahead = ahead
            tables = list(self._timetables.values())
            self._watch_again()
        for table in tables if was_set else ():
            if table.on_wall:
                self.check(table)


def _followed(hook: Hook | None, then: Callable[[], None]) -> Hook:
    """Return a hook that calls *then* once *hook* has ended, if there is one."""

    def both(task: Task) -> None:
        try:
            if hook is not None:
                hook(task)
        finally:
            then()

    return both
