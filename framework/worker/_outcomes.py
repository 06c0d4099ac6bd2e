"""What Celery is told about a delivery, so that its own states, events and logs are true.

Celery learns it from what its task raises: nothing makes SUCCESS, an error FAILURE, ``Retry``
RETRY. ``Ignore`` ends a delivery without a word. In each case the message is acknowledged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NoReturn, TypeAlias

from celery.exceptions import Ignore, Retry, TaskPredicate

from framework._records.jsonsafe import safe_repr
from framework._records.statuses import COMPLETED, TRAITS, TaskStatus
from framework._running.log import users_frames
from framework._threads.courier import Courier
from framework.engines.celery._tasks import ShownError, keep_revoked
from framework.exceptions import TaskCancelledError, TaskFailedError

_LOGGER = logging.getLogger("asyncframe")

Kind: TypeAlias = Literal["completed", "failed", "cancelled", "retried", "dropped"]
"""What Celery may be told of a delivery: it has fewer ends than there are final statuses."""


def kind_of(status: TaskStatus) -> Kind:
    """Return what Celery is told of a task that has ended with *status*."""
    if status is COMPLETED:
        return "completed"
    return "failed" if TRAITS[status].failed else "cancelled"


_AWAY: Final = 1.0
"""Seconds between attempts to report an outcome while Redis is unavailable."""


def insist(state: Any, call: dict[str, Any]) -> None:  # Any: `State`, or what stands for it
    """Report an outcome as soon as Redis is available again; never blocks.

    Args:
        state: Redis.
        call: The arguments of `State.end`; a second report changes nothing.
    """
    _LATE.put(partial(state.end, **call))


_LATE: Final = Courier("asyncframe-outcome", pauses=(_AWAY,))
"""Reports the outcomes of this process that Redis did not take at first."""


class UnsaidError(Ignore):  # type: ignore[misc]  # Celery has no types
    """Carries an outcome that could not be written to Redis to the worker's main process.

    Its one argument has the arguments for `State.end`.
    """


class RevokedError(Ignore):  # type: ignore[misc]  # Celery has no types
    """Tells the worker's main process that a task was cancelled; Celery says REVOKED."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery.

    Attributes:
        kind: ``completed``, ``failed`` or ``cancelled``, see `kind_of`; ``retried`` (it continues
            in a later delivery) or ``dropped`` (another delivery tells Celery).
        task_id: The task.
        name: The task's name.
        error: Why it failed or is retried; None if it waits for a throttle.
        delay: Seconds until it continues.
        reason: Why it waits, for people.
        unsaid: The arguments of `State.end` if Redis did not take them.
    """

    kind: Kind
    task_id: str = ""
    name: str = ""
    error: BaseException | None = None
    delay: float = 0.0
    reason: str = ""
    unsaid: dict[str, Any] | None = None

    def tell(self, task: Any) -> None:
        """Report the outcome to Celery: return if the task is COMPLETED, else raise.

        Args:
            task: The Celery task that ran the delivery.

        Raises:
            Exception: The error of a task that has failed.
            Ignore: If this delivery does not end the task, or the task was cancelled.
            UnsaidError: If the outcome could not be written to Redis; Celery then reports nothing.
            Retry: If the task continues in a later delivery.
        """
        if self.unsaid is not None:
            if self.kind == "failed":
                _LOGGER.error("task %s (%s) failed", self.task_id, self.name, exc_info=self.error)
            raise UnsaidError(self.unsaid)
        if self.kind == "failed":
            raise self._celery_error()
        if self.kind == "retried":
            self._raise_retry()
        if self.kind == "cancelled":
            told = TaskCancelledError(self.task_id, self.name)
            keep_revoked(task, self.task_id, told)
            raise RevokedError(str(told))
        if self.kind == "dropped":
            raise Ignore

    def _celery_error(self) -> Exception:
        """Return the task's error, or one with it as its cause if Celery would act on it."""
        error = self.error
        assert error is not None
        error = error.with_traceback(users_frames(error.__traceback__))
        if isinstance(error, Exception) and not isinstance(error, TaskPredicate):
            return error
        wrapper = TaskFailedError(self.task_id, self.name)
        wrapper.__cause__ = error
        return wrapper

    def _raise_retry(self) -> NoReturn:
        delay = round(self.delay, 3)  # for people
        if self.error is None:
            raise Retry(self.reason, when=delay)
        shown = ShownError(safe_repr(self.error))
        told = Retry(exc=shown, when=delay)
        raise told.with_traceback(users_frames(self.error.__traceback__)) from None
