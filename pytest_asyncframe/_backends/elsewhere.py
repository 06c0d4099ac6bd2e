"""Events of tasks that another process runs, made from what the store says of them."""

from __future__ import annotations

from functools import partial
from typing import Final

from framework import TaskManager
from framework.protocols import TaskEvent, TaskRecord, TaskStatus
from pytest_asyncframe._backends.back_end import BackEnd
from pytest_asyncframe._seen.recorder import Recorder

_KINDS: Final = {TaskStatus.TIMEOUT: "timed_out"}
"""The kinds of events that are not called as the status after them."""


class Elsewhere:
    """Tells a recorder of the starts and ends of tasks in other processes.

    Args:
        back_end: Knows which tasks run there, and in which state they are.
        manager: The manager of the test.
        recorder: Its recorder.
    """

    def __init__(self, back_end: BackEnd, manager: TaskManager, recorder: Recorder) -> None:
        self._back_end = back_end
        self._manager = manager
        self._recorder = recorder
        self._ids: set[str] = set()
        self._started: set[TaskRecord] = set()
        self._ended: set[TaskRecord] = set()
        back_end.on_failure = recorder.wake_all
        recorder.admit, recorder.accepted = self._admit, self._follow

    def _admit(self, record: TaskRecord) -> TaskRecord:
        kept = self._back_end.admit(self._manager, record)
        if kept is not record:
            self._ids.add(kept.task_id)
        return kept

    def _follow(self, record: TaskRecord) -> None:
        if record.task_id in self._ids:
            self._back_end.follow(self._manager, record, partial(self._changed, record))

    def tells(self, event: TaskEvent) -> bool:
        """Whether an event of the test's own manager is told by this, and so is not news."""
        return event.kind != "submitted" and event.task_id in self._ids

    def _changed(self, record: TaskRecord) -> None:
        """Tell what is new of a task, of which several changes may be one."""
        if record.started is not None and record not in self._started:
            self._started.add(record)
            self._tell(record, "started", TaskStatus.RUNNING)
        status = record.status
        if status.is_final and record not in self._ended:
            self._ended.add(record)
            self._tell(record, _KINDS.get(status, status.value), status)

    def _tell(self, record: TaskRecord, kind: str, status: TaskStatus) -> None:
        ended, started = record.ended, record.started
        is_end = status.is_final and started is not None and ended is not None
        event = TaskEvent(
            kind,
            record.task_id,
            record.name,
            # When it is heard of: the clocks of two processes differ.
            self._recorder.begun + self._recorder.elapsed,
            record.created_at,
            attempt=record.attempts,
            status=status,
            origin=record.origin,
            message=record.reason if status.is_final else "",
            error=record.error if status.is_final else None,
            duration=ended - started if is_end and ended and started is not None else None,
        )
        self._recorder.on_event(event)
