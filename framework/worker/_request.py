"""A delivery as a worker's own process sees it, while one of its pool's processes runs it."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from billiard.exceptions import TimeLimitExceeded
from celery.exceptions import Ignore
from celery.worker.request import Request

from framework._tasks import wire
from framework._threads.clock import SystemClock
from framework.engines.celery._messages import Message
from framework.engines.celery._state import holder_of, is_dead
from framework.exceptions import TaskTimeoutError

_LOGGER = logging.getLogger("asyncframe")

_AWAY: Final = 1.0
"""Seconds between tries to tell Redis, which is away, of an outcome."""


class UnsaidError(Ignore):  # type: ignore[misc]  # Celery has no types
    """Hands an outcome that Redis did not take to the worker's own process.

    The one argument is what `State.end` is to be called with.
    """


class RemoteRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A delivery as the worker's own process sees it."""

    _holder = ""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Note which process has the delivery."""
        self._holder = holder_of(pid)
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, **kwargs: Any) -> None:
        """See to what the task's own process could not see to."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, UnsaidError):
            self._insist(error.args[0])
        elif isinstance(error, TimeLimitExceeded) and not self._tell_timeout():
            self.reject(requeue=True)
        super().on_failure(exc_info, **kwargs)

    def _tell_timeout(self) -> bool:
        """End a task TIMEOUT whose process could not do so itself.

        Returns:
            Whether it is over. A process that has died before its limit, or has not begun
            yet, leaves the task to another one.
        """
        try:
            message = Message.from_json(self.args[0])
            state = self.task.asyncframe_engine.state
            if self._holder and not is_dead(self._holder):
                told = TaskTimeoutError(message.task_id, message.name, message.limit or 0.0)
                state.end(
                    message.task_id, "timeout", holder=self._holder,
                    error=wire.encode_error(told), reason="it was killed past its limit",
                )  # fmt: skip
            facts = state.fetch([message.task_id]).get(message.task_id)
            return facts is None or facts["status"] not in ("pending", "running")
        except Exception:  # the kill must come about in any case
            _LOGGER.exception("the timeout of task %s is not reported", self.id)
            return False

    def _insist(self, call: dict[str, Any]) -> None:
        """Tell Redis of an outcome as soon as it is there again."""
        state, clock = self.task.asyncframe_engine.state, SystemClock()

        def tell() -> None:
            while True:
                try:
                    state.end(**call)
                except Exception:  # it is still away
                    clock.sleep(_AWAY)
                else:
                    return

        threading.Thread(target=tell, name="asyncframe-outcome", daemon=True).start()
