"""A task while it lives: its record, what is needed to run it, and the table of its moves.

`ledger` is the only place where a status changes, by this table::

    PENDING -> RUNNING -> COMPLETED | FAILED | TIMEOUT | CANCELLED | INTERRUPTED
    PENDING -> FAILED | CANCELLED | INTERRUPTED       (never ran)
    RUNNING -> RUNNING                                (delivered once more)
"""

from __future__ import annotations

from contextvars import Context
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from framework._tasks.ids import TaskId
from framework._tasks.records import Rare, TaskRecord, TaskStatus

if TYPE_CHECKING:
    import asyncio

Move: TypeAlias = Literal["start", "complete", "fail", "time_out", "cancel", "interrupt"]

PENDING: Final = TaskStatus.PENDING
RUNNING: Final = TaskStatus.RUNNING
COMPLETED: Final = TaskStatus.COMPLETED

_MOVES: Final[dict[Move, dict[TaskStatus, TaskStatus]]] = {
    "start": {PENDING: RUNNING, RUNNING: RUNNING},
    "complete": {RUNNING: COMPLETED},
    "fail": {PENDING: TaskStatus.FAILED, RUNNING: TaskStatus.FAILED},
    "time_out": {RUNNING: TaskStatus.TIMEOUT},
    "cancel": {PENDING: TaskStatus.CANCELLED, RUNNING: TaskStatus.CANCELLED},
    "interrupt": {PENDING: TaskStatus.INTERRUPTED, RUNNING: TaskStatus.INTERRUPTED},
}

# What each move leads to from each status; None where it is refused. Whole, so that it is
# read without a call; see `ledger`.
TARGETS: Final[dict[Move, dict[TaskStatus, TaskStatus | None]]] = {
    move: dict.fromkeys(TaskStatus) | targets for move, targets in _MOVES.items()
}


class LiveTask(TaskRecord):
    """A task while the manager works on it: its record and what is needed to run it.

    Written under the ledger's lock but for what only the running thread touches.
    """

    __slots__ = (
        "spec",
        "args",
        "kwargs",
        "context",
        "home",
        "limit",
        "limit_key",
        "loop",
        "waiters",
        "driver",
        "bodies",
        "handler",
        "outbox",
    )

    spec: Any  # a specs.TaskSpec
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    context: Context | None
    home: Any  # a ledger.Home
    limit: float | None
    limit_key: float | None
    loop: asyncio.AbstractEventLoop | None
    waiters: dict[Any, None] | None
    driver: Any
    bodies: int
    handler: Any  # a pool_threads.Handler
    outbox: Any  # what is to be told of it, see `events`; None before anything is

    limit_left: Rare[float | None] = Rare(None)
    held: Rare[bool] = Rare(False)
    hooks: Rare[tuple[Any, Any] | None] = Rare(None)
    timer: Rare[Any] = Rare(None)
    sleeper: Rare[Any] = Rare(None)
    delivery: Rare[Any] = Rare(None)  # what a worker of a remote engine was handed


def new_task(
    task_id: TaskId[Any],
    spec: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    context: Context,
    home: Any,
    limit: float | None,
    now: float,
    wall: float,
    code: CodeType,
    instruction: int,
) -> LiveTask:
    """Return a PENDING task.

    A function with positional parameters, and one assignment after the other: half the
    cost of a constructor with keywords, and every submission pays it.

    Args:
        task_id: Its id.
        spec: The `specs.TaskSpec` of its function.
        args: The call's positional arguments.
        kwargs: The call's keyword arguments; None if there are none, since a dict for each
            task is one more for the garbage collector.
        context: What its body runs in.
        home: The `ledger.Home` that it belongs to.
        limit: Seconds from its start that it may run; None for any number.
        now: Monotonic second of its submission.
        wall: The same by the wall clock, in seconds since the epoch.
        code: Code that submitted it.
        instruction: The instruction in it.
    """
    task = LiveTask()
    task.task_id = task_id
    task.label = spec.label
    task.status = PENDING
    task.created_at = wall
    task.created = task.queued = now
    task.attempts = task.bodies = 0
    task.code = code
    task.instruction = instruction
    task.spec = spec
    task.args = args
    task.kwargs = kwargs
    task.context = context
    task.home = home
    task.limit = limit
    task.loop = home.loop
    task.started = task.ended = task.result = task.rest = None
    task.limit_key = task.waiters = task.driver = task.handler = task.outbox = None
    return task


def live(record: TaskRecord) -> LiveTask:
    """Return *record*, which came back from an engine or a context, as what it is."""
    assert isinstance(record, LiveTask)
    return record


_COPIED = tuple(name for name in TaskRecord.__slots__)


def copy_record(record: TaskRecord) -> TaskRecord:
    """Return a record that does not change when *record* does."""
    copy = TaskRecord()
    for name in _COPIED:
        setattr(copy, name, getattr(record, name))
    if copy.rest is not None:
        copy.rest = copy.rest.copy()
    return copy
