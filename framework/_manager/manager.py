"""TaskManager: knows its tasks, hands out their results, lets them go.

Guarantees: an accepted task ends in exactly one final state; nothing here blocks a loop.
Relies on: `core` for what it is made of, `ledger` for states, `results` for waiting.
Lock order: none of its own.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from framework._manager.cancelling import cancel
from framework._manager.core import Core
from framework._manager.intake import take_in
from framework._tasks import checks
from framework._tasks.decorated import BackgroundCall
from framework._tasks.ids import TaskId
from framework._tasks.live import PENDING, RUNNING
from framework._tasks.options import SUBMIT, SubmitOptions
from framework._tasks.records import EVENT_KINDS, TaskRecord, TaskStatus
from framework._tasks.task import Task
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework.exceptions import TaskNotFoundError
from framework.protocols import Clock, EventSink

T = TypeVar("T")


class TaskManager:
    """Owns the tasks of one framework; `get_task_manager` gives the current one.

    `setup_async_framework` makes and ends it; it is not made by hand. Methods that are not
    coroutines may be called from any thread.
    """

    def __init__(self, core: Any) -> None:  # Any: a core.Core, which is not public
        self._core: Core = core

    @property
    def pool(self) -> ThreadPoolExecutorEnhanced:
        """The pool that sync tasks run in."""
        return self._core.pool

    @property
    def clock(self) -> Clock:
        """Where all time of the framework comes from."""
        return self._core.clock

    @property
    def rng(self) -> random.Random:
        """The randomness of jitter."""
        return self._core.rng

    @property
    def new_id(self) -> Callable[[], str]:
        """Makes the ids of tasks."""
        return self._core.intake.new_id

    # -- taking tasks in

    @overload
    async def submit(
        self,
        func: BackgroundCall[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: BackgroundCall[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[True],
        **options: Unpack[SubmitOptions],
    ) -> T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[True],
        **options: Unpack[SubmitOptions],
    ) -> T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[True],
        **options: Unpack[SubmitOptions],
    ) -> T: ...

    @overload
    async def submit(
        self,
        func: BackgroundCall[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T] | T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T] | T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T] | T: ...

    @SUBMIT.spelled_out
    async def submit(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit ``func(*args, **kwargs)`` as a task and return its id.

        No keyword of the task's own is ever taken for one of these options. An option that is
        left out is the one that the function was decorated with.

        Args:
            func: A function, sync (runs in the pool) or async (runs on the app's loop).
            args: Positional arguments, a tuple or list; None for none. Shared with the
                caller, not copied.
            kwargs: Keyword arguments; None for none.
            wait: Whether to wait and return the result instead of the id.
            **options: See `SubmitOptions`.

        Returns:
            The id; with *wait* the result. Whoever is cancelled while waiting leaves the
            task as it is.

        Raises:
            TypeError: If *func* cannot be a task, its arguments do not fit, or a keyword is no
                option.
            ValueError: If a number is out of range, or *task_id* is in use.
            QueueFullError: If as many tasks are PENDING as may be.
            FrameworkNotStartedError: If the framework is stopping or stopped.
            BaseException: With *wait*, what `get_result` raises.
        """
        checks.flag("wait", wait)
        core = self._core
        task_id = options.get("task_id")
        if task_id is not None and core.elsewhere is not None:
            await core.intake.require_free(checks.task_id("task_id", task_id))
        caller, begin = sys._getframe(1), not core.intake.durable
        task = take_in(core.intake, "submit", caller, func, args, kwargs, options, begin)
        if core.intake.durable:
            await core.intake.secured(task)
            core.intake.begin(task)
        if not wait:
            return task.task_id
        return await core.results.get(task, None)

    @overload
    def submit_nowait(
        self,
        func: BackgroundCall[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    def submit_nowait(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    def submit_nowait(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @SUBMIT.spelled_out
    def submit_nowait(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[Any]:
        """Submit a task as `submit` does, without a loop and from any thread."""
        frame = sys._getframe(1)
        task = take_in(self._core.intake, "submit_nowait", frame, func, args, kwargs, options)
        return TaskId(task.task_id)

    # -- knowing them

    async def get_task(self, task_id: str) -> Task | None:
        """Return the task as it is now, or None for an id that nobody knows.

        Never raises, whatever *task_id* is, unless other processes' tasks may be meant.

        Raises:
            StoreUnavailableError: If a store that several processes share does not answer.
        """
        record = self._core.ledger.find(task_id)
        elsewhere = self._core.elsewhere
        if record is None and elsewhere is not None and isinstance(task_id, str):
            record = await elsewhere.find(task_id)
        if record is None:
            return None
        return Task(self._core.ledger.snapshot(record), source=record)

    def get_all_tasks(self) -> dict[str, dict[str, Any]]:
        """Return every known task as ``{task_id: Task.to_dict()}``: a snapshot."""
        return _as_dicts(self._core.ledger.records().values())

    def get_active_tasks(self) -> dict[str, dict[str, Any]]:
        """Return the tasks that are PENDING or RUNNING, as `get_all_tasks`."""
        return _as_dicts(self._core.ledger.live_records())

    def get_tasks_by_status(self, status: TaskStatus | str) -> dict[str, dict[str, Any]]:
        """Return the tasks of one status, as `get_all_tasks`.

        Raises:
            ValueError: If *status* is no status.
        """
        wanted = TaskStatus(checks.choice("status", status, tuple(map(str, TaskStatus))))
        records = self._core.ledger.records().values()
        return _as_dicts(record for record in records if record.status is wanted)

    def get_active_count(self) -> int:
        """Return how many tasks are PENDING or RUNNING."""
        figures = self._core.ledger.figures()
        return figures[PENDING.value] + figures[RUNNING.value]

    def get_stats(self) -> dict[str, int]:
        """Return the counters since the start: one consistent snapshot.

        With a store that several processes share, they count the tasks of all of them, as far
        as it keeps them; ``store_errors`` and ``store_backlog`` are its own counters.

        Always ``submitted = pending + running + completed + failed + timeout + cancelled +
        interrupted``. Beside them ``delayed`` and ``scheduled`` (what waits for its time
        now), ``kept`` (finished tasks in the store) and, once they are not 0,
        ``rejected``, ``retrying``, ``throttled``, ``late_results``, ``evicted``,
        ``scheduled_skipped``, ``lost_wakeups`` (waiters whose loop was closed).
        """
        figures = self._core.ledger.figures()
        figures |= {"delayed": len(self._core.delays), "scheduled": len(self._core.schedules)}
        ledger = self._core.ledger
        figures["kept"] = (
            ledger.kept
            if ledger.shared is None
            else sum(figures[status.value] for status in TaskStatus if status.is_final)
        )
        if self._core.boxes.lost:
            figures["lost_wakeups"] = self._core.boxes.lost
        return figures

    def subscribe(
        self, sink: EventSink, *, kinds: Collection[str] | None = None
    ) -> Callable[[], None]:
        """Have ``sink(event)`` called for events, where they happen.

        Keep it quick: a slow one holds up the thread or loop that it is called on. What it
        raises is logged, and the other sinks are called all the same.

        Args:
            sink: The function.
            kinds: The kinds that it is called for, see `TaskEvent`; None for all. Kinds
                without a sink cost nothing.

        Returns:
            A function that unsubscribes the sink; harmless to call twice.

        Raises:
            TypeError: If *sink* is not callable, or *kinds* is no collection of strings.
            ValueError: If there is no such kind.
        """
        if not callable(sink):
            raise TypeError(f"sink must be a function that takes an event, not {checks.show(sink)}")
        chosen = EVENT_KINDS if kinds is None else checks.choices("kinds", kinds, EVENT_KINDS)
        return self._core.ledger.subscribe(sink, chosen)

    # -- their results

    @overload
    async def get_result(self, task_id: TaskId[T], timeout: float | None = None) -> T: ...

    @overload
    async def get_result(self, task_id: str, timeout: float | None = None) -> Any: ...

    async def get_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait until a task is final and return its result; never polls.

        Args:
            task_id: The task.
            timeout: Most seconds to wait, 0 or more; None for as long as it takes. It ends
                the wait only: the task goes on.

        Returns:
            What the task returned.

        Raises:
            BaseException: The task's own exception, if it FAILED.
            TaskFailedError: In place of an exception that would end or mislead whoever
                waits; that one is its cause.
            TaskTimeoutError: If the task ran past its limit.
            TaskCancelledError: If it was cancelled.
            TaskInterruptedError: If a shutdown or crash cut it short.
            TaskNotFoundError: If nobody knows the id.
            TimeoutError: If *timeout* has passed.
            DeadlockError: If the task waits, itself or through others, for the caller.
        """
        if timeout is not None:
            timeout = checks.number("timeout", timeout, at_least=0, finite=False)
        record, elsewhere = self._core.ledger.find(task_id), self._core.elsewhere
        if record is None and elsewhere is not None and isinstance(task_id, str):
            record = await elsewhere.until_final(task_id, timeout)
        return await self._core.results.get(_require(task_id, record), timeout)

    @overload
    def wait_result(self, task_id: TaskId[T], timeout: float | None = None) -> T: ...

    @overload
    def wait_result(self, task_id: str, timeout: float | None = None) -> Any: ...

    def wait_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Block until a task is final and return its result; `get_result` for threads.

        On a thread of the pool a task that is still queued is run right here, or with
        *timeout* on a thread beside *max_workers*, so that tasks which wait for tasks do
        not use up the pool.

        Raises:
            RuntimeError: On the thread of a running event loop, which it would block.
            BaseException: What `get_result` raises.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "wait_result() would block the event loop of this thread: use "
                "'await get_result(task_id)' here"
            )
        if timeout is not None:
            timeout = checks.number("timeout", timeout, at_least=0, finite=False)
        record, elsewhere = self._core.ledger.find(task_id), self._core.elsewhere
        if record is None and elsewhere is not None and isinstance(task_id, str):
            record = elsewhere.block_until_final(task_id, timeout)
        return self._core.results.wait(_require(task_id, record), timeout)

    # -- letting them go

    async def cancel_task(self, task_id: str) -> bool:
        """Ask for a task's cancellation; True only if it will never run (again).

        A PENDING task never starts. An ``async def`` one is cancelled and waited for, at
        most 1 s: one that returns all the same is COMPLETED, one that does not let go
        gives False. A thread cannot be stopped: False, and its task may ask with
        ``current_task().check_cancelled()``. In all these cases ``cancel_requested`` is
        true. An unknown id, and a task that is final, give False.

        So True means cancelled. False means asked while the task's status is ``running``
        and its ``cancel_requested`` true, and that it cannot be cancelled if it is final in
        another way, or unknown.
        """
        return await cancel(self._core, task_id)

    def cleanup_completed_tasks(self, max_age: float = 3600.0) -> int:
        """Forget finished tasks that ended *max_age* seconds ago or more.

        Args:
            max_age: Seconds, 0 or more; 0 forgets all that have ended.

        Returns:
            How many were forgotten. A failure that nobody has read is logged then.

        Raises:
            TypeError: If *max_age* is no number.
            ValueError: If it is negative or NaN.
        """
        age = checks.number("max_age", max_age, at_least=0, finite=False)
        return self._core.endings.retention.evict(ended_before=self._core.clock.monotonic() - age)


def _require(task_id: object, record: TaskRecord | None) -> TaskRecord:
    if record is None:
        raise TaskNotFoundError(task_id)  # type: ignore[arg-type]  # shown, whatever it is
    return record


def _as_dicts(records: Iterable[TaskRecord]) -> dict[str, dict[str, Any]]:
    return {str(record.task_id): Task(record).to_dict() for record in records}
