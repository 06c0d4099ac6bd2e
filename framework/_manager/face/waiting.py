"""Waiting: the methods of a task manager that wait for tasks, one or many."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from datetime import timedelta
from functools import partial
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple, TypeVar, Unpack, cast, overload

from framework._manager.face.gathering import TaskMap, gather
from framework._manager.face.looking import snapshot_of, until_ended
from framework._manager.face.submitting import Submitting, checked, must_wait, spec_of
from framework._manager.face.together import submit_all, submit_each
from framework._records import checks
from framework._records.ids import TaskId
from framework._records.records import TaskRecord
from framework._running.ledger import Ledger
from framework._tasks.decorated import BackgroundCall
from framework._tasks.functions import name_of, require_callable
from framework._tasks.options import MAP, RunOptions, SubmitOptions
from framework._tasks.places import Existing
from framework._tasks.task import Task
from framework.exceptions import DuplicateTaskError, TaskNotFoundError
from framework.steps._results import (
    awaits_in_a_step,
    blocks_in_a_step,
    result_in_a_step,
    result_on_a_thread,
)

I = TypeVar("I")  # noqa: E741  # an item
T = TypeVar("T")


class Waiting(Submitting):
    """The part of a `TaskManager` that waits for tasks."""

    @overload
    async def get_result(
        self, task_id: TaskId[T], timeout: float | timedelta | None = None
    ) -> T: ...

    @overload
    async def get_result(self, task_id: str, timeout: float | timedelta | None = None) -> Any: ...

    async def get_result(self, task_id: str, timeout: float | timedelta | None = None) -> Any:
        """Wait until a task has ended, and return its result. It does not poll.

        Between the steps of a task with ``on_restart="resume"`` this is a step, whose outcome is
        recorded. If it takes longer than a minute, that task leaves its process, as for
        `framework.steps.sleep`, and goes on when the other one has ended.

        Args:
            task_id: The task.
            timeout: How many seconds to wait, 0 or more, or a timedelta; None for no limit. It
                only limits the wait; the task continues.

        Returns:
            The return value of the task's function; in such a step, as JSON gives it back.

        Raises:
            BaseException: The task's own exception, if it FAILED.
            TaskFailedError: Instead of an exception that would end or confuse the waiting
                code, which is its cause.
            TaskTimeoutError: If the task ran past its time limit.
            TaskCancelledError: If it was cancelled.
            TaskInterruptedError: If a shutdown or crash interrupted it.
            TaskNotFoundError: If the id is unknown.
            TypeError: If *task_id* is not a string.
            TimeoutError: If *timeout* has passed.
            DeadlockError: If the task waits for the caller, directly or through other tasks.
        """
        limit, core = checks.timeout(timeout), self._core
        record = core.ledger.find(task_id)
        task = task_id if record is None else record
        if awaits_in_a_step(core):
            ended = partial(core.results.awaited, task)
            return await result_in_a_step(task_id, limit, ended, core.requeued.leave_from_within)
        return await core.results.get(task, limit)

    @overload
    def wait_result(self, task_id: TaskId[T], timeout: float | timedelta | None = None) -> T: ...

    @overload
    def wait_result(self, task_id: str, timeout: float | timedelta | None = None) -> Any: ...

    def wait_result(self, task_id: str, timeout: float | timedelta | None = None) -> Any:
        """Block until a task has ended, and return its result; `get_result` for threads.

        If a thread of the pool waits for a task that is still queued, it runs that task itself,
        or, with *timeout*, a spare thread does. So tasks that wait for tasks do not block the
        pool. Between the steps of a sync task that resumes it is a step, as `get_result` is.

        Raises:
            RuntimeError: On the thread of a running event loop, which it would block.
            BaseException: What `get_result` raises.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "wait_result() would block the event loop of this thread: use "
                "'await get_result(task_id)' here"
            )
        limit, core = checks.timeout(timeout), self._core
        record = core.ledger.find(task_id)
        task = task_id if record is None else record
        if blocks_in_a_step(core):
            ended = partial(core.results.block_until_ended, task)
            return result_on_a_thread(task_id, limit, ended, core.requeued.leave_from_within)
        return core.results.wait(task, limit)

    async def wait(self, task_id: str, timeout: float | timedelta | None = None) -> Task:
        """Wait until a task has ended, whatever its outcome, and return it. It does not poll.

        Unlike `get_result` it raises neither the error of the task nor a `TimeoutError`, and
        does not count as reading a failure. So it suits code that shows the state of a task.

        Args:
            task_id: The task.
            timeout: How many seconds to wait, 0 or more, or a timedelta; None for no limit. It
                only limits the wait; the task continues.

        Returns:
            A snapshot of the task. It has not ended if *timeout* has passed, or if the framework
            stops while a worker of its engine goes on with the task.

        Raises:
            TypeError: If *task_id* is not a string, or *timeout* no time.
            ValueError: If *timeout* is negative or NaN.
            TaskNotFoundError: If the id is unknown.
            StoreUnavailableError: If a store that several processes share cannot be used.
            FrameworkNotStartedError: If another process has the task, and this one stops.
        """
        limit = checks.timeout(timeout)
        record = await until_ended(self._core, task_id, limit)
        if record is None:
            raise TaskNotFoundError(task_id)
        return snapshot_of(self._core, record)

    @overload
    async def gather(
        self,
        task_ids: Iterable[TaskId[T]],
        *,
        timeout: float | timedelta | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[T]: ...

    @overload
    async def gather(
        self,
        task_ids: Iterable[TaskId[T]],
        *,
        timeout: float | timedelta | None = None,
        return_exceptions: bool,
    ) -> list[T | BaseException]: ...

    @overload
    async def gather(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | timedelta | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]: ...

    async def gather(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | timedelta | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Wait for several tasks, and return their results in the order of the ids.

        The first error is raised at once. The other tasks continue, also if the wait is
        cancelled.

        Args:
            task_ids: The tasks; an id may occur twice.
            timeout: How many seconds to wait for all of them, 0 or more, or a timedelta; None for
                no limit.
            return_exceptions: Whether to wait for all tasks, and return errors in place of
                results.

        Raises:
            TypeError: If *task_ids* is not an iterable of ids.
            BaseException: What `get_result` raises for one of the tasks.
        """
        return await gather(
            lambda task_id: self.get_result(task_id, timeout), task_ids, return_exceptions
        )

    @overload
    async def submit_many(
        self,
        func: BackgroundCall[[I], T, Any] | Callable[[I], Coroutine[Any, Any, T]],
        items: Iterable[I],
        **options: Unpack[RunOptions],
    ) -> list[TaskId[T]]: ...

    @overload
    async def submit_many(
        self, func: Callable[[I], T], items: Iterable[I], **options: Unpack[RunOptions]
    ) -> list[TaskId[T]]: ...

    @MAP.spelled_out
    async def submit_many(
        self,
        func: Callable[[Any], Any],
        items: Iterable[Any],
        **options: Unpack[RunOptions],
    ) -> list[TaskId[Any]]:
        """Submit a function as a task for each of many items, and return the ids in their order.

        This costs less than as many calls of `submit`: a store writes up to 5,000 tasks in one
        transaction, and with ``durable=True`` this waits for that one. All are submitted, or none,
        if an item does not fit or the queue has not room for all of them. If the store refuses one
        task, or another process has the task of a unique call, others may have been submitted.

        Args:
            func: A function as for `submit`, with one parameter.
            items: Its arguments; all are read before the first task is submitted.
            **options: See `RunOptions`; they apply to each task.

        Raises:
            TypeError: If *func* cannot be a task, *items* is not iterable, an item does not fit,
                or a keyword is not an option.
            ValueError: If a number is out of range.
            QueueFullError: If the queue has not room for all.
            FrameworkNotStartedError: If the framework is stopping or has stopped.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be iterable, not {checks.show(items)}")
        core, frame = self._core, sys._getframe(1)
        given = cast(
            SubmitOptions, MAP.checked("submit_many", options, "; each item is one argument")
        )
        calls = [checked("submit", func, (item,), None, given) for item in items]
        patient = bool(calls) and must_wait(core, calls[0][0])
        submitted = await submit_all(core.intake, calls, frame, patient=patient)
        return [TaskId(one.task_id) for one in submitted]

    @overload
    def map(
        self,
        func: BackgroundCall[[I], T, Any] | Callable[[I], Coroutine[Any, Any, T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        max_running: int | None = None,
        **options: Unpack[RunOptions],
    ) -> TaskMap[I, T]: ...

    @overload
    def map(
        self,
        func: Callable[[I], T],
        items: Iterable[I] | AsyncIterable[I],
        *,
        max_running: int | None = None,
        **options: Unpack[RunOptions],
    ) -> TaskMap[I, T]: ...

    @MAP.spelled_out
    def map(
        self,
        func: Callable[[Any], Any],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        max_running: int | None = None,
        **options: Unpack[RunOptions],
    ) -> TaskMap[Any, Any]:
        """Run a function as a task for each of many items, a few at a time.

        Iterate over what this returns with ``async for`` to get each item when its task has
        ended, or await it to get all results in the order of the items. Tasks are submitted
        only then, at most *max_running* at a time, so *items* may be longer than the queue, or a
        generator without an end, also an async one. Further ones are submitted as you take those
        that have ended.

        If you stop early, or an awaited map raises the first error, no further tasks are
        submitted. Those that were submitted continue.

        Args:
            func: A function as for `submit`, with one parameter.
            items: Its arguments.
            max_running: How many of these tasks may wait or run at once, 1 or more; None for
                as many as the pool has threads.
            **options: See `RunOptions`; they apply to each task.

        Raises:
            TypeError: If *func* cannot be a task, *items* is not iterable, or a keyword is not
                an option.
            ValueError: If a number is out of range.
        """
        if not isinstance(items, (Iterable, AsyncIterable)):
            raise TypeError(f"items must be iterable, not {checks.show(items)}")
        core, frame = self._core, sys._getframe(1)
        given = cast(SubmitOptions, MAP.checked("map", options, "; each item is one argument"))
        require_callable("map", func)
        most = (
            core.pool._crew.max_workers
            if max_running is None
            else checks.integer("max_running", max_running, at_least=1)
        )
        # The frame goes on, and the line of this call with it.
        site = cast(FrameType, CallSite(frame.f_code, frame.f_lasti))

        async def submit(some: list[Any]) -> list[TaskRecord | str | Exception]:
            calls = (checked("submit", func, (item,), None, given) for item in some)
            patient = must_wait(core, spec_of(func, given)[0])
            return [
                _followed(core.ledger, func, one) if isinstance(one, Existing) else one
                for one in await submit_each(core.intake, calls, site, patient=patient)
            ]

        return TaskMap(items, most, submit, core.results.ended)


def _followed(
    ledger: Ledger, func: Callable[..., Any], task: Existing
) -> TaskRecord | str | DuplicateTaskError:
    """Return what to follow of a task of an earlier run; an error of one that others submitted."""
    if not task.is_same:
        # A task of another process is not followed here.
        return DuplicateTaskError(name_of(func), task.task_id)
    return ledger.find(task.task_id) or str(task.task_id)


class CallSite(NamedTuple):
    """The two attributes of a frame that tell where a call was made."""

    f_code: CodeType
    f_lasti: int
