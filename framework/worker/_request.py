"""A delivery in the worker's main process, while a process of its pool runs it."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from billiard.exceptions import TimeLimitExceeded
from celery.worker.request import Request

from framework._tasks import wire
from framework._threads.clock import SystemClock
from framework.engines.celery._messages import Message
from framework.engines.celery._state import holder_of, is_dead
from framework.engines.celery._tasks import keep_failure
from framework.exceptions import TaskTimeoutError
from framework.worker._outcomes import RevokedError, UnsaidError

_LOGGER = logging.getLogger("asyncframe")

_AWAY: Final = 1.0
"""Seconds between attempts to report an outcome while Redis is unavailable."""


class RemoteRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A delivery in the worker's main process."""

    _holder = ""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Remember which process has the delivery."""
        self._holder = holder_of(pid)
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, **kwargs: Any) -> None:
        """Report failures that the pool process could not report itself."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, UnsaidError):
            self._insist(error.args[0])
        elif isinstance(error, TimeLimitExceeded) and not self._tell_timeout():
            self.reject(requeue=True)
        super().on_failure(exc_info, **kwargs)
        if isinstance(error, RevokedError):
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)

    def _tell_timeout(self) -> bool:
        """End a task TIMEOUT if its process could not do so itself.

        Returns:
            Whether it is final. If its process has died before the limit, or has not started
            it, another process gets the task.
        """
        try:
            message = Message.from_json(self.args[0])
            state = self.task.asyncframe_engine.state
            told = TaskTimeoutError(message.task_id, message.name, message.limit or 0.0)
            if self._holder and not is_dead(self._holder):
                state.end(
                    message.task_id,
                    "timeout",
                    holder=self._holder,
                    error=wire.encode_error(told),
                    reason="it was killed past its limit",
                )
            facts = state.fetch([message.task_id]).get(message.task_id)
            if facts is not None and facts["status"] in ("pending", "running"):
                return False
        except Exception:  # the process must be killed in any case
            _LOGGER.exception("the timeout of task %s is not reported", self.id)
            return False
        self._keep(told)
        return True

    def _keep(self, error: Exception) -> None:
        """Store FAILURE in the app's result backend, without waiting for it here."""
        threading.Thread(
            target=keep_failure,
            args=(self.task, self.id, error),
            name="asyncframe-failure",
            daemon=True,
        ).start()

    def _insist(self, call: dict[str, Any]) -> None:
        """Report an outcome as soon as Redis is available again."""
        state, clock = self.task.asyncframe_engine.state, SystemClock()

        def tell() -> None:
            while True:
                try:
                    state.end(**call)
                except Exception:  # it is still unavailable
                    clock.sleep(_AWAY)
                else:
                    return

        threading.Thread(target=tell, name="asyncframe-outcome", daemon=True).start()
