"""Schedules: run functions at fixed intervals, as ordinary tasks.

Guarantees: a schedule has at most one run at a time; its times are multiples of the interval
since its start, so they do not drift; missed runs are not made up for.
Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the two tables; only the clock's own lock is taken under it.
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
    """The state of one schedule in one framework.

    Attributes:
        start: Monotonic second from which the intervals are counted.
        number: Number of the next run.
        timer: The timer of the next run; None if it is not set.
        latest: The task of the latest run; None before the first one.
    """

    __slots__ = ("latest", "number", "start", "timer")

    def __init__(self, start: float) -> None:
        self.start = start
        self.number = 0
        self.timer: TimerHandle | None = None
        self.latest: LiveTask | None = None


class Schedules:
    """The schedules of one framework.

    Args:
        intake: Submits each run as a task.
        rng: Source of the jitter.
    """

    def __init__(self, intake: Intake, rng: random.Random) -> None:
        self._intake = intake
        self._clock = intake.ledger.clock
        self._rng = rng
        self._lock = threading.Lock()
        self._timetables: weakref.WeakKeyDictionary[Schedule, _Timetable] = (
            weakref.WeakKeyDictionary()
        )
        # Those that no other framework runs, with the app whose stop ends each; None if only
        # the stop of the framework does.
        self._own: weakref.WeakKeyDictionary[Schedule, Home | None] = weakref.WeakKeyDictionary()
        self._running = False

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
            timers = [table.timer for table in self._timetables.values()]
            self._timetables.clear()
            self._own.clear()
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def __len__(self) -> int:
        return len(self._timetables)

    def add(self, schedule: Schedule) -> None:
        """Start a schedule; its intervals are counted from now."""
        table = _Timetable(self._clock.monotonic())
        with self._lock:
            if not self._running or schedule in self._timetables:
                return
            self._timetables[schedule] = table
        if schedule.run_at_start:
            self._run(schedule, table)
        self._plan(weakref.ref(schedule), table)

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
        passed = (clock.monotonic() - table.start) / schedule.every
        table.number = max(table.number + 1, math.floor(passed) + 1)
        when = table.start + table.number * schedule.every
        if schedule.jitter:
            when += self._rng.uniform(0.0, schedule.jitter * schedule.every)
        with self._lock:
            # The timer has a weak reference, so that it does not keep a dropped function alive.
            if self._running and self._timetables.get(schedule) is table:
                table.timer = clock.call_at(
                    when, lambda: self._fire(reference, table), background=True
                )

    def _fire(self, reference: weakref.ref[Schedule], table: _Timetable) -> None:
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
        # A full queue, or an engine that refuses the function, must not end the schedule.
        except (FrameworkError, ValueError, TypeError) as error:
            ledger.count("scheduled_skipped")
            _LOGGER.warning("scheduled %s was skipped: %s", schedule.spec.name, error)
