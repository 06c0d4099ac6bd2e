"""What Celery is told about a delivery, so that its own states, events and logs are true.

Celery learns it from what its task raises: nothing makes SUCCESS, an error FAILURE, ``Retry``
RETRY. ``Ignore`` ends a delivery without a word. In each case the message is acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from celery import states
from celery.exceptions import Ignore, Retry, TaskPredicate

from framework._records.jsonsafe import safe_repr
from framework._records.statuses import COMPLETED, TRAITS, TaskStatus
from framework._running.log import users_frames
from framework._running.outcomes import PublishAgain
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework.engines.celery._tasks import ShownError, keep_end
from framework.exceptions import TaskCancelledError, TaskFailedError

_LOGGER = SafeLogger("asyncframe")

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
        status: The task's final status; PENDING if it continues in a later delivery; None if
            another delivery tells Celery.
        task_id: The task.
        name: The task's name.
        error: Why it failed; None for a task that has not.
        again: When and why it continues, if it does.
        unsaid: The arguments of `State.end` if Redis did not take them.
    """

    status: TaskStatus | None
    task_id: str = ""
    name: str = ""
    error: BaseException | None = None
    again: PublishAgain | None = None
    unsaid: dict[str, Any] | None = None

    def tell(self, task: Any) -> None:
        """Tell Celery how the delivery went: return for SUCCESS, raise an error for all else.

        Args:
            task: The Celery task that ran the delivery.

        Raises:
            Exception: The error of a task that has failed.
            Ignore: If another delivery tells Celery, or the task was cancelled.
            UnsaidError: If Redis did not take the outcome; Celery then says nothing.
            Retry: If the task continues in a later delivery.
        """
        if self.unsaid is not None:
            if self.status is not None and TRAITS[self.status].failed:
                _LOGGER.error("task %s (%s) failed", self.task_id, self.name, exc_info=self.error)
            raise UnsaidError(self.unsaid)
        if self.status is None:
            raise Ignore
        if self.again is not None:
            _raise_retry(self.again)
        if TRAITS[self.status].failed:
            raise self._celery_error()
        if self.status is not COMPLETED:
            told = TaskCancelledError(self.task_id, self.name)
            keep_end(task, self.task_id, told, states.REVOKED)
            raise RevokedError(str(told))

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


def _raise_retry(again: PublishAgain) -> NoReturn:
    delay = round(again.delay, 3)  # for people
    if again.error is None:
        raise Retry(again.reason, when=delay)
    shown = ShownError(safe_repr(again.error))
    told = Retry(exc=shown, when=delay)
    raise told.with_traceback(users_frames(again.error.__traceback__)) from None
