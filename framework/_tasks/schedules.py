"""What is known about schedules: in a book that processes share, and for those who ask.

The annotations here are objects and not texts, so that an endpoint may return a `ScheduleInfo`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from framework._tasks.ids import TaskId
from framework._tasks.records import TaskStatus

RunClaim: TypeAlias = Literal["claimed", "taken", "busy", "paused"]
"""The answer to a process that wants to run a schedule."""

CLOCK_ERROR: Final = 10_800.0
"""Seconds by which a last due time may lie ahead of the clock. If it lies further ahead, it came
from a clock that was wrong. Cron takes the same three hours for a correction of the clock."""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What a `protocols.ScheduleBook` knows about a schedule.

    Attributes:
        name: Its name.
        timing: When it is due, for people, such as ``cron 0 3 * * * (Europe/Berlin)``.
        last_due: The last due time that was claimed or skipped, in seconds since the epoch; of a
            new schedule, when it was entered.
        ran_at: When its last run was claimed, in seconds since the epoch; None before the first.
        task_id: The task of its last run; None before the first.
        paused: Whether it is paused.
        skipped: How many due times were skipped because the run before had not ended.
    """

    name: str
    timing: str
    last_due: float
    ran_at: float | None = None
    task_id: str | None = None
    paused: bool = False
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule, as `TaskManager.schedules` shows it.

    Attributes:
        name: Its name.
        timing: When it is due, for people, such as ``every 60 s``.
        next_run: When it is due next, in UTC; None while it is paused, if it is never due again,
            or if this process does not have its function.
        last_run: When its last run was submitted, in UTC; None before the first.
        last_task_id: The task of its last run; None before the first.
        last_status: The status of that task; None before the first, or if the task is not kept
            any more.
        paused: Whether it is paused.
        skipped: How many due times were skipped because the run before had not ended.
        missed: How many due times have passed without a run since this process started,
            because it or its machine stood still.
    """

    name: str
    timing: str
    next_run: datetime | None
    last_run: datetime | None
    last_task_id: TaskId[Any] | None
    last_status: TaskStatus | None
    paused: bool
    skipped: int
    missed: int
