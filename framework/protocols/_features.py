"""Features: what a store or an engine can do beyond what each of them must.

Each ability has a protocol; a class that has its methods has the ability.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args, get_type_hints, runtime_checkable

from framework._records.pages import PageQuery
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework.protocols._books import ScheduleBook, SharedPlaces, SharedWindows
from framework.protocols._engines import KeepingEngine, LoggingWorkers, TaskRules
from framework.protocols._messages import MessageStore
from framework.protocols._processes import ProcessBook
from framework.protocols._steps import StepStore
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

    Without it, ``page`` is not asked for what needs ``statuses``, ``owner``, ``label``, ``search``
    or ``offset``, and each page costs a call of ``list`` for its total.
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
            field: The attribute of a record: ``"status"``, ``"name"``, ``"owner"`` or ``"label"``.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class TimedStore(GroupingStore, Protocol):
    """Two more optional methods of a `GroupingStore`, that count over time in one look.

    Without them, what started and ended when is counted with a call of ``list``.
    """

    def count_ends(self, query: PageQuery, width: float) -> Mapping[tuple[int, TaskStatus], int]:
        """Return how many of the records that ``count`` counts ended in each span, and how.

        Args:
            query: Which records, with its ``ended_since``.
            width: How many seconds a span has; the first one, of number 0, begins at
                ``ended_since``.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...

    def count_starts(self, query: PageQuery, since: float, width: float) -> Mapping[int, int]:
        """Return how many of the records that ``count`` counts started in each span.

        A task that was started several times counts when its latest run began.

        Args:
            query: Which records.
            since: The wall second at which the first span, of number 0, begins.
            width: How many seconds a span has.

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
class BatchingStore(Protocol):
    """An optional method of a `SharedStore`, for tasks that are submitted together."""

    def together(self, task_ids: Collection[str]) -> AbstractContextManager[None]:
        """Store the tasks that are noted in its ``with`` block all at once, or none of them.

        It may hold back its writes of them until the end of the block, which takes milliseconds.
        If there are thousands, or if one of them cannot be stored, they may be divided.

        Args:
            task_ids: Their ids. The caller adds each one before it notes the task, and keeps this
                object as it is after the block.
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
class ChainStore(Protocol):
    """An optional member of a `SharedStore` that keeps which tasks wait for others.

    What a record's ``after`` says is stored with the record: it waits for the tasks in ``open``
    while ``waits`` is true. Whoever stores the end of one of these decides in the same transaction
    what becomes of the record, by `After.cancels`: it may start, or it ends CANCELLED. Its process
    is told of that by `StoreHost.release` or `StoreHost.withdraw`.

    """

    @property
    def keeps_chains(self) -> bool:
        """True."""
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


@dataclass(frozen=True, slots=True)
class Features:
    """The optional abilities of a store or an engine: for each, the object that has it, or None.

    The objects may be the store itself or parts of it.

    Attributes:
        shared: Several processes share its tasks; of stores only.
        pages: It reads a few tasks without the others.
        counts: It uses all of a query, and counts; then `pages` is the same object.
        groups: It counts by a field in one look; then `counts` is the same object.
        times: It can count what ended when in one look.
        calls: It keeps the arguments of tasks.
        requeue: Other processes can run the tasks of an ended one.
        leaving: It leaves tasks as they are stored when the process ends.
        batching: It stores tasks together that are submitted together.
        transactional: It takes tasks in transactions of the app.
        chains: It keeps which tasks wait for others.
        steps: It keeps the steps of tasks that go on.
        messages: It keeps messages to them.
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
    times: TimedStore | None = None
    calls: CallStore | None = None
    requeue: RequeueStore | None = None
    leaving: LeavingStore | None = None
    batching: BatchingStore | None = None
    transactional: TransactionalStore | None = None
    chains: ChainStore | None = None
    steps: StepStore | None = None
    messages: MessageStore | None = None
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
    for field, method in (("groups", "count_by"), ("times", "count_ends")):
        if _is_older(type(part), method, than="count"):
            # It counts in a way of its own, of which what it was derived from knows nothing.
            found.pop(field, None)
    return Features(**found)


def _is_older(kind: type, method: str, *, than: str) -> bool:
    """Return whether a class derived from that of *method* has a newer method *than*."""
    for one in kind.__mro__:
        if method in vars(one) or than in vars(one):
            return method not in vars(one)
    return False
