"""A delivery in the worker's main process: it becomes a task of its function, which a pool runs."""

from __future__ import annotations

import threading
from typing import Any, Final

from billiard.exceptions import TimeLimitExceeded
from celery import states
from celery.worker.request import Request
from celery.worker.state import task_ready
from celery.worker.strategy import default

from framework._records.statuses import PENDING, RUNNING, TIMEOUT
from framework._tasks.errors.kept import encode_error
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import holder_of, lives
from framework.engines.celery._messages import Message
from framework.engines.celery._tasks import keep_end
from framework.worker._outcomes import RevokedError, UnsaidError, insist

_LOGGER = SafeLogger("asyncframe")

_NAME: Final = "shadow"
"""The header of a message with its function's name."""

_LATE: Final = 1.0
"""Seconds after which a limit that is noticed late was noticed by a worker that was away."""

_HEARD: Final = 3.0
"""Seconds from Redis's return within which a pool process has reported what it could not."""

_LOOK: Final = 0.1


class RemoteRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A delivery in the worker's main process."""

    _pid = 0
    _accepted = 0.0
    _ended = False

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Remember which process has the delivery, and since which monotonic second."""
        self._pid, self._accepted = pid, time_accepted
        super().on_accepted(pid, time_accepted)

    def _holder(self) -> str:
        """Return the holder of the process that has the delivery; "" if that has died.

        Only asked past a limit, since reading it takes as long as much of what else a delivery
        costs here. If another process has the number by then, it has no lease on this task.
        """
        return holder_of(self._pid) if self._pid and lives(self._pid) else ""

    def on_failure(self, exc_info: Any, **kwargs: Any) -> None:
        """Report failures that the pool process could not report itself."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, UnsaidError):
            insist(self.task.asyncframe_engine.state, error.args[0])
        elif isinstance(error, TimeLimitExceeded):
            self._ended = self._has_ended(error.args[0])
            if self._ended:
                return
            if not self._tell_timeout():
                self.reject(requeue=True)
        super().on_failure(exc_info, **kwargs)
        if isinstance(error, RevokedError):
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Acknowledge a task that had ended in time: Celery's tools see no timeout."""
        if self._ended:
            task_ready(self)
            self.acknowledge()
        else:
            super().on_timeout(soft, timeout)

    def _has_ended(self, limit: float) -> bool:
        """Return whether a task that is to be killed had ended within its limit.

        While the broker is away, Celery looks neither at limits nor at what pool processes send.
        When it is back, it looks at the limits first, and kills a process that ended its task
        long ago. Such a process reports the end itself, as soon as it can.

        Args:
            limit: Seconds after which Celery should have killed it.
        """
        clock = SystemClock()
        late = clock.monotonic() - self._accepted >= limit + _LATE
        if not late or not self._holder():
            return False
        end = clock.monotonic() + _HEARD
        while clock.monotonic() < end:
            try:
                facts = self.task.asyncframe_engine.state.fetch([self.id]).get(self.id)
            except Exception:  # it is still unavailable
                return False
            if facts is None or facts["status"] not in (PENDING, RUNNING):
                return facts is not None and facts["status"] != TIMEOUT
            clock.sleep(_LOOK)
        return False

    def _tell_timeout(self) -> bool:
        """End a task TIMEOUT if its process could not do so itself.

        Returns:
            Whether it is final. If its process has died before the limit, or has not started
            it, another process gets the task.
        """
        try:
            message = Message.from_json(self.args[0])
            state = self.task.asyncframe_engine.state
            told = message.timeout_error()
            if holder := self._holder():
                state.end(
                    message.task_id,
                    TIMEOUT,
                    holder=holder,
                    error=encode_error(told),
                    reason="it was killed past its limit",
                )
            facts = state.fetch([message.task_id]).get(message.task_id)
            if facts is not None and facts["status"] in (PENDING, RUNNING):
                return False
        except Exception:  # the process must be killed in any case
            _LOGGER.exception("the timeout of task %s is not reported", self.id)
            return False
        # In the app's result backend, without waiting for that here.
        threading.Thread(
            target=keep_end,
            args=(self.task, self.id, told, states.FAILURE),
            name="asyncframe-failure",
            daemon=True,
        ).start()
        return True


def by_function(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Return what takes a message of the general task, as Celery's own strategy does.

    If the worker has a task for the function, the message becomes one of that task. So logs,
    monitors and signal handlers see the function's name. A function that was registered too
    late for that, or that the worker does not know, keeps the general task.

    Args:
        task: The general task.
        app: The Celery app.
        consumer: The consumer of the worker, with the strategies of all tasks.
        options: Further arguments of Celery's strategy.
    """
    tasks = task.asyncframe_engine.tasks
    general = default(task, app, consumer, **options)

    def take(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        name = message.headers.get(_NAME)
        strategy = consumer.strategies.get(name) if tasks.is_ours(name) else None
        if strategy is None or name == task.name:
            return general(message, body, ack, reject, callbacks)
        message.headers["task"] = name
        return strategy(message, body, ack, reject, callbacks)

    return take
