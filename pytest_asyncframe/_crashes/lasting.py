"""The tasks of a test as it sees them, whichever life of the process runs them.

A test is outside of the process. So it sees that a task has ended once that is committed, and a
task that no disk has is gone with the process that had accepted it.
"""

from __future__ import annotations

from framework import TaskInterruptedError
from framework.protocols import TaskEvent, TaskRecord, TaskStatus
from framework.testing import adopt_state, mirror
from pytest_asyncframe._crashes.disk import Disk
from pytest_asyncframe._toolkit.toolkit import Toolkit

_LOST = "its process died before it was stored"


class Lasting:
    """One record for each task of a test.

    Args:
        toolkit: The parts of the test.
        disk: What is committed.
    """

    def __init__(self, toolkit: Toolkit, disk: Disk) -> None:
        self._toolkit = toolkit
        self._recorder = toolkit.recorder
        self._disk = disk
        self._records: dict[str, TaskRecord] = {}
        # Those of the present life, as its framework has them; when it is about to accept them, and
        # once it has.
        self._live: dict[str, TaskRecord] = {}
        self._noted: dict[str, TaskRecord] = {}
        # Ends that are not committed yet.
        self._ends: dict[str, TaskEvent] = {}
        toolkit.recorder.admit = self._admit

    def _admit(self, record: TaskRecord) -> TaskRecord:
        task_id = str(record.task_id)
        self._live[task_id] = record
        self._records[task_id] = made = mirror(record)
        return made

    def of(self, record: TaskRecord) -> TaskRecord:
        """Return the record that outlives a process, of one that does not."""
        return self._records.get(str(record.task_id), record)

    # -- what happens to a live task

    def knows(self, record: TaskRecord) -> bool:
        """Whether the present life has noted a task already."""
        return self._noted.get(str(record.task_id)) is record

    def noted(self, record: TaskRecord) -> None:
        """Take note of a task that the present life has."""
        self._live[str(record.task_id)] = self._noted[str(record.task_id)] = record

    def tells(self, event: TaskEvent) -> bool:
        """Whether an event is told later: the end of a task, once it is committed."""
        task_id = str(event.task_id)
        kept, live = self._records.get(task_id), self._live.get(task_id)
        if kept is None or event.kind == "submitted":
            return False
        stored = self._disk.records.get(task_id)
        if stored is not None and stored.status.is_final:
            adopt_state(kept, stored)
        elif event.status is not None and event.status.is_final:
            self._ends[task_id] = event
            return True
        elif live is not None and not live.status.is_final:
            adopt_state(kept, live)
        return False

    def stored(self, record: TaskRecord) -> None:
        """Take note of what was committed."""
        task_id = str(record.task_id)
        kept = self._records.get(task_id)
        if kept is None or not record.status.is_final:
            return
        adopt_state(kept, record)
        end = self._ends.pop(task_id, None)
        if end is not None:
            self._toolkit.hear(end)

    # -- after a death

    def remember(self) -> None:
        """Go back to what is committed: the rest was known to the dead process alone."""
        self._live.clear()
        self._noted.clear()
        for task_id, kept in list(self._records.items()):
            stored = self._disk.records.get(task_id)
            if stored is None:
                del self._records[task_id]
                self._lose(kept)
            elif stored.status.is_final:
                # It may have died before it could tell.
                self.stored(stored)
                self._recorder.tell_end(kept)
            else:
                adopt_state(kept, stored)
        self._ends.clear()

    def _lose(self, kept: TaskRecord) -> None:
        kept.status, kept.ended = TaskStatus.INTERRUPTED, kept.created
        kept.error, kept.reason = TaskInterruptedError(kept.task_id, kept.name), _LOST
        self._recorder.forget(kept)

    def end(self) -> None:
        """Note which failures somebody has read inside of the process."""
        for task_id, live in self._live.items():
            if live.read and task_id in self._records:
                self._records[task_id].read = True
