"""What starts by itself: delayed tasks, scheduled functions, the periodic clean-up.

Guarantees: a schedule has at most one run at a time; times are those of a fixed grid, so
that they do not drift; runs that were missed are not made up.
Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the two tables and is held while
nothing but a timer is set.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
import weakref
from types import FrameType
from typing import Any, Protocol

from framework._running.endings import Endings
from framework._running.ledger import Ledger
from framework._running.runner import Runner
from framework._tasks import registry
from framework._tasks.live import Home, LiveTask
from framework._tasks.specs import Schedule, TaskSpec
from framework.exceptions import FrameworkError
from framework.protocols import Clock, TimerHandle

_LOGGER = logging.getLogger("asyncframe")


class ScheduleLimits(Protocol):
    """How often to clean up, and what to keep."""

    @property
    def cleanup_interval(self) -> float:
        """Seconds between two clean-ups."""
        ...

    @property
    def result_ttl(self) -> float:
        """Seconds for which a finished task is kept."""
        ...

    @property
    def max_finished_tasks(self) -> int:
        """How many finished tasks are kept."""
        ...


class ScheduleHost(Protocol):
    """The core, as far as it is needed here."""

    clock: Clock
    rng: random.Random
    ledger: Ledger
    runner: Runner
    endings: Endings

    @property
    def limits(self) -> ScheduleLimits:
        """How much and how long."""
        ...

    def accept(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
    ) -> LiveTask:
        """Take a checked call in and hand it to the engine."""
        ...


class _Timetable:
    """One schedule under one core."""

    __slots__ = ("begun", "latest", "timer", "turn")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.turn = 0
        self.timer: TimerHandle | None = None
        self.latest: LiveTask | None = None


class Schedules:
    """Everything of one core that starts by itself."""

    def __init__(self, manager: ScheduleHost) -> None:
        self._core = manager
        self._lock = threading.Lock()
        self._timetables: weakref.WeakKeyDictionary[Schedule, _Timetable] = (
            weakref.WeakKeyDictionary()
        )
        # Those of this core alone, and the app with which each ends; None for with the core.
        self._own: weakref.WeakKeyDictionary[Schedule, Home | None] = weakref.WeakKeyDictionary()
        self._delayed: dict[LiveTask, None] = {}
        self._running = False
        self._cleanup: TimerHandle | None = None

    def start(self) -> None:
        """Begin all schedules and the periodic clean-up; harmless to call twice."""
        with self._lock:
            if self._running:
                return
            self._running = True
            own = list(self._own)
        self._plan_cleanup()
        for schedule in (*registry.listen(self), *own):
            self.add(schedule)

    def stop(self) -> None:
        """Start nothing by itself any more; harmless to call twice."""
        registry.unlisten(self)
        with self._lock:
            self._running = False
            timers = [table.timer for table in self._timetables.values()]
            timers.append(self._cleanup)
            self._timetables.clear()
            self._own.clear()
            self._cleanup = None
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def figures(self) -> dict[str, int]:
        """Return how many tasks and schedules wait for their time."""
        with self._lock:
            return {"delayed": len(self._delayed), "scheduled": len(self._timetables)}

    # -- delayed tasks

    def delay(self, task: LiveTask, seconds: float) -> None:
        """Hand an accepted task to the engine in *seconds*, above 0."""
        with self._lock:
            self._delayed[task] = None
        when = self._core.clock.monotonic() + seconds
        try:
            timer = self._core.clock.call_at(when, lambda: self._due(task))
        except Exception as error:  # the id is given already: the task must end, with this
            self.undelay(task)
            self._core.runner.refuse(task, error)
            return
        with self._lock:
            # The timer may have fired already; then it must not be found any more.
            if task in self._delayed:
                task.timer = timer
        if task.status.is_final:
            # Cancelled before its timer could be seen.
            timer.cancel()
            self.undelay(task)

    def is_delayed(self, task: LiveTask) -> bool:
        """Whether a task waits for its time."""
        with self._lock:
            return task in self._delayed

    def undelay(self, task: LiveTask) -> None:
        """Forget a delayed task that was cancelled."""
        with self._lock:
            self._delayed.pop(task, None)

    def _due(self, task: LiveTask) -> None:
        with self._lock:
            self._delayed.pop(task, None)
            task.timer = None
        if not task.status.is_final:
            task.reason = ""
            task.queued = self._core.clock.monotonic()
            self._core.runner.launch(task)

    # -- schedules

    def add(self, schedule: Schedule) -> None:
        """Begin with a schedule, counted from now."""
        table = _Timetable(self._core.clock.monotonic())
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
        clock = self._core.clock
        passed = (clock.monotonic() - table.begun) / schedule.every
        table.turn = max(table.turn + 1, math.floor(passed) + 1)
        when = table.begun + table.turn * schedule.every
        if schedule.jitter:
            when += self._core.rng.uniform(0.0, schedule.jitter * schedule.every)
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
        core = self._core
        latest = table.latest
        if latest is not None and (not latest.status.is_final or latest.still_running):
            core.ledger.count("scheduled_skipped")
            return
        try:
            table.latest = core.accept(schedule.spec, (), {}, sys._getframe())
        # A full queue must not end the schedule, nor an engine that refuses the function.
        except (FrameworkError, ValueError, TypeError) as error:
            core.ledger.count("scheduled_skipped")
            _LOGGER.warning("scheduled %s was skipped: %s", schedule.spec.name, error)

    # -- clean-up

    def _plan_cleanup(self) -> None:
        core = self._core
        if math.isinf(core.limits.cleanup_interval):
            return
        when = core.clock.monotonic() + core.limits.cleanup_interval
        with self._lock:
            if self._running:
                self._cleanup = core.clock.call_at(when, self._clean_up, background=True)

    def _clean_up(self) -> None:
        core = self._core
        core.endings.retention.evict(ended_before=core.clock.monotonic() - core.limits.result_ttl)
        if core.ledger.shared is not None:
            # Many processes put records there, and each counts its own only.
            core.endings.retention.evict(keep=core.limits.max_finished_tasks)
        self._plan_cleanup()
