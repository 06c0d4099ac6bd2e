"""Scheduled functions: each is run at fixed intervals, as a task like any other.

Guarantees: a schedule has at most one run at a time; times are those of a fixed grid, so
that they do not drift; runs that were missed are not made up.
Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the two tables and is held while nothing but a timer is set.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
import weakref

from framework._manager.intake import Intake
from framework._tasks import registry
from framework._tasks.live import Home, LiveTask
from framework._tasks.records import FINAL
from framework._tasks.specs import Schedule
from framework.exceptions import FrameworkError
from framework.protocols import TimerHandle

_LOGGER = logging.getLogger("asyncframe")


class _Timetable:
    """One schedule under one framework."""

    __slots__ = ("begun", "latest", "timer", "turn")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.turn = 0
        self.timer: TimerHandle | None = None
        self.latest: LiveTask | None = None


class Schedules:
    """The schedules that one framework runs.

    Args:
        intake: Takes each run in as a task.
        rng: Draws the jitter.
    """

    def __init__(self, intake: Intake, rng: random.Random) -> None:
        self._intake = intake
        self._clock = intake.ledger.clock
        self._rng = rng
        self._lock = threading.Lock()
        self._timetables: weakref.WeakKeyDictionary[Schedule, _Timetable] = (
            weakref.WeakKeyDictionary()
        )
        # Those of this framework alone, and the app with which each ends; None for with it.
        self._own: weakref.WeakKeyDictionary[Schedule, Home | None] = weakref.WeakKeyDictionary()
        self._running = False

    def start(self) -> None:
        """Begin all schedules; harmless to call twice."""
        with self._lock:
            if self._running:
                return
            self._running = True
            own = list(self._own)
        for schedule in (*registry.listen(self), *own):
            self.add(schedule)

    def stop(self) -> None:
        """Start nothing by itself any more; harmless to call twice."""
        registry.unlisten(self)
        with self._lock:
            self._running = False
            timers = [table.timer for table in self._timetables.values()]
            self._timetables.clear()
            self._own.clear()
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def __len__(self) -> int:
        return len(self._timetables)

    def add(self, schedule: Schedule) -> None:
        """Begin with a schedule, counted from now."""
        table = _Timetable(self._clock.monotonic())
        with self._lock:
            if not self._running or schedule in self._timetables:
                return
            self._timetables[schedule] = table
        if schedule.run_at_start:
            self._run(schedule, table)
        self._plan(weakref.ref(schedule), table)

    def add_own(self, schedule: Schedule, home: Home | None) -> None:
        """Begin with a schedule that no other core runs, now or once this one has started.

        Args:
            schedule: Made while this core was current.
            home: The app with which it ends; None for with the core.
        """
        with self._lock:
            self._own[schedule] = home
        self.add(schedule)

    def leave(self, home: Home) -> None:
        """End the schedules of an app that stops while the core goes on."""
        with self._lock:
            gone = [schedule for schedule, its in self._own.items() if its is home]
            tables = [self._timetables.pop(schedule, None) for schedule in gone]
            for schedule in gone:
                del self._own[schedule]
        for table in tables:
            if table is not None and table.timer is not None:
                table.timer.cancel()

    def _plan(self, reference: weakref.ref[Schedule], table: _Timetable) -> None:
        schedule = reference()
        if schedule is None:
            return
        clock = self._clock
        passed = (clock.monotonic() - table.begun) / schedule.every
        table.turn = max(table.turn + 1, math.floor(passed) + 1)
        when = table.begun + table.turn * schedule.every
        if schedule.jitter:
            when += self._rng.uniform(0.0, schedule.jitter * schedule.every)
        with self._lock:
            if self._running and self._timetables.get(schedule) is table:
                table.timer = clock.call_at(
                    when, lambda: self._turn(reference, table), background=True
                )

    def _turn(self, reference: weakref.ref[Schedule], table: _Timetable) -> None:
        schedule = reference()
        if schedule is not None:
            self._run(schedule, table)
            self._plan(reference, table)

    def _run(self, schedule: Schedule, table: _Timetable) -> None:
        ledger = self._intake.ledger
        latest = table.latest
        if latest is not None and (latest.status not in FINAL or latest.still_running):
            ledger.count("scheduled_skipped")
            return
        try:
            table.latest = self._intake.submit(schedule.spec, (), {}, sys._getframe())
        # A full queue must not end the schedule, nor an engine that refuses the function.
        except (FrameworkError, ValueError, TypeError) as error:
            ledger.count("scheduled_skipped")
            _LOGGER.warning("scheduled %s was skipped: %s", schedule.spec.name, error)
