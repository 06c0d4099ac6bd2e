"""What a process notes of its tasks in Redis before their messages are sent.

Thread rule: all of it happens on the publisher's thread, and blocks for a round trip or two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from framework._records.statuses import TaskStatus
from framework._tasks.wire import encode_error
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.publisher import Queued
from framework.engines.celery._redis.state import State, Wait
from framework.engines.celery._shared.lines import RedisLines
from framework.protocols import EngineHost, EngineTask

NOT_STARTED: Final = "it was cancelled before it started"
_LOST_PLACE: Final = "its place went to another task: this process did not answer for too long"


@dataclass(frozen=True, slots=True)
class Notes:
    """Writes the tasks of one process to Redis.

    Attributes:
        state: Redis.
        lines: Knows which tasks need places, and keeps the sign of life of this process.
        host: Is told of tasks that cannot be published.
        listen: Called before the first task is written, to read reports from then on; blocks.
        message: Makes the message of an admitted task.
    """

    state: State
    lines: RedisLines
    host: EngineHost
    listen: Callable[[], None]
    message: Callable[[EngineTask], Message]

    def write(self, queued: Sequence[Queued]) -> dict[str, Message]:
        """Note what is queued, and return the messages that are to be sent, by id.

        Raises:
            redis.RedisError: If Redis does not answer; all of it may be noted once more.
        """
        self.listen()
        # What is noted and not sent is left to others if this process falls silent.
        self.lines.stay_alive()
        for one in queued:
            if one.move == "retire":
                self._retire(one.task)
        # One may have been sent since it was queued: its note is gone then, and nothing is to do.
        queued = [one for one in queued if one.task.engine_note is not None]
        waiting = [(self.message(o.task), self._wait(o)) for o in queued if o.move == "keep"]
        if waiting:
            for task_id in self.state.keep(waiting, self.lines.holder):
                self._end(task_id, TaskStatus.CANCELLED, NOT_STARTED)
        ready = {one.task_id: one.task for one in queued if one.move == "publish"}
        messages = {task_id: self.message(task) for task_id, task in ready.items()}
        if messages:
            refused = self.state.publish(list(messages.values()), self.lines.holder, self.lines)
            for task_id, why in refused.items():
                del messages[task_id]
                self._refused(ready[task_id], why)
        return messages

    def _wait(self, queued: Queued) -> Wait:
        due, now = queued.due, self.host.clock.time()
        seconds = 0.0 if due is None else max(0.0, due - now)
        return Wait(seconds, tuple(queued.requests), queued.task.reason)

    def _retire(self, task: Any) -> None:  # Any: a TaskRecord, which also has an error
        status, reason = task.status, task.reason
        if not status.is_final:  # it was withdrawn, and is about to be told
            status, reason = TaskStatus.CANCELLED, NOT_STARTED
        if task.engine_note is None:  # it was sent meanwhile
            self.state.cancel(task.task_id, reason)
            return
        failed = status is TaskStatus.FAILED and task.error is not None
        error = encode_error(task.error) if failed else ""
        self.state.retire(self.message(task), status.value, error, reason)

    def _refused(self, task: EngineTask, why: str) -> None:
        if why == "dropped":
            self._end(task.task_id, TaskStatus.CANCELLED, NOT_STARTED)
        elif why == "unplaced":
            self._end(task.task_id, TaskStatus.INTERRUPTED, _LOST_PLACE)
        else:
            # Another process has published it, and the reports tell of it.
            task.engine_note = None

    def _end(self, task_id: str, status: TaskStatus, reason: str) -> None:
        self.host.ended(task_id, status, self.host.clock.time(), reason=reason, attempts=0)
