"""Stores: where the records of tasks are kept, for one process or several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from framework._records.pages import PageQuery
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework.protocols._clock import Clock


class TaskStore(Protocol):
    """Keeps finished tasks until they are too old or there are too many.

    Thread rule: every method may be called from any thread.
    """

    def put(self, record: TaskRecord) -> None:
        """Keep the record of a task that has just ended.

        Only ``read``, ``logged`` and ``still_running`` change after this.
        """

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task, or None if it is not kept here."""
        ...

    def list(self, status: TaskStatus | None = None) -> Iterable[TaskRecord]:
        """Return the kept records in the order in which they ended, as a snapshot."""
        ...

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Iterable[TaskRecord]]:
        """Remove the oldest records.

        Args:
            ended_before: Remove records that ended at or before this monotonic time; None
                for any age.
            keep: Remove the oldest records until at most this many remain; None for no
                limit.
            completed: Whether to return COMPLETED records too.

        Returns:
            The number of removed records, and the records. If *completed* is false, a store
            may leave out COMPLETED ones. A `LargeStore` may leave out those that it does not
            hold in memory, see there.
        """
        ...


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


class StoreHost(Protocol):
    """The framework, as its `SharedStore` sees it; call every method from any thread."""

    clock: Clock

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a consistent copy of a live record."""
        ...

    def cancel(self, task_id: str, reason: str = "") -> None:
        """Cancel a task of this process because another process asked for it.

        Args:
            task_id: The task; nothing happens if it is not live.
            reason: Why, for people; "" if that is not known.
        """

    def interrupt(self, reason: str) -> None:
        """End every live task INTERRUPTED, because the others consider this process dead."""

    def adopt(self, records: Sequence[TaskRecord]) -> None:
        """Follow live remote tasks whose own process has died."""

    def call_of(self, record: TaskRecord, most: int) -> str | None:
        """Return the arguments of a task of this process, for a `CallStore` to keep.

        Args:
            record: The task.
            most: How many bytes they may take.

        Returns:
            The text of `encode_call`; or, as a JSON string, why there is none; or None if it
            has no arguments any more, or *record* is a copy, or that of another process. It
            changes with the arguments, if the task changes them.
        """
        ...

    def room(self) -> int:
        """Return how many tasks of ended processes this one can take over now."""
        ...

    def take_over(self, records: Sequence[TaskRecord]) -> None:
        """Run tasks of ended processes here, after the store has given them to this process.

        Args:
            records: PENDING tasks with their ``restart``. What cannot be taken over is
                released again.
        """

    def buried(self, records: Sequence[TaskRecord]) -> None:
        """Report tasks of dead processes that the store has ended; one process reports each.

        Args:
            records: Their final records.
        """

    def evicted(self, records: Sequence[TaskRecord]) -> None:
        """Report removed tasks that ``remove`` counted, but did not return.

        Their results are not needed.
        """


@runtime_checkable
class SharedStore(TaskStore, Protocol):
    """A store that several processes share and that outlives each of them.

    ``get``, ``list`` and ``remove`` of such a store never block, unless it is a `LargeStore`.
    They return what the store already knows about all processes, without the live tasks of this
    process.

    Attributes:
        durable: Whether ``await submit(...)``, and a submission from a thread, return only
            when the record is stored safely.
    """

    durable: bool

    def open(self, host: StoreHost) -> None:
        """Start to write, and to follow the other processes; blocks.

        Raises:
            StoreUnavailableError: If the store cannot be used.
        """

    def close(self, patience: float) -> None:
        """Write waiting records for at most *patience* seconds, and close; blocks."""

    def note(self, record: TaskRecord) -> None:
        """Called when a live record is new or has changed; must be fast.

        Raises:
            StoreUnavailableError: If the record is new and too many records wait to be
                written.
        """

    def secure(self, record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* with None when the current record is stored safely, or with the error."""

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return a result in the form in which every process will read it.

        Raises:
            Exception: If it cannot be stored; the task then ends FAILED with this error.
        """

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the current records of these ids; may block."""
        ...

    def request_cancel(self, task_id: str) -> bool:
        """Ask the process of a live task to cancel it; False if there is none. May block."""
        ...

    def figures(self) -> dict[str, int]:
        """Return the number of records of each status, and the store's own counters.

        Live tasks of this process are not included.
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
class LargeStore(Protocol):
    """Optional methods of a `SharedStore` that does not hold all its tasks in memory.

    Its ``get`` only returns what is in memory; the framework then calls ``fetch``, on a thread
    of its own. Its ``list`` returns all tasks, and may block. Its ``remove`` counts all tasks,
    and does not block. It does not have to return those that are not in memory: if *completed* is
    true, it reports them to `StoreHost.evicted` later, and otherwise not at all.
    """

    def active(self) -> Sequence[TaskRecord]:
        """Return the live tasks of other processes; never blocks."""
        ...

    def unread(self) -> Sequence[TaskRecord]:
        """Return the failed tasks of this process that nobody was told of; never blocks.

        Their error was neither read nor logged. They must stay in memory until it is, or until
        they are removed.
        """
        ...

    def has(self, task_id: str) -> bool:
        """Return whether a finished task that is not in memory has this id; may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...
