"""Features: what a store or an engine can do beyond what each of them must.

Each ability has a protocol; a class that has its methods has the ability.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args, get_type_hints, runtime_checkable

from framework._records.pages import PageQuery
from framework._records.records import TaskRecord
from framework._records.schedules import RunClaim, ScheduleState
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework.protocols._engines import KeepingEngine, LoggingWorkers, TaskRules
from framework.protocols._processes import ProcessBook
from framework.protocols._stores import SharedStore


@runtime_checkable
class PagedStore(Protocol):
    """An optional method of a `TaskStore` that can read a few of its tasks without the others.

    Without it, each page costs a call of ``list``.
    """

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return the records that match *query*, in its order.

        A `SharedStore` also returns live tasks of other processes, and may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class CountingStore(PagedStore, Protocol):
    """Another optional method of a `PagedStore`, one that uses all of a `PageQuery`.

    Without it, ``page`` is not asked for what needs ``statuses``, ``owner``, ``search`` or
    ``offset``, and each page costs a call of ``list`` for its total.
    """

    def count(self, query: PageQuery) -> int:
        """Return how many records match *query*, whatever its ``after``, ``offset`` and ``limit``.

        A `SharedStore` also counts live tasks of other processes, and may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class GroupingStore(CountingStore, Protocol):
    """Another optional method of a `CountingStore`, one that counts by a field in one look.

    Without it, tasks are counted by their status with a call of ``count`` for each, and by all
    else with a call of ``list``.
    """

    def count_by(self, query: PageQuery, field: str) -> Mapping[Any, int]:
        """Return how many of the records that ``count`` counts have each value of a field.

        Args:
            query: Which records.
            field: The attribute of a record: ``"status"``, ``"name"`` or ``"owner"``.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class CallStore(Protocol):
    """Optional members of a `SharedStore` that keeps the arguments of tasks.

    It gets them from `StoreHost.call_of` when it first stores a live task, and may drop them
    once the task has COMPLETED. A `RemoteEngine` may have these members as well.

    Attributes:
        keep_arguments: How many bytes of JSON are kept of a task at most; 0 for none.
    """

    keep_arguments: int

    def fetch_call(self, task_id: str) -> str | None:
        """Return the arguments of a task for `decode_call`; may block.

        Returns:
            The text; None if the id is unknown, or the task has COMPLETED.

        Raises:
            ValueError: If its arguments were not kept; it says why.
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class RequeueStore(Protocol):
    """Optional methods of a `SharedStore` that lets other processes run tasks of an ended one.

    They are called for tasks whose record has a `Restart`: waiting ones, and running ones that
    are ``idempotent``. When a process ends or dies, the store gives such tasks to a process that
    knows their function, by `StoreHost.take_over`. What it stores for that are ``restart.call`` and
    ``restart.facts()``, from which `Restart.of` makes a new one.

    A task that has started must not start a second time, even if a process was only suspended
    and others believed that it was dead. So a start is stored first, if the task is still
    PENDING and belongs to this process. A store must never write a record whose
    ``restart.state`` is ``left``.
    """

    def start(self, record: TaskRecord, told: Callable[[bool], None]) -> None:
        """Store that a task starts, and call *told* when that is safe.

        Args:
            record: A PENDING task of this process.
            told: Called once, on another thread: with True when it is stored, with False if
                the task belongs to another process or the store is closed.
        """

    def release(self, record: TaskRecord) -> None:
        """Store that a task is PENDING and free for any process; never blocks.

        Args:
            record: A copy of its last record; its ``restart.state`` is ``free``.
        """


@runtime_checkable
class LeavingStore(Protocol):
    """An optional method of a `RequeueStore`, for many tasks that wait when a process ends."""

    def leave_behind(self, record: TaskRecord) -> bool:
        """Leave a PENDING task to the processes that are there after this store is closed.

        It costs nothing, since nothing is stored: what a store does for the tasks of an ended
        process, it does for this one. Never blocks.

        Args:
            record: Its ``restart.state`` is ``left``.

        Returns:
            Whether that is possible. If not, since the record is not stored as it is, the
            framework calls `RequeueStore.release`.
        """
        ...


