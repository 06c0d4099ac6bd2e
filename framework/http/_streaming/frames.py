"""Frames: what a stream sends of a task, one state each, encoded once for all of its clients."""

from __future__ import annotations

import json
from typing import Any, Final
from zlib import crc32

from framework._manager.inside import record_of, without_places
from framework._records.records import TaskRecord, visible_state
from framework._records.statuses import TaskStatus
from framework._tasks.task import Task
from framework.http.views import TaskResponse, view_of

BEAT: Final = b":\n\n"
"""A comment, which clients ignore: it keeps the connection open while nothing happens."""


class Frame:
    """One state of a task.

    The id of a state is the same in all processes, and after a restart: a client that comes back
    with the id of the last state that it got can be answered by any of them.

    Args:
        task: A snapshot.

    Attributes:
        id: The id of the state. Of a final one it is the status.
        mark: The beginning of the id: it changes with everything but the progress.
        is_final: Whether it is the last one.
    """

    __slots__ = ("_events", "_task", "id", "is_final", "mark")

    def __init__(self, task: Task) -> None:
        self._task = task
        self._events: dict[tuple[Any, ...], bytes] = {}
        seen, progress = visible_state(record_of(task))
        self.mark: str = _mark(seen)
        self.is_final: bool = self.mark == seen[0]
        self.id: str = self.mark if self.is_final else f"{self.mark}-{_digest(progress)}"

    def event(
        self, seen: str, expose_errors: bool, to_owner: bool, view: type[TaskResponse] | None
    ) -> bytes:
        """Return it as an event: ``progress`` if the client has seen all else, or ``status``.

        Args:
            seen: The id of the last state that the client got; "" for none.
            expose_errors: Whether the client may read the messages of errors.
            to_owner: Whether the client must not know how many tasks of others wait.
            view: The app's own response that shows a task; None for a `TaskView`.
        """
        kind = "progress" if seen.rpartition("-")[0] == self.mark else "status"
        key = kind, expose_errors, to_owner, view
        event = self._events.get(key)
        if event is None:
            task = without_places(self._task) if to_owner else self._task
            shown = view_of(task, expose_errors=expose_errors, view=view)
            data = json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            text = f"event: {kind}\nid: {self.id}\ndata: {data}\n\n"
            event = self._events[key] = text.encode()
        return event


def mark_of(record: TaskRecord) -> str:
    """Return the `Frame.mark` of the state that a record has now."""
    return _mark(visible_state(record)[0])


def _mark(seen: tuple[Any, ...]) -> str:
    status: TaskStatus = seen[0]
    return status.value if status.is_final else f"{status.value}-{_digest(seen)}"


def _digest(facts: tuple[object, ...]) -> str:
    return f"{crc32(repr(facts).encode(errors='backslashreplace')):08x}"
