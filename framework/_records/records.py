"""What is known about a task: its record, what another process needs to run it, and its events."""

from __future__ import annotations

import functools
import json
import threading
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from types import CodeType, TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar, get_args, overload

from framework._records.chains import After
from framework._records.statuses import EVENT_OF, FAILURES, TaskStatus

T = TypeVar("T")

Kind: TypeAlias = Literal["thread", "loop"]
"""Where a task's function runs: on a thread of the pool, or on the app's event loop."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

RestartState: TypeAlias = Literal["own", "left", "free"]
"""Whose a task is; see `Restart.state`."""

WAITS: Final = "its process ended; it waits for a process that knows its function"
"""The reason of a task that no process has, since its own one has ended."""

OFFERED: Final = "it waits for a worker: a process that knows its function and has a place for it"
"""The reason of a task that a process has given away which has no place for it."""

_FACTS = (
    *("due", "limit", "priority", "idempotent", "carried", "fresh", "offered", "starts"),
    *("failed", "used", "number", "delay", "resumes", "amid"),
)
_KNOWN = frozenset(_FACTS)
_facts_of = attrgetter(*_FACTS)


@dataclass(slots=True, eq=False)
class Restart:
    """What another process needs to run a task, and which process has the task.

    Attributes:
        call: The arguments as JSON, from `wire.encode_call`; "" once the store has them.
        due: The wall second before which it must not start; None if it was not delayed. Of one that
            rests, the second at which its wait is over.
        limit: Seconds that it may run; None for no limit.
        priority: The one of its submission.
        idempotent: Whether it may run again after it has started.
        carried: What tracers carry from its submission to its start; see `protocols.TaskTracer`.
        fresh: Whether it was submitted from outside the app: its options are those of its
            function, which the process that takes it over finds out.
        offered: Whether its process gave it away for want of a place, and none has taken it yet.
        starts: In how many processes it has started that did not give it away in order.
        failed: How many attempts of its own retry have failed, in whichever processes.
        used: How many seconds of its limit are over before it starts again.
        number: Its number in the line of the throttle that it waits for; 0 if it waits for none.
        delay: How many seconds it waits once the tasks have ended that it waits for; 0.0 if it
            waits for none, or no more.
        resumes: Whether its function goes on from its steps.
        amid: Whether its code was left where it waited, or stood, and goes on from there.
        state: Whose it is. ``own``: this process's. ``left``: another process may run it, so
            this one neither starts nor stores it any more. ``free``: the copy that a store writes
            of it then. Changed with the ledger's lock held.
        started: The monotonic second at which the store was asked for its start; None before.
            From then on its row is that of a RUNNING task.
        permitted: Whether its start is stored already, since its process took it and began it in
            one transaction. Then nobody need ask.
        written: Belongs to the store, which notes here where it has written the task.
    """

    call: str
    _: KW_ONLY
    due: float | None = None
    limit: float | None = None
    priority: str = "normal"
    idempotent: bool = False
    carried: dict[str, str] = field(default_factory=dict)
    fresh: bool = False
    offered: bool = False
    starts: int = 0
    failed: int = 0
    used: float = 0.0
    number: int = 0
    delay: float = 0.0
    resumes: bool = False
    amid: bool = False
    state: RestartState = "own"
    started: float | None = None
    permitted: bool = False
    written: list[Any] = field(default_factory=list)

    def facts(self) -> str:
        """Return all but the call and the state as JSON."""
        return json.dumps(dict(zip(_FACTS, _facts_of(self), strict=True)))

    @classmethod
    def of(cls, call: str, facts: str) -> Self:
        """Make it of a *call*, and of *facts* that `facts` returned."""
        data: dict[str, Any] = json.loads(facts)
        if data.keys() <= _KNOWN:
            return cls(call, **data)
        # Another release has written more.
        return cls(call, **{name: data[name] for name in _FACTS if name in data})

    def begin(self, now: float) -> None:
        """Note that its start is to be stored, at monotonic second *now*; once."""
        if self.started is None:
            self.started = now
            self.starts += 1

    def come_further(self) -> bool:
        """Note that it came further than in any process before; return whether that is news.

        Those may have ended before it, but not for its sake.
        """
        is_news = self.started is not None and self.starts > 1
        if is_news:
            self.starts = 1
        return is_news

    def free_copy(self) -> Restart:
        """Return a copy that is ``free``, to be stored when this process gives the task up."""
        # With the same `written`: the store may be writing the task right now.
        return replace(
            self, state="free", started=None, permitted=False, starts=self._starts_before()
        )

    @property
    def stands(self) -> bool:
        """Whether its code waits to go on where it stood, so that a cancellation is raised there.

        Of a task that is PENDING: one that runs has begun.
        """
        return self.resumes and (self.amid or self._starts_before() > 0)

    def rest(self, due: float, used: float) -> None:
        """Note that it waits until wall second *due*, and has to ask for its start again."""
        self.starts = self._starts_before()
        self.due, self.used = due, used
        self.started, self.permitted = None, False

    def _starts_before(self) -> int:
        return self.starts if self.started is None else self.starts - 1


class Origin:
    """Where a task was submitted: a code object and an instruction in it.

    The line is looked up only when it is needed, since most tasks are never asked for it.
    """

    __slots__ = ("_code", "_instruction")

    def __init__(self, code: CodeType, instruction: int) -> None:
        self._code = code
        self._instruction = instruction

    @property
    def line(self) -> int:
        """Line number of the submitting call, from 1; 0 if unknown."""
        for start, end, line in self._code.co_lines():
            if start <= self._instruction < end:
                return line or 0
        return 0

    def __str__(self) -> str:
        return f"{self._code.co_filename}:{self.line} in {self._code.co_qualname}"


@dataclass(slots=True, eq=False)
class Heading:
    """Name, owner and texts about a task, shared by the tasks of one function and owner.

    So an owner costs a task nothing, and a store that packs its records keeps it once. Tasks with
    labels or meta of their own have headings of their own. ``meta`` is the text of `meta_text`, and
    ``arguments`` that of `arguments_text`, if the app shows them.
    """

    name: str
    description: str
    owner: str | None = None
    label: str | None = None
    meta: str | None = None
    arguments: str | None = None


def heading_of(
    name: str,
    description: str,
    owner: str | None = None,
    label: str | None = None,
    meta: str | None = None,
    arguments: str | None = None,
) -> Heading:
    """Return the heading with these texts; recently used ones with the first three are shared.

    A function that is not decorated, or is submitted with options, asks for its heading at each
    submission. Without sharing, each kept task would hold a heading of its own.
    """
    # Few tasks have the same of the others, and the others would be forgotten for them.
    return (
        _shared(name, description, owner)
        if label is None and meta is None and arguments is None
        else Heading(name, description, owner, label, meta, arguments)
    )


@functools.lru_cache(maxsize=1_024)
def _shared(name: str, description: str, owner: str | None) -> Heading:
    return Heading(name, description, owner)


class Rare(Generic[T]):
    """An attribute that few records need, kept in their `rest` unless it has its default.

    A slot for each would cost every task time and memory, and most tasks need none of them.

    Args:
        default: Its value until it is set. Setting this same object removes the entry.
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
            # Two threads may both find no dict, and one would replace the dict of the other.
            with _FIRST:
                rest = record.rest
                if rest is None:
                    rest = record.rest = {}
        rest[self._name] = value