@runtime_checkable
class TransactionalStore(Protocol):
    """Optional methods of a `RequeueStore` that takes tasks in transactions of the app."""

    def submit_in(self, session: Any, record: TaskRecord) -> None:  # Any: of another library
        """Store a task in the transaction of a session; may block as the session does.

        If the transaction is committed, the task is free for any process, as one that was released.
        If it is rolled back, or never ends, there is no task.

        Args:
            session: What the user gave as ``session``.
            record: A PENDING record with a `Restart`, which belongs to no manager.

        Raises:
            TypeError: If it is no session that can be used here.
            ValueError: If the session is not on the database of this store.
        """
        ...

    def follow(self, session: Any, committed: Callable[[], object]) -> None:  # Any: as above
        """Call *committed* once the transaction of a session is committed, and not otherwise.

        Nothing is stored. It is for tests, where memory takes the place of this store, which need
        not be open, and the session may be on any database.

        Args:
            session: As above.
            committed: Called where the session is used, after the commit. It is not called if the
                transaction is rolled back, or the savepoint in which it is now.

        Raises:
            TypeError: If it is no session of which that is known.
        """
        ...


@runtime_checkable
class LargeStore(Protocol):
    """Optional methods of a `SharedStore` that does not hold all its tasks in memory.

    Its ``get`` only returns what is in memory; the framework then calls ``fetch``, on a thread
    of its own. Its ``list`` returns all tasks, and may block. Its ``remove`` counts all tasks,
    and does not block. It does not have to return those that are not in memory: if *completed* is
    true, it reports them to `StoreHost.evicted` later, and otherwise not at all.
    """

    def active(self) -> Sequence[TaskRecord]:
        """Return the live tasks of other processes; may block if it does not hold all of them.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...

    def unread(self) -> Sequence[TaskRecord]:
        """Return the failed tasks of this process that nobody was told of; never blocks.

        Their error was neither read nor logged. They must stay in memory until it is, or until
        they are removed.
        """
        ...

    def has(self, task_id: str) -> bool:
        """Return whether a task that is not in memory has this id; may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class SharedDirectory(Protocol):
    """Optional methods of a `SharedStore` or `RemoteEngine` for unknown ids.

    An unknown id may belong to a task that another process has just accepted, so the
    framework keeps asking for it for a second, or until an `AskingDirectory` knows better. These
    methods tell it when that is pointless. Both may block.
    """

    def is_alone(self) -> bool:
        """Return whether no other process can have a task that ``fetch`` does not find yet."""
        ...

    def doubt(self) -> Exception | None:
        """Return why ``fetch`` may miss tasks of other processes; None if it does not.

        The framework raises this error when somebody asks for an unknown id.
        """
        ...


@runtime_checkable
class AskingDirectory(Protocol):
    """Optional methods of a `SharedStore` or `RemoteEngine` that can ask the other processes.

    With them, the framework reports an id as unknown once all other processes have answered,
    even if one of them was suspended for long. Without them, it does so after a second. All of
    them may block. If one raises, the framework asks again.
    """

    def ask(self) -> int:
        """Ask all other processes to store what they have accepted before.

        Returns:
            The number of the inquiry.
        """
        ...

    def is_answered(self, number: int) -> bool:
        """Return whether all other live processes have stored what they had accepted.

        What a process had accepted when `ask` was called can be read with ``fetch`` once this
        returns True. Processes that are dead do not count.
        """
        ...

    def expected(self, task_ids: Collection[str]) -> Collection[str]:
        """Return those of some ids whose tasks will be stored, although ``fetch`` finds none."""
        ...


