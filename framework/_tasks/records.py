"""What is known of a task: its status, its record, and the events of its life."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import CodeType, TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar, overload

T = TypeVar("T")

Kind: TypeAlias = Literal["thread", "loop"]
"""Where a task's body runs: on a pool's thread, or on the app's event loop."""


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

FINAL: Final = frozenset(TaskStatus) - _LIVE
"""Each status of a task that has ended: asked without the call that `is_final` costs."""


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


class Label:
    """What a task is called; shared by all tasks of one function."""

    __slots__ = ("description", "name")

    def __init__(self, name: str, description: str) -> None:
        self.name: str = name
        self.description: str = description


@functools.lru_cache(maxsize=1_024)
def label_of(name: str, description: str) -> Label:
    """Return a label; the same one again for the same texts, as long as it was used lately.

    A function that was never decorated, or is submitted with options, has its label made
    anew at each call, and each kept task would hold one of its own.
    """
    return Label(name, description)


class Rare(Generic[T]):
    """An attribute that few records have: kept in their `rest`, absent while it is default.

    Most of what a record may know never happens to most tasks; each field in every record
    would cost every submission its time and memory.

    Args:
        default: What it is while nobody has set it; told apart by identity.
    """

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...

    @overload
    def __get__(self, record: TaskRecord, owner: type) -> T: ...

    def __get__(self, record: TaskRecord | None, owner: type) -> T | Self:
        if record is None:
            return self
        rest = record.rest
        return self._default if rest is None else rest.get(self._name, self._default)

    def __set__(self, record: TaskRecord, value: T) -> None:
        rest = record.rest
        if value is self._default:
            if rest is not None:
                rest.pop(self._name, None)
            return
        if rest is None:
            # Two threads may both be the first to set something.
            with _FIRST:
                rest = record.rest
                if rest is None:
                    rest = record.rest = {}
        rest[self._name] = value


_FIRST = threading.Lock()


class TaskRecord:
    """The facts of one task, as the manager writes them and a store keeps them.

    A store may read all of it on any thread. Of a live task it changes at any moment, so read
    a consistent copy (`protocols.StoreHost.snapshot`). A final one changes no more, but for
    ``read`` and ``still_running``; a store may keep it for as long as it likes.

    Attributes:
        task_id: The id.
        label: Name and description, shared by the tasks of one function.
        status: Where the task stands.
        created_at: When it was submitted, in seconds since the epoch. The only stamp of the
            wall clock: people are shown the others by their distance from this one, so a
            wall clock that jumps makes no negative duration.
        created: The same in monotonic seconds of the framework's clock, as the next three.
        queued: When it came to the engine: later than `created` if it was delayed.
        started: When its body first began; None if it has not.
        ended: When it became final; None if it has not.
        attempts: How often its body was begun.
        result: What it returned; None unless it COMPLETED.
        code: The code that submitted it, which costs a tenth of a file name and a line to
            take; None if that is no longer known.
        instruction: The instruction in it.
        rest: What few tasks have, by name; None if it has nothing of it. See `Rare`.
        error: What it raised, or why it has no result.
        traceback: The error's traceback as first raised.
        progress: Share done as last reported, 0.0 to 1.0; None if never reported.
        progress_message: The words that came with it.
        cancel_requested: Whether somebody asked for its cancellation.
        still_running: Whether a body runs on although the task is final.
        reason: Why it waits or how it ended, for people.
        last_error: What ended the attempt before, while the next one is waited for.
        read: Whether somebody has read its failure.
        remote: Whether a `protocols.RemoteEngine` runs it, so that it may outlive the process
            that submitted it.
        store_note: The store's own, None at first; copies have it as well.
    """

    __slots__ = (
        "task_id",
        "label",
        "status",
        "created_at",
        "created",
        "queued",
        "started",
        "ended",
        "attempts",
        "result",
        "code",
        "instruction",
        "rest",
    )

    task_id: str
    label: Label
    status: TaskStatus
    created_at: float
    created: float
    queued: float
    started: float | None
    ended: float | None
    attempts: int
    result: Any  # whatever the task returned
    code: CodeType | None
    instruction: int
    rest: dict[str, Any] | None

    error: Rare[BaseException | None] = Rare(None)
    traceback: Rare[TracebackType | None] = Rare(None)
    progress: Rare[float | None] = Rare(None)
    progress_message: Rare[str] = Rare("")
    cancel_requested: Rare[bool] = Rare(False)
    still_running: Rare[bool] = Rare(False)
    reason: Rare[str] = Rare("")
    last_error: Rare[str | None] = Rare(None)
    read: Rare[bool] = Rare(False)
    remote: Rare[bool] = Rare(False)
    store_note: Rare[Any] = Rare(None)

    @property
    def name(self) -> str:
        """Name of the task's function, or the one given at decoration."""
        return self.label.name

    @property
    def description(self) -> str:
        """A text for people; "" if there is none."""
        return self.label.description

    @property
    def origin(self) -> Origin | None:
        """Where the task was submitted, or None if that is no longer known."""
        return None if self.code is None else Origin(self.code, self.instruction)

    def wall(self, stamp: float | None) -> datetime | None:
        """Return a monotonic *stamp* as aware UTC, or None if it has not happened."""
        if stamp is None:
            return None
        return datetime.fromtimestamp(self.created_at + (stamp - self.created), UTC)


EVENT_OF: Final = {
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
    TaskStatus.TIMEOUT: "timed_out",
    TaskStatus.CANCELLED: "cancelled",
    TaskStatus.INTERRUPTED: "interrupted",
}
"""The kind of event that tells of each final status."""

EVENT_KINDS: Final = (
    "submitted",
    "started",
    "progress",
    "retrying",
    "throttled",
    *EVENT_OF.values(),
    "late_result",
    "evicted",
)


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