# Nothing fails without it while there is a global lock: threads are switched between the second
# look and the assignment only if the garbage collector calls a finalizer there.
_FIRST = threading.Lock()


class TaskRecord:
    """The data about one task. The manager writes it and a store keeps it.

    A store may read all of it on any thread. The record of a live task may change at any
    time, so read a consistent copy (`protocols.StoreHost.snapshot`). After the task has ended,
    only ``read``, ``logged`` and ``still_running`` change; a store may keep the record as long
    as it likes.

    Attributes:
        task_id: The id.
        heading: Name, owner and texts about it, shared by the tasks of one function and owner.
        status: The status.
        created_at: When it was submitted, in seconds since the epoch. The only wall-clock time:
            the others are shown by their distance from it, so that durations are right even
            if the wall clock is changed.
        created: The same in monotonic seconds of the framework's clock, like the next three.
        queued: When the engine got it: later than `created` if it was delayed.
        started: When its function first started; None if it has not.
        ended: When it ended; None if it has not.
        attempts: How often its function was started.
        result: Its return value; None unless it is COMPLETED.
        code: The code object of the caller, of which the file and line are found when they are
            needed, since that costs ten times as much; None if unknown.
        instruction: The offset of the calling instruction in it.
        rest: Attributes that few tasks have, by name; None if there are none. See `Rare`.
        error: The error that ended it.
        traceback: The error's traceback as first raised.
        progress: The last reported progress, 0.0 to 1.0; None if there is none.
        progress_message: The message that was reported with it.
        cancel_requested: Whether somebody tried to cancel it.
        cancel_waits: Whether somebody did so while its code stood somewhere: it goes on, and the
            cancellation is raised there. Then `cancel_requested` is true, and this no more.
        still_running: Whether its function still runs although the task has ended.
        reason: Why it waits or how it ended: words, or facts that `reasons` puts into words.
        slept: For how many seconds it has waited since its start: for its next attempt, a throttle,
            a time or a message. Of a task on a remote engine, what that has told of its waits.
        asleep: The monotonic second since which it does; None while it does not.
        last_error: The last attempt's error, while the task waits for the next attempt.
        read: Whether somebody has read its failure.
        logged: Whether its failure is not to be logged any more: it was logged, or never shall be.
        run_again_of: The id of the task that it repeats; "" if it repeats none.
        remote: Whether a `protocols.RemoteEngine` runs it, so that it may outlive the process
            that submitted it.
        restart: What another process needs to run it if this one ends; None if no other does.
        after: The tasks that it was submitted after; None if it waits for no others.
        store_note: For the store's own use; None at first. Copies have it too.
    """

    task_id: str
    heading: Heading
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

    # Without the rare ones, which follow.
    __slots__ = tuple(__annotations__)

    error: Rare[BaseException | None] = Rare(None)
    traceback: Rare[TracebackType | None] = Rare(None)
    progress: Rare[float | None] = Rare(None)
    progress_message: Rare[str] = Rare("")
    cancel_requested: Rare[bool] = Rare(False)
    cancel_waits: Rare[bool] = Rare(False)
    still_running: Rare[bool] = Rare(False)
    reason: Rare[str] = Rare("")
    slept: Rare[float] = Rare(0.0)
    asleep: Rare[float | None] = Rare(None)
    last_error: Rare[str | None] = Rare(None)
    read: Rare[bool] = Rare(False)
    logged: Rare[bool] = Rare(False)
    run_again_of: Rare[str] = Rare("")
    remote: Rare[bool] = Rare(False)
    restart: Rare[Restart | None] = Rare(None)
    after: Rare[After | None] = Rare(None)
    store_note: Rare[Any] = Rare(None)

    @property
    def name(self) -> str:
        """The name from the decorator, or the name of the task's function."""
        return self.heading.name

    @property
    def description(self) -> str:
        """A text for people; "" if there is none."""
        return self.heading.description

    @property
    def owner(self) -> str | None:
        """Whom it belongs to; None if it has no owner."""
        return self.heading.owner

    @owner.setter
    def owner(self, owner: str | None) -> None:
        known = self.heading
        about = known.label, known.meta, known.arguments
        self.heading = heading_of(known.name, known.description, owner, *about)

    @property
    def label(self) -> str | None:
        """What it is about, such as ``"order 7"``; None if nobody has said it."""
        return self.heading.label

    @property
    def meta(self) -> str | None:
        """The columns of the app's own, as the text of `meta_text`; None if it has none."""
        return self.heading.meta

    @property
    def arguments(self) -> str | None:
        """The arguments that people see, as the text of `arguments_text`; None for none."""
        return self.heading.arguments

    def describe(self, label: str | None, meta: str | None, arguments: str | None) -> None:
        """Say what it is about, in place of what was said before."""
        known = self.heading
        about = label, meta, arguments
        self.heading = heading_of(known.name, known.description, known.owner, *about)

    @property
    def origin(self) -> Origin | None:
        """The line that submitted the task; None if unknown."""
        return None if self.code is None else Origin(self.code, self.instruction)

    @property
    def cancel_asked(self) -> bool:
        """Whether somebody tried to cancel it, also if its code is yet to hear of it."""
        return self.cancel_requested or self.cancel_waits

    def wall(self, stamp: float | None) -> datetime | None:
        """Return a monotonic *stamp* as an aware datetime in UTC; None for None."""
        if stamp is None:
            return None
        # `wall_second`, written out, since lists show several stamps of each task.
        return datetime.fromtimestamp(self.created_at + (stamp - self.created), UTC)

    def wall_second(self, stamp: float) -> float:
        """Return a monotonic *stamp* in seconds since the epoch, by the clock at submission."""
        return self.created_at + (stamp - self.created)


