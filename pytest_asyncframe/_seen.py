"""What was seen of a test's tasks: every submission with its arguments, and every event."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.testing import Call, bare_function, call_of


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """One task that was taken in.

    Attributes:
        record: The task; goes on changing until it has ended.
        call: What it calls.
    """

    record: TaskRecord
    call: Call

    def is_of(self, fn: Callable[..., Any] | str) -> bool:
        """Whether it is a task of *fn*, which may be a function or a name."""
        if isinstance(fn, str):
            return self.record.name == fn
        return self.call.fn == bare_function(fn)

    def called_with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether its arguments equal these."""
        return self.call.args == args and self.call.kwargs == kwargs


class Recorder(Interceptor):
    """Sees every task of one test.

    Args:
        monotonic: Returns the seconds of the test's clock.

    Attributes:
        submissions: What was taken in, in order.
        attempts: When each attempt of a body began, in order.
        heard: What has happened, in order, and on which thread.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.submissions: list[Submission] = []
        self.attempts: list[tuple[Submission, float]] = []
        self.heard: list[tuple[str, TaskEvent]] = []
        self._monotonic = monotonic
        self._watchers: dict[TaskRecord, list[Callable[[], object]]] = {}
        self._lock = threading.Lock()

    def before_accept(self, record: TaskRecord) -> None:
        """Note a task that is about to be accepted."""
        self.submissions.append(Submission(record, call_of(record)))

    def around_attempt(
        self, record: TaskRecord, attempt: int, call: Callable[[], Any]
    ) -> Any:  # Any: whatever the task returns
        """Note when an attempt begins."""
        for one in reversed(self.submissions):
            if one.record is record:
                self.attempts.append((one, self._monotonic()))
                break
        return call()

    @property
    def events(self) -> list[TaskEvent]:
        """What has happened, in order."""
        return [event for _, event in self.heard]

    def hear(self, event: TaskEvent) -> None:
        """Note an event, and tell who waits for a task's end; see `protocols.EventSink`."""
        self.heard.append((threading.current_thread().name, event))
        if event.status is None or not event.status.is_final or event.task_id is None:
            return
        record = self.record(event.task_id)
        with self._lock:
            watchers = [] if record is None else self._watchers.pop(record, [])
        for call in watchers:
            call()

    def when_final(self, record: TaskRecord, call: Callable[[], object]) -> None:
        """Have *call* called once a task has ended, at once if it has; it may come twice."""
        with self._lock:
            self._watchers.setdefault(record, []).append(call)
        if record.status.is_final:
            call()

    def of(self, fn: Callable[..., Any] | str) -> list[Submission]:
        """Return the tasks of *fn*, in the order of their submission."""
        return [one for one in self.submissions if one.is_of(fn)]

    def record(self, task_id: str) -> TaskRecord | None:
        """Return the latest task with this id, or None."""
        for one in reversed(self.submissions):
            if one.record.task_id == task_id:
                return one.record
        return None

    @property
    def living(self) -> list[Submission]:
        """The tasks that have not ended."""
        return [one for one in self.submissions if not one.record.status.is_final]
