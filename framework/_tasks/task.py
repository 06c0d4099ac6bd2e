"""Task: what users see of a task, a snapshot of its record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from framework._records.about.arguments import arguments_of
from framework._records.about.meta import MetaValue, meta_of
from framework._records.exports import provided
from framework._records.ids import Accepted, TaskId
from framework._records.jsonsafe import JSON, jsonable, safe_str
from framework._records.reasons import cancel_of, explain, last_error, reason_of
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, SerializationInfo
    from pydantic_core import CoreSchema

SENT: Final = {"asyncframe": "sent to another process"}
"""The context in which pydantic serialises arguments and results."""


class Task(Accepted[Any]):
    """An immutable snapshot of a task.

    The task from `current_task` is not a snapshot: it always shows the current state, and
    you can call `report_progress` and `check_cancelled` on it.
    """

    __slots__ = ("_control", "_record", "_scene", "_source")

    def __init__(
        self,
        record: TaskRecord,
        *,
        source: TaskRecord | None = None,
        control: TaskControl | None = None,
        scene: Any = None,  # a reasons.Scene, which is not public
    ) -> None:
        self._record = record
        self._source = source if source is not None else record
        self._control = control
        self._scene = scene

    @classmethod
    def __get_pydantic_core_schema__(
        cls,
        source: Any,
        handler: GetCoreSchemaHandler,  # Any: pydantic's own signature
    ) -> CoreSchema:
        """Describe a task to pydantic, and so to FastAPI, which shows it as a ``TaskView``."""
        from pydantic_core import core_schema

        view = provided.view()

        def show(task: Task, info: SerializationInfo) -> Any:  # Any: a view
            if info.context is SENT:
                raise ValueError("a task cannot be sent: use its task_id")
            return view.of(task)

        shown = core_schema.plain_serializer_function_ser_schema(
            show, info_arg=True, return_schema=handler.generate_schema(view)
        )
        return core_schema.is_instance_schema(cls, serialization=shown)

    @property
    def task_id(self) -> TaskId[Any]:
        """The id: 32 hexadecimal digits, unless you chose your own."""
        return TaskId(self._record.task_id)

    @property
    def name(self) -> str:
        """The name from the decorator, or the name of the task's function."""
        return self._record.name

    @property
    def description(self) -> str:
        """The description from the decorator or submission; "" if there is none."""
        return self._record.description

    @property
    def owner(self) -> str | None:
        """Whom the task belongs to, such as a user; None if it has no owner.

        A task that is submitted inside another one belongs to the same owner. One that is
        submitted in a request belongs to whom the function *owner* of `framework.http.task_router`
        names. All others have no owner. `to_dict` does not contain it.
        """
        return self._record.owner

    @property
    def label(self) -> str | None:
        """What the task is about, such as ``"order 7"``; None if nobody has said it."""
        return self._record.label

    @property
    def meta(self) -> dict[str, MetaValue]:
        """The columns of the app's own, such as ``{"tenant_id": 7}``; empty if there are none."""
        return meta_of(self._record.meta)

    @property
    def arguments(self) -> dict[str, JSON]:
        """The arguments that the option ``show_arguments`` shows, by parameter; else empty.

        They are as people may see them: as JSON, cut, and with secrets masked.
        """
        return arguments_of(self._record.arguments)

    @property
    def status(self) -> TaskStatus:
        """The status; a final status never changes."""
        return self._record.status

    @property
    def created_at(self) -> datetime:
        """When the task was submitted, in UTC."""
        return datetime.fromtimestamp(self._record.created_at, UTC)

    @property
    def started_at(self) -> datetime | None:
        """When its function first started, in UTC; None if it has not."""
        return self._record.wall(self._record.started)

    @property
    def ended_at(self) -> datetime | None:
        """When the task ended, in UTC; None if it has not."""
        return self._record.wall(self._record.ended)

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None if it has not ended or never started."""
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
        """How often its function was started, including retries and repeated deliveries."""
        return self._record.attempts

    @property
    def progress(self) -> float | None:
        """The last reported progress, from 0.0 to 1.0; None if there is none."""
        return self._record.progress

    @property
    def result(self) -> Any:  # whatever the task returned
        """The return value of the function; None unless the task is COMPLETED."""
        return self._record.result

    @property
    def error(self) -> BaseException | None:
        """The error that ended the task; None if it is COMPLETED or has not ended.

        Accessing it counts as reading the failure, so that it is not logged as unread.
        """
        if self._record.error is not None:
            self._source.read = True
        return self._record.error

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody tried to cancel the task, even without success."""
        record = self._record
        # Inside, not before its code has come to where it stood.
        return record.cancel_asked if self._control is None else record.cancel_requested

    @property
    def still_running(self) -> bool:
        """Whether the function still runs on a thread although the task has ended."""
        return self._record.still_running

    @property
    def reason(self) -> str:
        """Why the task waits or how it ended, in words; "" if its other fields say it all.

        Like `explain`, without the message of an error. A RUNNING task may wait for its next
        attempt or for a throttle.
        """
        return reason_of(self._record, self._scene)

    @property
    def last_error(self) -> str | None:
        """Type and message of the last attempt's error, while the task waits for the next.

        A task that ends during that wait, for example at its time limit, keeps it in the process
        that it ran in. Otherwise None. `to_dict` has the type alone.
        """
        return last_error(self._record)

    @property
    def run_again_of(self) -> TaskId[Any] | None:
        """The id of the task that it repeats, see `TaskManager.run_again`; None for none."""
        repeated = self._record.run_again_of
        return TaskId(repeated) if repeated else None

    @property
    def after(self) -> list[TaskId[Any]]:
        """The ids of the tasks that had to end before it; empty if it waited for none."""
        after = self._record.after
        return [] if after is None else [TaskId(one) for one in after.task_ids]

    @property
    def origin(self) -> str | None:
        """The line that submitted it, ``file:line in function``; None once it succeeded."""
        origin = self._record.origin
        return None if origin is None else str(origin)

    def explain(self) -> str:
        """Say what the task is doing, why it waits and until when, or how it ended.

        The state is that of this snapshot; the position in the queue and the seconds that are left
        are those of this moment. Times of day are in UTC. The text is for people: it has the
        messages of errors, and may be worded differently in another release.

        The position in the queue takes a look at all tasks that wait; everything else is quick.

        Example:
            "queued 3rd of 12", "throttle app.send_email 5/60 s is full; next slot in 12.4 s", or
            "attempt 2 of 4 failed with ConnectionError: refused; the next at 14:03:07 UTC, in 2 s".
        """
        # In one line, whatever a message has; and UTF-8 can encode it.
        return " ".join(str(jsonable(explain(self._record, self._scene))).split())

    def to_dict(self) -> dict[str, Any]:  # Any: JSON, and dicts are invariant for type checkers
        """Return the task as valid JSON, whatever its result is.

        Timestamps are ISO 8601 in UTC, durations are in seconds. This does not count as reading
        a failure. It contains the error message, so think about who may see it.

        ``cancel`` is None if nobody tried to cancel the task while it was live. It is ``asked``
        while a request has not taken effect, ``cancelled`` if the task is CANCELLED, and
        ``cannot`` if it ended otherwise. See `TaskManager.request_cancel`.
        """
        return {**self._state(), "result": jsonable(self._record.result)}

    def _state(self) -> dict[str, Any]:
        """Return what `to_dict` does but the result, which may be large."""
        record = self._record
        error = record.error
        last = None if record.rest is None else last_error(record)
        reason, cancel = reason_of(record, self._scene), cancel_of(record)
        return {
            "task_id": jsonable(str(record.task_id)),
            "name": jsonable(record.name),
            "description": jsonable(record.description),
            "label": record.label and jsonable(record.label),
            "meta": meta_of(record.meta),
            "arguments": arguments_of(record.arguments),
            "status": record.status.value,
            "created_at": self.created_at.isoformat(),
            "start_time": _iso(self.started_at),
            "end_time": _iso(self.ended_at),
            "duration": self.duration,
            "queue_time": self.queue_time,
            "attempts": record.attempts,
            "progress": record.progress,
            "progress_message": jsonable(record.progress_message),
            "has_error": error is not None,
            "error_type": None if error is None else type(error).__name__,
            "error_message": None if error is None else safe_str(error),
            "cancel_requested": record.cancel_asked,
            "still_running": record.still_running,
            "reason": reason and jsonable(reason),
            "last_error_type": None if last is None else last.partition(":")[0],
            "cancel": None if cancel is None else cancel.value,
            "run_again_of": record.run_again_of or None,
            "after": [] if record.after is None else list(record.after.task_ids),
        }

    def report_progress(self, progress: float, message: str = "") -> None:
        """Report the progress of the task; call it inside the task.

        Args:
            progress: From 0.0 to 1.0.
            message: A short text for people.

        Raises:
            ValueError: If *progress* is not within 0.0 to 1.0.
            RuntimeError: If this is a snapshot and not the task from `current_task`.
        """
        self._live("report_progress").report_progress(progress, message)

    def check_cancelled(self) -> None:
        """Raise an error if the task was cancelled or timed out; call it inside the task.

        Raises:
            TaskCancelledError: If somebody cancelled the task (it then ends CANCELLED), or
                if its time limit has passed (it is already TIMEOUT).
            RuntimeError: If this is a snapshot and not the task from `current_task`.
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


class TaskControl(Protocol):
    """What a running task can do: a `live.LiveTask`."""

    def report_progress(self, progress: float, message: str) -> None:
        """See `Task.report_progress`."""

    def check_cancelled(self) -> None:
        """See `Task.check_cancelled`."""


def _iso(stamp: datetime | None) -> str | None:
    return None if stamp is None else stamp.isoformat()
