"""A live task: its record, what is needed to run it, and which one is current.

Its status changes only in `ledger`, and only as the table `statuses.TRAITS` allows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol

from framework._records import checks
from framework._records.ids import TaskId
from framework._records.jsonsafe import LONGEST_TEXT, cut
from framework._records.records import Rare, TaskRecord
from framework._records.statuses import PENDING, TaskStatus
from framework._records.steps import KeptMessages, KnownSteps
from framework._tasks.places import TaskPlaces
from framework._tasks.specs import Hooks, TaskSpec
from framework._tasks.task import Task
from framework.exceptions import TaskCancelledError

CARRIED: Final = ContextVar[Mapping[str, str] | None]("asyncframe_carried", default=None)
"""In a task's own context: what tracers carry from its submission to its start."""


class Waiter(Protocol):
    """A thread or coroutine that waits for a task to become final.

    Attributes:
        reads: Whether it will read the outcome, so that a failure needs no line in the log.
    """

    reads: bool

    def wake(self) -> None:
        """Wake it, since the task is final; any thread."""

    def nudge(self) -> None:
        """Wake it to run the task inline, since the task was just queued; any thread."""


class Sleeper(Protocol):
    """A call that sleeps inside a task: for a retry's delay, or for a throttle's turn."""

    @property
    def interrupted(self) -> bool:
        """Whether it was interrupted, and must give up."""
        ...

    def wait(self, until: float | None) -> Any:  # on a loop what is awaited
        """Wait until signalled or interrupted, or until the monotonic second *until*."""

    def signal(self) -> None:
        """End the current wait, or else the next one; any thread."""

    def interrupt(self) -> None:
        """End the current wait and all later ones; any thread."""


class Pause(NamedTuple):
    """A wait for a task's next attempt, while nothing of its function runs.

    Attributes:
        due: The wall second at which it is over.
        used: How many seconds of the task's limit are over by then.
        begun: Whether the attempt before it has begun: not if it waits for a throttle.
    """

    due: float
    used: float
    begun: bool


class Driver(Protocol):
    """Drives a task's coroutine: a `coroutines.Drive`.

    Attributes:
        asyncio_task: The one that awaits the coroutine; None before its first step.
        in_place: Whether the code that awaits it gets the outcome.
    """

    asyncio_task: asyncio.Task[Any] | None
    in_place: bool

    def request_cancel(self, *, abandon: bool = False) -> None:
        """Cancel the coroutine from any thread; with *abandon* do not wait for it to end."""


class Timer(Protocol):
    """Starts a delayed task when it is due."""

    def cancel(self) -> None:
        """Keep it from starting the task."""


