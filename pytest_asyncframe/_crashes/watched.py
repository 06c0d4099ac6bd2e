"""Points around the bodies of tasks and steps of one process."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any  # whatever a task or a step returns

from framework.protocols import Interceptor, TaskRecord
from pytest_asyncframe._crashes.disk import short
from pytest_asyncframe._seen.recorder import Recorder


class Watched(Interceptor):
    """Tells a recorder of tasks, by the records that outlive their process, and meets points.

    Args:
        recorder: The test's.
        lasting: Returns the record of a task that outlives its process.
        point: Called with what happens at a point.
    """

    def __init__(
        self,
        recorder: Recorder,
        lasting: Callable[[TaskRecord], TaskRecord],
        point: Callable[[str], object],
    ) -> None:
        self._recorder = recorder
        self._lasting = lasting
        self._point = point

    def before_accept(self, record: TaskRecord) -> None:
        """See `Recorder`."""
        self._recorder.before_accept(record)

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Record an attempt; there is a point where its body has ended."""
        made = self._recorder.around_attempt(self._lasting(record), attempt, call)
        return self._followed(made, f"after {short(record.name)}, before its end is stored")

    def around_step(self, record: TaskRecord, name: str, call: Callable[[], Any]) -> Any:
        """Meet a point before the body of a step, and one after it."""
        what = short(name)
        self._point(f"before {what}")
        return self._followed(call(), f"after {what}, before its commit")

    def _followed(self, made: Any, after: str) -> Any:
        if inspect.isawaitable(made):
            return self._awaited(made, after)
        self._point(after)
        return made

    async def _awaited(self, made: Awaitable[Any], after: str) -> Any:
        result = await made
        self._point(after)
        return result

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """See `Recorder`."""
        kept = None if record is None else self._lasting(record)
        self._recorder.after_throttle(name, kept, at)

    def after_event(self, record: TaskRecord, kind: str) -> None:
        """See `Recorder`."""
        self._recorder.after_event(self._lasting(record), kind)
