"""A session: what an engine has between `open` and `close`, and what it does with it.

Thread rule: any thread; what blocks says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import redis

from framework._records.statuses import TaskStatus
from framework._tasks.places import PlaceRequest
from framework._threads.clock import SystemClock
from framework.engines.celery._admission import Admission, Admitted
from framework.engines.celery._publishing.notes import NOT_STARTED, Notes
from framework.engines.celery._publishing.publisher import Publisher, Queued
from framework.engines.celery._publishing.sender import Sender
from framework.engines.celery._redis.entries import Entry
from framework.engines.celery._redis.reports import Reports
from framework.engines.celery._redis.state import ASKED, State
from framework.engines.celery._shared.lines import RedisLines
from framework.protocols import EngineHost, EngineTask

CLOSED: Final = "the engine is closed and does not publish any more"
"""Why a task is not published."""

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
        self.host = host
        self.entry: Entry | None = None
        self.lines: RedisLines = RedisLines(state, self.listen)
        self.reports: Reports = Reports(state, host, self.lines.placed, self.lines.missed)
        self.publisher: Publisher = Publisher(
            sender,
            Notes(state, self.lines, host, self.listen, admission.message).write,
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

    def flush(self) -> None:
        """Block until what was submitted is published, unless the broker is unavailable."""
        self.lines.flush()
        self.publisher.flush()

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

    def retire(self, task: EngineTask) -> None:
        """Let a task that has ended here end in Redis as well."""
        self.publisher.retire(task, kept=is_kept(task))

    def cancel(self, task_id: str) -> bool:
        """Cancel a task that no worker has, or ask its worker to; False if unknown; blocks.

        Raises:
            redis.RedisError: If Redis does not answer, and the task is at the broker.
        """
        try:
            found = ask_to_cancel(self._state, task_id)
            if found not in ("", ASKED):
                self._tell_cancelled(task_id, found)
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
            self._tell_cancelled(task_id, NOT_STARTED)
        return found

    def _tell_cancelled(self, task_id: str, reason: str) -> None:
        """Mark it CANCELLED here before answering, without waiting for the report."""
        now = self.host.clock.time()
        self.host.ended(task_id, TaskStatus.CANCELLED, now, reason=reason, attempts=0)

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