def wake(record: TaskRecord, now: float) -> None:
    """Count the wait of a task that is over at monotonic second *now*; nothing if it does not wait.

    Called with the ledger's lock held.
    """
    since, record.asleep = record.asleep, None
    if since is not None:
        record.slept += now - since


def is_unseen(record: TaskRecord) -> bool:
    """Return whether a task has failed, and its error was neither read nor logged."""
    return (
        record.status in FAILURES
        and not record.read
        and not record.logged
        and record.error is not None
    )


def visible_state(record: TaskRecord) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return what people see of a live task apart from its progress, and its progress.

    Both are to be compared, and are the same in all processes.
    """
    # Not the attributes: this is read for each event of each stream.
    rest = record.rest or {}
    return (
        (
            record.status,
            record.attempts,
            rest.get("reason", ""),
            rest.get("cancel_requested", False) or rest.get("cancel_waits", False),
            rest.get("last_error"),
        ),
        (rest.get("progress"), rest.get("progress_message", "")),
    )


class CancelOutcome(StrEnum):
    """The outcome of a request to cancel a task; its value is used in JSON.

    ``CANCELLED``: the task is CANCELLED, and never runs again. ``ASKED``: it has not ended, and
    may stop later. ``CANNOT``: it has ended otherwise, or is unknown.
    """

    CANCELLED = "cancelled"
    ASKED = "asked"
    CANNOT = "cannot"


EVENT_KINDS: Final = (
    "submitted",
    "started",
    "progress",
    "retrying",
    "throttled",
    "sleeping",
    "requeued",
    *EVENT_OF.values(),
    "late_result",
    "evicted",
)

STEPS_CHANGED: Final = "steps"
"""What streams are told when a step of a task begins or ends; nobody else can subscribe to it."""


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something that happened to a task.

    Attributes:
        kind: ``submitted``, ``started``, ``progress``, ``retrying``, ``throttled``, ``sleeping``,
            ``requeued``, ``completed``, ``failed``, ``timed_out``, ``cancelled``, ``interrupted``,
            ``late_result`` or ``evicted``.
        task_id: The task; None for a retry or throttle outside a task.
        name: Name of the task or of the throttled or retried function.
        at: When, in monotonic seconds of the framework's clock.
        time: When, in seconds since the epoch by the framework's clock.
        attempt: The number of the attempt, from 1; 0 before the first one.
        status: The task's status after the event; None outside a task.
        origin: The line that submitted the task; None if unknown.
        delay: For ``retrying``, ``throttled`` and ``sleeping``, the seconds that it will wait,
            infinity for a message without a limit; else None.
        progress: For ``progress``, from 0.0 to 1.0; else None.
        message: The message of the progress, or the reason for a final status.
        error: For ``failed``, ``timed_out``, ``interrupted`` and ``retrying``, the exception; for
            ``cancelled`` perhaps one; else None.
        wait_time: For the end of a task that has started, the seconds that it waited for its
            start, without a delay that was asked for; else None.
        duration: For the end of a task that has started, the seconds from its start to its
            end; else None.
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
    wait_time: float | None = None
    duration: float | None = None
