"""What all processes share through a `CeleryEngine`, besides the tasks themselves.

Its methods are those of optional protocols; see `framework.protocols`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis

from framework._records.records import TaskRecord
from framework.engines.celery._messages import Message
from framework.engines.celery._redis.reports import Reports
from framework.engines.celery._redis.state import State
from framework.engines.celery._shared.lines import RedisLines
from framework.engines.celery._shared.schedules import RedisSchedules
from framework.exceptions import FrameworkError, StoreUnavailableError
from framework.protocols import EngineTask, PlaceAnswer, PlaceRequest, RunClaim, ScheduleState


class Sharing:
    """Schedules and places of all processes that use the same Redis and namespace."""

    _lines: RedisLines | None = None
    _reports: Reports | None = None

    @property
    @abstractmethod
    def state(self) -> State:
        """The task states in Redis."""

    @abstractmethod
    def admit(self, task: EngineTask) -> None:
        """Look at a task before it is accepted."""

    @abstractmethod
    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of these ids."""

    @abstractmethod
    def _message(self, task: EngineTask) -> Message:
        """Return the message of an admitted task."""

    @abstractmethod
    def _listen(self) -> None:
        """Read reports from now on; blocks."""

    # -- protocols.NewsDirectory

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* with the ids of all tasks that workers report on; blocks."""
        reports = self._reports
        if reports is None:
            return bool
        reports.told = told
        # While Redis is away, its thread finds the place later, and then says that all may have
        # changed.
        with suppress(redis.RedisError):
            self._listen()

        def stop() -> None:
            reports.told = None

        return stop

    # -- protocols.ScheduleBook

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule of this process; see `protocols.ScheduleBook`."""
        with self._answering():
            return RedisSchedules(self.state).enter(name, timing, now)

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of a schedule, and add its task in the same step."""
        try:
            task: Any = record  # Any: an EngineTask as well
            self.admit(task)
            message = self._message(task)
        except (FrameworkError, TypeError, ValueError):  # the framework is told when it accepts it
            message = None
        schedules = RedisSchedules(self.state)
        with self._answering():
            answer = schedules.claim(name, due, record, message, skip)
            if answer == "busy" and (latest := schedules.last_task(name)) is not None:
                # If its process died before it published the task, nobody else looks at it.
                self.fetch([latest])
        return answer

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume a schedule for all processes; False if the name is not known."""
        with self._answering():
            return RedisSchedules(self.state).pause(name, paused, now)

    def schedules(self) -> Sequence[ScheduleState]:
        """Return the schedules of all processes, by name."""
        with self._answering():
            return RedisSchedules(self.state).all()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise StoreUnavailableError(f"Redis does not answer: {error}") from error

    # -- protocols.SharedPlaces

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place that all processes share; see `protocols.SharedPlaces`."""
        if self._lines is None:
            raise RuntimeError("the engine is not open")
        self._lines.join(request, told)

    def leave(self, task_id: str) -> None:
        """Give back a task's places."""
        if self._lines is not None:
            self._lines.leave(task_id)