class OwnLedger(Protocol):
    """What a task and its home need of the ledger: a `ledger.Ledger`."""

    def progress(self, task: LiveTask, share: float, message: str) -> None:
        """Record the progress of *task*, unless it is final."""

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that does not belong to a status."""


class HomeCore(Protocol):
    """What a task needs of the core of its home: a `core.Core`."""

    @property
    def ledger(self) -> OwnLedger:
        """The ledger of its tasks."""
        ...


@dataclass(slots=True, eq=False)
class Home:
    """One app's part of a manager: its event loop and its live tasks.

    Attributes:
        core: The core that it belongs to: a `core.Core`.
        app: The app, or None.
        loop: Where its ``async def`` tasks run; None to run each on its submitter's loop.
        closed: Whether it refuses further tasks.
        live: Its tasks that are not final, or not yet passed to the store, by id.
        on_idle: Called when `live` becomes empty, on any thread, and perhaps more than once;
            None for no call.
    """

    core: HomeCore
    app: object
    loop: asyncio.AbstractEventLoop | None
    closed: bool = False
    live: dict[str, LiveTask] = field(default_factory=dict)
    on_idle: Callable[[], None] | None = None


class Outbox:
    """The events of one task that are not published yet, the earliest first.

    Attributes:
        entries: The kind, the task's status and attempts then, and more fields of the event.
        publishing: Held by the thread that publishes; others leave their events to it.
    """

    __slots__ = ("entries", "publishing")

    def __init__(self) -> None:
        self.entries: list[tuple[str, TaskStatus, int, dict[str, Any]]] = []
        # Made here, where `threading.Lock` may be a model, and not by the factory of a field.
        self.publishing = threading.Lock()


class LiveTask(TaskRecord):
    """A task that the manager works on: its record and what is needed to run it.

    Fields are written under the ledger's lock, except those that only the running thread
    uses.

    Attributes:
        spec: The function and its options.
        args: The call's positional arguments; None once it is COMPLETED, and after any other end
            once `calls` does not keep them.
        kwargs: The call's keyword arguments; None if there are none, or `args` is None.
        context: The context that the function runs in; None once it has ended.
        home: The home of the app that it belongs to.
        limit: Seconds that it may run, counted from its start; None for no limit.
        limit_key: The limit under which it has an entry in `Deadlines`; None for no entry.
        loop: The event loop that it runs on if it is ``async def``; None if there is none.
        waiters: Its waiters, in order; None if there are none.
        driver: Drives its coroutine; None if it has none.
        bodies: How many runs of its function have not ended: more than one if a remote
            engine delivered it again.
        handler: Belongs to the engine; see `protocols.EngineTask`.
        outbox: Its events; None while nothing listens.
        limit_left: Seconds that were left of the limit when a throttle suspended it, 0.0 if
            it expired just then; None if it was never suspended.
        held: Whether it holds the clock while it is queued.
        hooks: The hooks for its end; None if there are none.
        timer: Starts it when its delay is over; None if it has none.
        sleeper: The retry or throttle that sleeps inside it; None if there is none.
        pause: Set while it sleeps between two attempts and could as well do so in another process.
        places: What it has asked of the lines of unique and limited tasks; None if nothing.
        delivery: What a worker of a remote engine received; None elsewhere.
        engine_note: Belongs to the engine; see `protocols.EngineTask`.
        kept: Whether a remote engine has noted it while it waits; see `protocols.KeepingEngine`.
        secured: Whether its submission has returned once it was stored safely.
        parents: What was known, when it was submitted, of the tasks that it waits for; nothing once
            it is launched, or may be.
        messages: What was sent to it, if no store keeps that; None if nothing was.
        replays: Whether its code is answered from records of earlier runs, and has not come to
            where it stood.
        steps: Those of its run in this process, or that it goes on from if no store keeps them;
            None if it has none.
    """

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
    handler: Any  # in this process a protocols.Run
    outbox: Outbox | None

    # Without the rare ones, which follow.
    __slots__ = tuple(__annotations__)

    limit_left: Rare[float | None] = Rare(None)
    held: Rare[bool] = Rare(False)
    hooks: Rare[Hooks | None] = Rare(None)
    timer: Rare[Timer | None] = Rare(None)
    sleeper: Rare[Sleeper | None] = Rare(None)
    pause: Rare[Pause | None] = Rare(None)
    places: Rare[TaskPlaces | None] = Rare(None)
    delivery: Rare[Any] = Rare(None)
    engine_note: Rare[Any] = Rare(None)
    kept: Rare[bool] = Rare(False)
    secured: Rare[bool] = Rare(False)
    parents: Rare[Sequence[TaskRecord]] = Rare(())
    messages: Rare[KeptMessages | None] = Rare(None)
    steps: Rare[KnownSteps | None] = Rare(None)
    replays: Rare[bool] = Rare(False)

    @property
    def level(self) -> int:
        """The index of its priority in `options.PRIORITIES`, for queues."""
        return self.spec.level

    @property
    def was_given_away(self) -> bool:
        """Whether another process runs it now, and this one does not follow it any more."""
        return self.restart is not None and self.restart.state == "left"

    @property
    def carried(self) -> Mapping[str, str]:
        """What travels with it to the process that runs it; see `protocols.TaskTracer`."""
        context = self.context
        return (None if context is None else context.get(CARRIED)) or {}

    def report_progress(self, progress: float, message: str) -> None:
        """Do what `Task.report_progress` says, for the one that `current_task` has returned."""
        share = checks.number("progress", progress, at_least=0, at_most=1)
        told = cut(checks.text("message", message), LONGEST_TEXT)
        self.home.core.ledger.progress(self, share, told)

    def check_cancelled(self) -> None:
        """Do what `Task.check_cancelled` says, for the one that `current_task` has returned."""
        if self.cancel_requested or self.status.is_final:
            raise TaskCancelledError(self.task_id, self.name)


current_home: ContextVar[Home | None] = ContextVar("asyncframe_home", default=None)
"""The home of the app whose request or task runs here, or None."""

current_record: ContextVar[LiveTask | None] = ContextVar("asyncframe_task", default=None)
"""The task that runs here, or None."""


def current_task() -> Task | None:
    """Return the task that is running here; None outside a task.

    It also works in coroutines that the task starts, and in threads that copy its
    context.
    """
    task = current_record.get()
    return None if task is None else Task(task, control=task)


def new_task(
    task_id: TaskId[Any], spec: TaskSpec, context: Context, home: Home, created: float, wall: float
) -> LiveTask:
    """Return a PENDING task without arguments and limit, which another process submitted.

    `intake` makes those of this process by the same assignments.

    Args:
        task_id: The id.
        spec: The function and its options.
        context: The context that the function runs in.
        home: The home of the app that it belongs to.
        created: Monotonic second of the submission.
        wall: Time of the submission, in seconds since the epoch.
    """
    # Every field is set: a slot that is not set raises AttributeError when it is read.
    task = LiveTask()
    task.task_id = task_id
    task.heading = spec.heading
    task.status = PENDING
    task.created_at = wall
    task.created = task.queued = created
    task.attempts = task.bodies = task.instruction = 0
    task.spec = spec
    task.args = ()
    task.context = context
    task.home = home
    task.loop = home.loop
    task.kwargs = task.code = task.limit = None
    task.started = task.ended = task.result = task.rest = None
    task.limit_key = task.waiters = task.driver = task.handler = task.outbox = None
    return task


def live(record: TaskRecord) -> LiveTask:
    """Return *record*, which came back from an engine or a context, as a live task."""
    assert isinstance(record, LiveTask)
    return record


_values_of = attrgetter(*TaskRecord.__slots__)


def copy_record(record: TaskRecord) -> TaskRecord:
    """Return a copy of *record*, which does not change with it."""
    copy = TaskRecord()
    for name, value in zip(TaskRecord.__slots__, _values_of(record), strict=True):
        setattr(copy, name, value)
    if copy.rest is not None:
        copy.rest = copy.rest.copy()
    return copy


_OWN: Final = ("code", "instruction", "heading", "task_id")
"""What a process knows better of a task that it has submitted than the store does."""


def adopt_state(record: TaskRecord, found: TaskRecord) -> None:
    """Give a record the state of another one of the same task."""
    for name in TaskRecord.__slots__:
        if name not in (*_OWN, "status"):
            setattr(record, name, getattr(found, name))
    record.rest = None if found.rest is None else found.rest.copy()
    # Last: whoever finds it final reads the rest.
    record.status = found.status
