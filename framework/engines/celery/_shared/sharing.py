"""What all processes share through a `CeleryEngine`, besides the tasks themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from framework._records.records import TaskRecord
from framework.engines.celery._redis.state import answering
from framework.engines.celery._shared.schedules import RedisSchedules
from framework.exceptions import FrameworkError, StoreUnavailableError
from framework.protocols import PlaceAnswer, PlaceRequest, RunClaim, ScheduleState


class Sharing:
    """Schedules, places and news of all processes that use the same Redis and namespace.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Any) -> None:  # Any: its module imports this one
        self._engine = engine

    # -- protocols.NewsDirectory

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* with the ids of all tasks that workers report on; blocks."""
        session = self._engine.session
        return bool if session is None else session.watch(told)

    # -- protocols.ScheduleBook

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule of this process; see `protocols.ScheduleBook`."""
        with answering(StoreUnavailableError):
            return self._schedules().enter(name, timing, now)

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of a schedule, and add its task in the same step."""
        engine = self._engine
        try:
            engine.admit(record)
            message = engine.admission.message(record)
        except (FrameworkError, TypeError, ValueError):  # the framework is told when it accepts it
            message = None
        with answering(StoreUnavailableError):
            schedules = self._schedules()
            answer = schedules.claim(name, due, record, message, skip)
            if answer == "busy" and (latest := schedules.last_task(name)) is not None:
                # If its process died before it published the task, nobody else looks at it.
                engine.fetch([latest])
        return answer

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume a schedule for all processes; False if the name is not known."""
        with answering(StoreUnavailableError):
            return self._schedules().pause(name, paused, now)

    def schedules(self) -> Sequence[ScheduleState]:
        """Return the schedules of all processes, by name."""
        with answering(StoreUnavailableError):
            return self._schedules().all()

    def _schedules(self) -> RedisSchedules:
        return RedisSchedules(self._engine.state)

    # -- protocols.SharedPlaces

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place that all processes share; see `protocols.SharedPlaces`."""
        session = self._engine.session
        if session is None:
            raise RuntimeError("the engine is not open")
        session.lines.join(request, told)

    def leave(self, task_id: str) -> None:
        """Give back a task's places."""
        session = self._engine.session
        if session is not None:
            session.lines.leave(task_id)
