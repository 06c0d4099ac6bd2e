"""Stores: where the records of tasks are kept, for one process or several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from framework._records.records import Kind, TaskRecord
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


class StoreHost(Protocol):
    """The framework, as its `SharedStore` sees it; call every method from any thread.

    Attributes:
        clock: Its clock.
        places: How many tasks of each kind it runs at a time; 0 if it only submits.
        role: ``"worker"`` for `asyncframe worker`, otherwise ``"app"``.
    """

    clock: Clock
    places: int
    role: str

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a consistent copy of a live record."""
        ...

    def cancel(self, task_id: str, reason: str = "") -> None:
        """Cancel a task of this process because another process asked for it.

        Args:
            task_id: The task; nothing happens if it is not live.
            reason: Why, for people; "" if that is not known.
        """

    def release(self, task_ids: Collection[str]) -> None:
        """Let tasks of this process start, since all that they waited for has ended.

        Args:
            task_ids: The tasks; nothing happens to those that are not live.
        """

    def withdraw(self, task_id: str, reason: str) -> None:
        """End a task of this process CANCELLED, as it has ended in the store.

        Args:
            task_id: The task, which waits for another one; nothing happens if it is not live.
            reason: Which one has ended without a result, for people.
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

    def room(self) -> Mapping[Kind, int]:
        """Return for how many more tasks of each kind this process has places now, 1 or more.

        A kind for which it has none is left out.
        """
        ...

    def functions(self) -> Mapping[Kind, Collection[str]]:
        """Return the names of the functions whose free tasks this process takes, by their kind."""
        ...

    def may_begin(self, record: TaskRecord) -> bool:
        """Return whether a free task would begin here as soon as this process has it.

        Then it waits for nothing but a place, and the store may make it RUNNING as it gives it to
        this process.

        Args:
            record: The task, PENDING, with its ``restart``.
        """
        ...

    def in_line(self, most: int) -> Sequence[TaskRecord]:
        """Return what waits here for a thread, and another process may run, the first ones first.

        Args:
            most: How many at most.

        Returns:
            Nothing while there is a free thread.
        """
        ...

    def give_away(self, records: Sequence[TaskRecord]) -> None:
        """Release tasks that wait here, unless they have started or ended meanwhile."""

    def take_over(self, records: Sequence[TaskRecord]) -> None:
        """Run free tasks here, after the store has given them to this process.

        Args:
            records: PENDING tasks with their ``restart``, which says whether their starts are
                stored already. What cannot be taken over is released again.
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
