"""Outcomes: what a waiter gets from a final task, its result or an error."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from framework._records.records import TaskRecord
from framework._records.statuses import COMPLETED, TIMEOUT, TRAITS
from framework._tasks.live import LiveTask
from framework.exceptions import (
    TaskFailedError,
    TaskTimeoutError,
)

ENDING: Final = (
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)
"""Errors that end the code that gets them, wherever they were meant to."""

MISLEADING: Final = (*ENDING, StopIteration, StopAsyncIteration)
"""Errors that would end or mislead the code that waits for a task, so they are wrapped."""


class WorkerCrashError(BaseException):
    """Raised inside a task by an interceptor, to act as if the worker had crashed.

    Nothing retries it. The task ends INTERRUPTED, and its reason is the text of this error.
    The pool replaces the thread. ``finally`` blocks run, unlike in a real crash.
    """


@dataclass(eq=False, repr=False)
class PublishAgain(BaseException):  # no error, and nobody may catch it as one
    """Leaves a task's function: the task waits outside of it, and runs again later.

    On a worker of a remote engine it is published again. In a process that shares a store it
    waits as a delayed task does.

    Attributes:
        kind: ``retrying``, ``throttled`` or ``sleeping``.
        delay: Seconds until then.
        error: What ended the attempt; None if it goes on.
        reason: Why it waits, see `reasons`.
        turn: Key of the throttle's window that it waits for; "" for none.
        then: Called with the task and this error when its function was left; None on a worker.
    """

    kind: str
    delay: float
    error: BaseException | None
    reason: str
    turn: str = ""
    then: Callable[[LiveTask, PublishAgain], object] | None = None


def raise_or_return(record: TaskRecord) -> Any:
    """Return the result of a final record, or raise its error.

    A stored error is raised with its first traceback, which would otherwise grow with each
    call.
    """
    status = record.status
    if status is COMPLETED:
        return record.result
    record.read = True
    made = TRAITS[status].error
    if made is not None:
        raise made(record.task_id, record.name)
    assert record.error is not None
    if status is TIMEOUT and isinstance(record.error, TaskTimeoutError):
        raise TaskTimeoutError(*record.error.args)
    raise awaiters_error(record, record.error)


def awaiters_error(record: TaskRecord, error: BaseException) -> BaseException:
    """Return what to raise in the code that waits for a task that raised *error*."""
    error = error.with_traceback(record.traceback)
    if not isinstance(error, MISLEADING) and not is_ending_group(error):
        return error
    wrapper = TaskFailedError(record.task_id, record.name)
    wrapper.__cause__ = error
    return wrapper


def is_ending_group(error: BaseException) -> bool:
    """Return whether *error* is a group that ``except Exception`` lets pass, with one of `ENDING`.

    Nurseries and task groups raise what ended a child in such a group.
    """
    if not isinstance(error, BaseExceptionGroup) or isinstance(error, Exception):
        return False
    return any(isinstance(one, ENDING) or is_ending_group(one) for one in error.exceptions)
