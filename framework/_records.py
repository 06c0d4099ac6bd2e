"""What is known of a task: its status, its record, and the events of its life."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import CodeType, TracebackType
from typing import Any


class TaskStatus(StrEnum):
    """Where a task stands; the value is what JSON shows.

    ``PENDING`` and ``RUNNING`` are live, the others final: a final status never changes.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    # Enum hashes by name in Python code; the hot path looks statuses up in dicts.
    __hash__ = str.__hash__

    @property
    def is_final(self) -> bool:
        """Whether the task has ended for good."""
        return self not in _LIVE


_LIVE = frozenset({TaskStatus.PENDING, TaskStatus.RUNNING})


class Origin:
    """Where a task was submitted: a code object and the instruction in it.

    Turned into text only when somebody asks.
    """

    __slots__ = ("_code", "_instruction")

    def __init__(self, code: CodeType, instruction: int) -> None:
        self._code = code
        self._instruction = instruction

    @property
    def line(self) -> int:
        """Line number of the submitting call, from 1 on; 0 if unknown."""
        for start, end, line in self._code.co_lines():
            if start <= self._instruction < end:
                return line or 0
        return 0

    def __str__(self) -> str:
        return f"{self._code.co_filename}:{self.line} in {self._code.co_qualname}"


class TaskRecord:
    """The facts of one task, as the manager writes them and a store keeps them.

    ``created``, ``queued``, ``started`` and ``ended`` are monotonic seconds of the
    framework's clock, None while they have not happened; ``created_at`` is the wall clock
    at submission, in seconds since the epoch, and the only stamp shown to people: the
    others are derived from it, so a wall clock that jumps makes no negative duration.
    ``call_site`` is the code that submitted it and the instruction in it, which costs a
    tenth of a file name and a line to take; None if that is no longer known.
    """

    __slots__ = (
        "task_id",
        "name",
        "description",
        "status",
        "created_at",
        "created",
        "queued",
        "started",
        "ended",
        "attempts",
        "result",
        "error",
        "traceback",
        "progress",
        "progress_message",
        "cancel_requested",
        "still_running",
        "reason",
        "call_site",
        "read",
    )

    task_id: str
    name: str
    description: str
    status: TaskStatus
    created_at: float
    created: float
    queued: float
    started: float | None
    ended: float | None
    attempts: int
    result: Any  # whatever the task returned
    error: BaseException | None
    traceback: TracebackType | None
    progress: float | None
    progress_message: str
    cancel_requested: bool
    still_running: bool
    reason: str
    call_site: tuple[CodeType, int] | None
    read: bool

    @property
    def origin(self) -> Origin | None:
        """Where the task was submitted, or None if that is no longer known."""
        return None if self.call_site is None else Origin(*self.call_site)

    def wall(self, stamp: float | None) -> datetime | None:
        """Return a monotonic *stamp* as aware UTC, or None if it has not happened."""
        if stamp is None:
            return None
        return datetime.fromtimestamp(self.created_at + (stamp - self.created), UTC)


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One thing that happened to a task.

    Attributes:
        kind: ``submitted``, ``started``, ``progress``, ``retrying``, ``throttled``,
            ``completed``, ``failed``, ``timed_out``, ``cancelled``, ``interrupted``,
            ``late_result`` or ``evicted``.
        task_id: The task, or None for a retry or throttle outside any task.
        name: Name of the task or of the throttled or retried function.
        at: When, in monotonic seconds of the framework's clock.
        time: When, in seconds since the epoch by the framework's clock.
        attempt: Which attempt of the task, from 1 on; 0 before the first.
        status: The task's status after the event, or None outside a task.
        origin: Where the task was submitted, or None if that is no longer known.
        delay: Seconds that ``retrying`` or ``throttled`` is about to wait, else None.
        progress: Share done, 0.0 to 1.0, with ``progress``, else None.
        message: Text given with the progress, or the reason of a final state.
        error: The exception of ``failed``, ``timed_out`` and ``retrying``, else None.
    """

    kind: str
    task_id: str | None
    name: str
    at: float
    time: float
    attempt: int = 0
    status: TaskStatus | None = None
    origin: Origin | None = None
    delay: float | None = None
    progress: float | None = None
    message: str = ""
    error: BaseException | None = None
