"""Task: a task as users see it, a snapshot of its record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from framework._tasks.ids import TaskId
from framework._tasks.jsonsafe import jsonable, safe_str
from framework._tasks.records import TaskRecord, TaskStatus


class Task:
    """A task as it was when you asked: an immutable snapshot.

    Only the one that `current_task` gives is live: it shows the running task as it is,
    and `report_progress` and `check_cancelled` work on it.
    """

    __slots__ = ("_control", "_record", "_source")

    def __init__(
        self,
        record: TaskRecord,
        *,
        source: TaskRecord | None = None,
        control: TaskControl | None = None,
    ) -> None:
        self._record = record
        self._source = source if source is not None else record
        self._control = control

    @property
    def task_id(self) -> TaskId[Any]:
        """The id, a string of 32 hexadecimal digits unless you chose your own."""
        return TaskId(self._record.task_id)

    @property
    def name(self) -> str:
        """Name of the task's function, or the one given at decoration."""
        return self._record.name

    @property
    def description(self) -> str:
        """The text given at decoration or submission; "" if there was none."""
        return self._record.description

    @property
    def status(self) -> TaskStatus:
        """Where the task stands; a final one never changes."""
        return self._record.status

    @property
    def created_at(self) -> datetime:
        """When it was submitted, aware UTC."""
        stamp = self._record.wall(self._record.created)
        assert stamp is not None
        return stamp

    @property
    def started_at(self) -> datetime | None:
        """When its body first began, aware UTC; None if it has not."""
        return self._record.wall(self._record.started)

    @property
    def ended_at(self) -> datetime | None:
        """When it became final, aware UTC; None if it has not."""
        return self._record.wall(self._record.ended)

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, 0 or more; None until it has ended or if it never ran."""
        record = self._record
        if record.started is None or record.ended is None:
            return None
        return record.ended - record.started

    @property
    def queue_time(self) -> float | None:
        """Seconds from submission to start; None if it has not started."""
        record = self._record
        return None if record.started is None else record.started - record.created

    @property
    def attempts(self) -> int:
        """How often its body was begun, retries and further deliveries included."""
        return self._record.attempts

    @property
    def progress(self) -> float | None:
        """Share done as last reported, 0.0 to 1.0; None if never reported."""
        return self._record.progress

    @property
    def result(self) -> Any:  # whatever the task returned
        """What the task returned; None unless it is COMPLETED."""
        return self._record.result

    @property
    def error(self) -> BaseException | None:
        """What it raised, or why it has no result; None while live or COMPLETED.

        Reading it counts as having read the failure, which then is not logged as unread.
        """
        if self._record.error is not None:
            self._source.read = True
        return self._record.error

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked for cancellation, whatever came of it."""
        return self._record.cancel_requested

    @property
    def still_running(self) -> bool:
        """Whether a body runs on although the task is final; nothing can stop a thread."""
        return self._record.still_running

    @property
    def reason(self) -> str:
        """Why the task waits or how it ended, for people; often "".

        A RUNNING one waits for its next attempt or for a throttle's slot.
        """
        return self._record.reason

    @property
    def last_error(self) -> str | None:
        """Type and text of what ended the attempt before, while the next one is waited for.

        A task that ends in that wait, such as at its limit, keeps it. None at any other
        time, and of tasks of other processes. Not in `to_dict`: it may be shown to strangers.
        """
        return self._record.last_error

    @property
    def origin(self) -> str | None:
        """Where it was submitted, ``file:line in function``; None once it succeeded."""
        origin = self._record.origin
        return None if origin is None else str(origin)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON, and dicts are invariant for type checkers
        """Return everything as strict JSON, whatever the result is.

        Stamps are ISO 8601 in UTC, durations are seconds. Does not count as reading the
        failure. The error's text is in it: think before you show it to strangers.
        """
        record = self._record
        error = record.error
        return {
            "task_id": jsonable(str(record.task_id)),
            "name": jsonable(record.name),
            "description": jsonable(record.description),
            "status": record.status.value,
            "created_at": self.created_at.isoformat(),
            "start_time": _iso(self.started_at),
            "end_time": _iso(self.ended_at),
            "duration": self.duration,
            "queue_time": self.queue_time,
            "attempts": record.attempts,
            "progress": record.progress,
            "progress_message": jsonable(record.progress_message),
            "result": jsonable(record.result),
            "has_error": error is not None,
            "error_type": None if error is None else type(error).__name__,
            "error_message": None if error is None else safe_str(error),
            "cancel_requested": record.cancel_requested,
            "still_running": record.still_running,
            "reason": record.reason,
        }

    def report_progress(self, progress: float, message: str = "") -> None:
        """Tell how far the task is; only from inside it.

        Args:
            progress: Share done, from 0.0 to 1.0.
            message: A few words for people.

        Raises:
            ValueError: If *progress* is not within 0.0 to 1.0.
            RuntimeError: If this is a snapshot and not what `current_task` gave.
        """
        self._live("report_progress").report_progress(progress, message)

    def check_cancelled(self) -> None:
        """Leave a running task that is no longer wanted; only from inside it.

        Raises:
            TaskCancelledError: If cancellation was asked for (the task then ends
                CANCELLED) or the limit has passed (it is TIMEOUT already).
            RuntimeError: If this is a snapshot and not what `current_task` gave.
        """
        self._live("check_cancelled").check_cancelled()

    def _live(self, method: str) -> TaskControl:
        if self._control is None:
            raise RuntimeError(
                f"{method}() was called on a snapshot of the task: inside the task, call it on "
                "current_task()"
            )
        return self._control

    def __repr__(self) -> str:
        return f"<Task {self._record.task_id} {self._record.name} {self._record.status}>"


class TaskControl:
    """What a running task may do to itself; made by the manager for `current_task`."""

    __slots__ = ("check_cancelled", "report_progress")

    def __init__(
        self,
        report_progress: Callable[[float, str], None],
        check_cancelled: Callable[[], None],
    ) -> None:
        self.report_progress: Callable[[float, str], None] = report_progress
        self.check_cancelled: Callable[[], None] = check_cancelled


def _iso(stamp: datetime | None) -> str | None:
    return None if stamp is None else stamp.isoformat()