@runtime_checkable
class NewsDirectory(Protocol):
    """An optional method of a `SharedStore` or `RemoteEngine` that knows which tasks change.

    Without it, the framework asks for the tasks of other processes that somebody waits for 20
    times a second, all in one query.
    """

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* with the ids of tasks of other processes that have changed.

        It is called after the change can be read with ``fetch``, on any thread, and without a
        lock; it never blocks. An id may be told in vain. None means that any task may have
        changed, for example after a lost connection. There is one watcher at most. May block.

        Returns:
            A function that ends it; may be called twice, on any thread.
        """
        ...


@runtime_checkable
class Fallible(Protocol):
    """An optional method of a `SharedStore` or `RemoteEngine`, for metrics and health checks."""

    def fault(self) -> str:
        """Return why it cannot be used now; "" while it works. Never blocks, on any thread."""
        ...


@runtime_checkable
class ScheduleBook(Protocol):
    """Optional methods of a `SharedStore` or `RemoteEngine` that keeps schedules for all processes.

    With a book, each due time is run once, by whichever process claims it first. Without one,
    every process runs its own schedules. If both the store and the engine have these methods, the
    framework asks the store.

    A run is identified by the name of its schedule and its due time, in seconds since the epoch.
    All processes compute the same due times, so their clocks may differ: the process whose clock is
    ahead claims a due time first, and the others are refused it. A name that is not known yet is
    entered by any of these calls.

    Every method may block, and may be called from any thread.

    Raises:
        StoreUnavailableError: Each method, if the store or broker does not answer. A claim may have
            had its effect all the same.
    """

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs, and return what is known about it.

        Args:
            name: Its name.
            timing: When it is due, for people; replaces what is known. If it is another one,
                ``last_due`` becomes *now* unless it is later: a due time of the new timing that
                lies before was not missed.
            now: The wall time of this process. It becomes ``last_due`` of a schedule that is not
                known yet, so a new schedule has missed nothing. The state is kept over restarts.
        """
        ...

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of a schedule for this process, in one atomic step.

        A claim for the task of the last run is claimed again: the caller repeats a call that
        failed, and may have had its effect. It may repeat it for a later due time, which
        becomes ``last_due`` then. Apart from that, in this order:

        1. ``taken``: ``last_due`` is *due* or later, so this run was claimed or skipped already.
           A ``last_due`` that lies more than three hours after *due* does not count: it came from a
           clock that was wrong.
        2. ``paused``: the schedule is paused. Nothing changes.
        3. ``busy``: the task of the last run is live in any process, or its body is still running.
           With *skip*, ``last_due`` becomes *due* and ``skipped`` grows by one, so the due time is
           skipped once, whoever asks again. Without it, nothing changes.
        4. ``claimed``: ``last_due`` becomes *due*, ``task_id`` the id of *record*, and ``ran_at``
           its ``created_at``. In the same step *record* is stored as a live task of this
           process. If this process dies at the next moment, the task exists, and ends as every
           task of a dead process does.

        The framework accepts the task right after this. If it cannot, it puts the record as FAILED.

        Args:
            name: Its name.
            due: The due time; None for a run that was triggered by hand. That is neither taken
                nor paused, and leaves ``last_due`` as it is.
            record: The task to run: PENDING, and not accepted yet.
            skip: Whether the due time is skipped if the last run is still live.
        """
        ...

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause a schedule for all processes, or resume it.

        Resuming a paused schedule sets ``last_due`` to *now* unless it is later: what was due
        during the pause was not missed.

        Args:
            name: Its name.
            paused: Whether it is paused from now on. It is kept over restarts.
            now: The wall time of this process.

        Returns:
            Whether the name is known; False changes nothing.
        """
        ...

    def schedules(self) -> Sequence[ScheduleState]:
        """Return what is known about all schedules, of all processes, by name."""
        ...


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """A call that is to be counted in a window.

    Attributes:
        key: The window: printable text that is the same in every process.
        entry: The call: a random text of its caller's.
        rate: How many calls the window allows, 1 or more.
        length: Its length in seconds, above 0.
        ahead: Count it this many seconds from now at the earliest, 0 or more.
        waits: Whether it may be counted later than that; if not, and the window is full, it is
            not counted.
    """

    key: str
    entry: str
    rate: int
    length: float
    ahead: float = 0.0
    waits: bool = False


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """The answer to a `WindowRequest`: whether and when the call is counted.

    Attributes:
        counted: Whether it is counted.
        wait: How many seconds after the moment of the answer it is, or could be, counted.
    """

    counted: bool
    wait: float


@runtime_checkable
class SharedWindows(Protocol):
    """Optional methods of a `SharedStore`: windows of throttles that all processes share.

    Without these methods, each process has windows of its own. Both methods may be called from
    any thread, and must not block. The calls of one process take effect in their order.
    """

    def reserve(self, request: WindowRequest, told: Callable[[WindowAnswer], object]) -> None:
        """Count a call at the earliest time at which its window allows it.

        No half-open interval of the window's length may have more calls than its rate, by a clock
        that all processes share. Each call is counted after those before it, also if they
        are counted in the future.

        Args:
            request: The call. If it was counted already, this takes the place of that.
            told: Called once with the answer, on any thread. While the database fails, that
                takes until it works.
        """

    def give_back(self, key: str, entry: str) -> None:
        """Take a counted call out of its window, because its function is not called."""


