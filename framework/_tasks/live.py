"""A task while it lives: its record, what is needed to run it, and the table of its moves.

`ledger` is the only place where a status changes, by this table::

    PENDING -> RUNNING -> COMPLETED | FAILED | TIMEOUT | CANCELLED | INTERRUPTED
    PENDING -> FAILED | CANCELLED | INTERRUPTED       (never ran)
    RUNNING -> RUNNING                                (delivered once more)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from types import CodeType
from typing import Any, Final, Literal, Protocol, TypeAlias

from framework._tasks.ids import TaskId
from framework._tasks.records import Rare, TaskRecord, TaskStatus
from framework._tasks.specs import Hooks, TaskSpec

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

# The status that each move leads to from each status; None where it is refused. Every pair
# has an entry, so the ledger reads the table without a call while it holds its lock.
TARGETS: Final[dict[Move, dict[TaskStatus, TaskStatus | None]]] = {
    move: dict.fromkeys(TaskStatus) | targets for move, targets in _MOVES.items()
}


class Waiter(Protocol):
    """Somebody who waits for a task to become final."""

    def wake(self) -> None:
        """Say that the task is final; any thread."""

    def nudge(self) -> None:
        """Say that the task has just been queued, so that it could be run inline."""


class Sleeper(Protocol):
    """A call that sleeps inside a task: for a retry's delay, or for a throttle's turn."""

    @property
    def interrupted(self) -> bool:
        """Whether it was interrupted, and must give up."""
        ...

    def signal(self) -> None:
        """End the current wait, or else the next one; any thread."""

    def interrupt(self) -> None:
        """End the current wait and all later ones; any thread."""


class Driver(Protocol):
    """What drives a task's coroutine: a `coroutines.Drive`.

    Attributes:
        owner: The asyncio task that awaits it; None before its first step.
    """

    owner: asyncio.Task[Any] | None

    def request_cancel(self, *, abandon: bool = False) -> None:
        """Cancel the coroutine from any thread; with *abandon* do not wait for it to end."""


class Timer(Protocol):
    """What starts a delayed task."""

    def cancel(self) -> None:
        """Keep it from starting the task."""


class ProgressLedger(Protocol):
    """Where a running task's progress is noted: a `ledger.Ledger`."""

    def progress(self, task: LiveTask, share: float, message: str) -> None:
        """Note how far a task is; a final one keeps what it had."""


class Owner(Protocol):
    """What a home is a share of, as far as a task needs it: a `core.Core`."""

    @property
    def ledger(self) -> ProgressLedger:
        """Where its tasks are counted and moved."""
        ...


class Home:
    """One app's share of a manager: the loop that its tasks run on, and how many live.

    Attributes:
        core: What it is a share of: a `core.Core`.
        app: The app, or None.
        loop: Where its ``async def`` tasks run; None to run each on its submitter's loop.
        closed: Whether it takes no tasks any more.
        live: Its tasks that are not final yet, or not handed over yet, by id.
        on_idle: Called when `live` has become empty, on any thread, perhaps more than once;
            None while nobody asks.
    """

    __slots__ = ("app", "closed", "core", "live", "loop", "on_idle")

    def __init__(self, core: Owner, app: object, loop: asyncio.AbstractEventLoop | None) -> None:
        self.core = core
        self.app = app
        self.loop = loop
        self.closed = False
        self.live: dict[str, LiveTask] = {}
        self.on_idle: Callable[[], None] | None = None


class Outbox:
    """The events of one task that are not published yet, the earliest first.

    Attributes:
        entries: The kind, the task's status and attempts then, and more fields of the event.
        publishing: Held by the thread that publishes; others leave their events to it.
    """

    __slots__ = ("entries", "publishing")

    def __init__(self) -> None:
        self.entries: list[tuple[str, TaskStatus, int, dict[str, Any]]] = []
        self.publishing = threading.Lock()


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

    spec: TaskSpec
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    context: Context | None
    home: Home
    limit: float | None
    limit_key: float | None
    loop: asyncio.AbstractEventLoop | None
    waiters: dict[Waiter, None] | None
    driver: Driver | None
    bodies: int
    handler: Any  # the engine's, see `protocols.EngineTask`; locally a pool_threads.Handler
    outbox: Outbox | None

    limit_left: Rare[float | None] = Rare(None)
    held: Rare[bool] = Rare(False)
    hooks: Rare[Hooks | None] = Rare(None)
    timer: Rare[Timer | None] = Rare(None)
    sleeper: Rare[Sleeper | None] = Rare(None)
    delivery: Rare[Any] = Rare(None)  # what a worker of a remote engine received
    engine_note: Rare[Any] = Rare(None)  # the engine's, see `protocols.EngineTask`


def new_task(
    task_id: TaskId[Any],
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    context: Context,
    home: Home,
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
        spec: Its function, as a task.
        args: The call's positional arguments.
        kwargs: The call's keyword arguments; None if there are none, since a dict for each
            task is one more for the garbage collector.
        context: What its body runs in.
        home: The app's share that it belongs to.
        limit: Seconds from its start that it may run; None for any number.
        now: Monotonic second of its submission.
        wall: The same by the wall clock, in seconds since the epoch.
        code: Code that submitted it.
        instruction: The instruction in it.
    """
    task = LiveTask()
    # Every field is set: a slot that is not set raises AttributeError when it is read.
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
