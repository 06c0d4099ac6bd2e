"""A session: what an engine has between `open` and `close`, and what it does with it.

Thread rule: any thread; what blocks says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import redis

from framework._records.statuses import TaskStatus
from framework._tasks.errors.kept import encode_error
from framework._tasks.places import PlaceRequest
from framework._threads.clock import SystemClock
from framework.engines.celery._admission import Admission, Admitted
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.publisher import Publisher, Queued
from framework.engines.celery._publishing.sender import Sender
from framework.engines.celery._redis.entries import Entry
from framework.engines.celery._redis.reports import Reports
from framework.engines.celery._redis.state import ASKED, State, Wait
from framework.engines.celery._shared.lines import RedisLines
from framework.protocols import EngineHost, EngineTask

CLOSED: Final = "the engine is closed and does not publish any more"
"""Why a task is not published."""

NOT_STARTED: Final = "it was cancelled before it started"
_LOST_PLACE: Final = "its place went to another task: this process did not answer for too long"

_HEARS: Final = 0.5
"""Seconds to wait until a worker has received a cancellation; a busy one may take longer."""

_LAST: Final = 0.5
"""Seconds for giving back places at the end, whatever it took to publish."""


class Session:
    """The open engine of a running framework.

    Args:
        state: Redis.
        sender: Sends messages to the broker, on the publisher's thread.
        admission: Makes the messages.
        host: The framework.
        queue_size: How many tasks may wait to be published.
        timeout: Seconds for which a task waits for an unavailable broker.

    Attributes:
        host: The framework.
        publisher: Publishes its tasks.
        reports: Reads what workers report.
        lines: The places of its tasks.
        entry: Lists this process; None in a worker.
    """

    def __init__(
        self,
        state: State,
        sender: Sender,
        admission: Admission,
        host: EngineHost,
        queue_size: int,
        timeout: float,
    ) -> None:
        self._state = state
        self._message = admission.message
        self.host = host
        self.entry: Entry | None = None
        self.lines: RedisLines = RedisLines(state, self.listen)
        self.reports: Reports = Reports(state, host, self.lines.placed, self.lines.missed)
        self.publisher: Publisher = Publisher(
            sender,
            self.note,
            partial(state.published, self.lines.holder),
            state.repeated,
            host,
            queue_size,
            timeout,
        )

    def listen(self) -> None:
        """Read reports from now on; blocks."""
        # Before the first message is sent, so that no report about it is missed.
        self.reports.find_place()
        self.reports.start()

    def list_as(self, entry: Entry) -> None:
        """Read reports from the start, and list this process, in an app."""
        self.reports.start()
        self.entry = entry
        entry.start()

    def close(self, patience: float) -> None:
        """Publish waiting tasks for at most *patience* seconds, and end all threads; blocks."""
        clock = SystemClock()
        end = clock.monotonic() + patience
        self.publisher.close(patience)
        # After the tasks that were not published have left.
        self.lines.close(max(_LAST, end - clock.monotonic()))
        self.reports.close()
        if self.entry is not None:
            self.entry.close()

    def fault(self) -> str:
        """Return why the broker or Redis is unavailable; "" while both work."""
        return self.publisher.fault or self.reports.fault

    # -- tasks

    def keep(self, task: EngineTask, due: float | None, requests: Sequence[PlaceRequest]) -> bool:
        """Queue a task to be noted in Redis while it waits; see `protocols.KeepingEngine`.

        Raises:
            RuntimeError: If this is closed.
        """
        note: Admitted | None = task.engine_note
        if note is None:
            return False
        if not note.kept:
            note.kept = True
            if not self.publisher.put(Queued(task, "keep", due, requests)):
                note.kept = False
                raise RuntimeError(CLOSED)
        return True

    def cancel(self, task_id: str) -> bool:
        """Cancel a task that no worker has, or ask its worker to; False if unknown; blocks.

        Raises:
            redis.RedisError: If Redis does not answer, and the task is at the broker.
        """
        try:
            found = ask_to_cancel(self._state, task_id)
            if found not in ("", ASKED):
                # Before the answer, without waiting for the report.
                self._end(task_id, TaskStatus.CANCELLED, found)
        except redis.RedisError:
            if self._withdraw(task_id):
                return True
            raise
        if found or self._withdraw(task_id):
            return True
        # It may have been published in between.
        with suppress(redis.RedisError):
            return bool(self._state.cancel(task_id, NOT_STARTED))
        return False

    def _withdraw(self, task_id: str) -> bool:
        found = self.publisher.withdraw(task_id)
        if found:
            self._end(task_id, TaskStatus.CANCELLED, NOT_STARTED)
        return found

    # -- what Redis is told of tasks; on the publisher's thread, and blocks for a round trip or two

    def note(self, queued: Sequence[Queued]) -> dict[str, Message]:
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
        waiting = [(self._message(o.task), self._wait(o)) for o in queued if o.move == "keep"]
        if waiting:
            for task_id in self._state.keep(waiting, self.lines.holder):
                self._end(task_id, TaskStatus.CANCELLED, NOT_STARTED)
        ready = {one.task_id: one.task for one in queued if one.move == "publish"}
        messages = {task_id: self._message(task) for task_id, task in ready.items()}
        if messages:
            refused = self._state.publish(list(messages.values()), self.lines.holder, self.lines)
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
            self._state.cancel(task.task_id, reason)
            return
        failed = status is TaskStatus.FAILED and task.error is not None
        error = encode_error(task.error) if failed else ""
        self._state.retire(self._message(task), status.value, error, reason)

    def _refused(self, task: EngineTask, why: str) -> None:
        if why == "dropped":
            self._end(task.task_id, TaskStatus.CANCELLED, NOT_STARTED)
        elif why == "unplaced":
            self._end(task.task_id, TaskStatus.INTERRUPTED, _LOST_PLACE)
        else:
            # Another process has published it, and the reports tell of it.
            task.engine_note = None

    def _end(self, task_id: str, status: TaskStatus, reason: str) -> None:
        """Make a task final here that was not sent."""
        self.host.ended(task_id, status, self.host.clock.time(), reason=reason, attempts=0)

    # -- protocols.NewsDirectory

    def watch(self, told: Callable[[Collection[str] | None], object]) -> Callable[[], object]:
        """Call *told* with the ids of all tasks that workers report on; blocks."""
        reports = self.reports
        reports.told = told
        # While Redis is away, its thread finds the place later, and then says that all may have
        # changed.
        with suppress(redis.RedisError):
            self.listen()

        def stop() -> None:
            reports.told = None

        return stop


def is_kept(task: EngineTask) -> bool:
    """Whether a task was queued to be noted in Redis, or was, while it waits."""
    note: Admitted | None = task.engine_note
    return note is not None and note.kept


def ask_to_cancel(state: State, task_id: str) -> str:
    """Cancel a task in Redis, and wait a moment until its worker knows it; see `State.cancel`.

    Raises:
        redis.RedisError: If Redis does not answer.
    """
    found = state.cancel(task_id, NOT_STARTED)
    if found == ASKED:
        # After the answer the function can find out that it was cancelled.
        state.await_heard(task_id, _HEARS)
    return found