@runtime_checkable
class SharedPlaces(Protocol):
    """Optional methods of a `RemoteEngine` or `SharedStore`: places that all processes share.

    Tasks of one key stand in a line, in which as many as the limit allows have a place, see
    `PlaceRequest`. Without these methods, unique tasks and ``max_running`` apply to each process
    separately. If both the engine and the store have them, the engine's are used.

    In all processes together, at any moment: no line has more tasks with a place than the limit
    that each of them asked for; and no task waits while the first of those that wait could have
    a place. Both methods may be called from any thread, and must not block. The calls of one
    process take effect in their order.

    A task loses its places when `leave` is called, and when its process dies, in the same step
    in which the others find that out. One that goes on elsewhere, as a task on a worker does,
    keeps them. A task that is to be replaced may be in a line before its process has stored its
    record, so its place is where the wish to cancel it has to be kept: see `PlaceAnswer.replaces`.
    A task that is final and whose function does not run any more must not be in the
    way of a later `join`, even if its `leave` is still on the way.
    """

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place.

        Args:
            request: The line, the task, and the limit. A request that is repeated, with the same
                key and task, gets the answer of the first one.
            told: Called once with the answer, on any thread and perhaps during this call. If the
                task enters the line and waits, it is called again once it has a place, unless it
                leaves before. While the database or broker fails, that takes until it works: the
                caller gives up by calling `leave`.
        """

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines, whether it has places or waits; does nothing twice.

        Whoever has a place then is told.
        """


@dataclass(frozen=True, slots=True)
class Features:
    """The optional abilities of a store or an engine: for each, the object that has it, or None.

    The objects may be the store itself or parts of it.

    Attributes:
        shared: Several processes share its tasks; of stores only.
        pages: It reads a few tasks without the others.
        counts: It uses all of a query, and counts; then `pages` is the same object.
        groups: It counts by a field in one look; then `counts` is the same object.
        calls: It keeps the arguments of tasks.
        requeue: Other processes can run the tasks of an ended one.
        leaving: It leaves tasks as they are stored when the process ends.
        transactional: It takes tasks in transactions of the app.
        large: It does not hold all its tasks in memory.
        processes: It knows which processes share it; of stores only.
        schedules: It decides which process runs a schedule.
        places: It keeps the lines of unique tasks and of ``max_running`` for all processes.
        windows: It keeps the windows of throttles for all processes.
        directory: It knows when no other process can have a task with an unknown id.
        asking: It can ask the other processes to store their tasks, to find an unknown id.
        news: It knows which tasks of other processes change.
        fallible: It says whether it can be used now, and why not.
        keeping: It has the tasks that wait for their start; of engines only.
        logging: Its workers log failures; of engines only.
        rules: It has rules for tasks and their values; of engines only.
    """

    shared: SharedStore | None = None
    pages: PagedStore | None = None
    counts: CountingStore | None = None
    groups: GroupingStore | None = None
    calls: CallStore | None = None
    requeue: RequeueStore | None = None
    leaving: LeavingStore | None = None
    transactional: TransactionalStore | None = None
    large: LargeStore | None = None
    processes: ProcessBook | None = None
    schedules: ScheduleBook | None = None
    places: SharedPlaces | None = None
    windows: SharedWindows | None = None
    directory: SharedDirectory | None = None
    asking: AskingDirectory | None = None
    news: NewsDirectory | None = None
    fallible: Fallible | None = None
    keeping: KeepingEngine | None = None
    logging: LoggingWorkers | None = None
    rules: TaskRules | None = None


class Featured(Protocol):
    """An optional member of a `TaskStore` or `RemoteEngine` that says what it can do.

    Without it, the framework looks which of the optional protocols the object has the methods of.
    With it, a type checker sees whether each of them is complete.
    """

    @property
    def features(self) -> Features:
        """What it can do. Read when the framework is made, before a store is opened."""
        ...


_KINDS: Final[dict[str, type]] = {
    name: get_args(hint)[0] for name, hint in get_type_hints(Features).items()
}
"""The protocol of each field."""


def features_of(part: object) -> Features:
    """Return what a store or an engine can do.

    One whose own class is `Featured`, as the built-in stores are, is taken at its word. Any other,
    written for the protocols alone or derived from a class that is `Featured`, is looked at
    here: what it has the methods of, it can do.

    Args:
        part: A store or an engine; None can do nothing.
    """
    if part is None:
        return Features()
    if "features" in vars(type(part)) or "features" in getattr(part, "__dict__", ()):
        stated = part.features  # type: ignore[attr-defined]  # it was just found
        if isinstance(stated, Features):
            return stated
    # Any: a value for a field only if it has the field's protocol
    found: dict[str, Any] = {name: part for name, kind in _KINDS.items() if isinstance(part, kind)}
    if _is_older(type(part), "count_by", than="count"):
        # It counts in a way of its own, of which the method that it was derived from knows nothing.
        found.pop("groups", None)
    return Features(**found)


def _is_older(kind: type, method: str, *, than: str) -> bool:
    """Return whether a class derived from that of *method* has a newer method *than*."""
    for one in kind.__mro__:
        if method in vars(one) or than in vars(one):
            return method not in vars(one)
    return False
