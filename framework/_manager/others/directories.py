"""Directories: the stores and engines that know tasks of other processes.

Relies on: calls on the thread of `other_processes` alone, since all may block for a few seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from framework._records.records import TaskRecord
from framework.protocols._features import features_of


class Directory(Protocol):
    """A store or engine that knows tasks of other processes; both methods may block."""

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records that exist for these ids."""
        ...

    def request_cancel(self, task_id: str) -> bool:
        """Request a task's cancellation; False if it is unknown or final."""
        ...


class Directories:
    """The directories of one manager, as if they were one.

    Args:
        directories: These, in the order in which to query them.

    Attributes:
        abilities: What each of them can do.
    """

    def __init__(self, directories: Sequence[Directory]) -> None:
        self._directories = directories
        self.abilities = [features_of(one) for one in directories]

    def fetch(self, task_ids: set[str]) -> tuple[dict[str, TaskRecord], Exception | None]:
        """Return the records found, and the error of a directory that does not answer."""
        found: dict[str, TaskRecord] = {}
        failed: Exception | None = None
        for directory in self._directories:
            missing = task_ids - found.keys()
            if not missing:
                break
            try:
                records = directory.fetch(missing)
            except Exception as error:  # raised in the caller, unless another one knows the task
                failed = error
            else:
                found |= {str(record.task_id): record for record in records}
        return found, failed

    def is_alone(self) -> bool:
        """Return whether it is certain that no other process could know a task."""
        try:
            known = [one.directory for one in self.abilities]
            return all(one is not None and one.is_alone() for one in known)
        except Exception:  # not certain then; the question itself can still be answered
            return False

    def doubt(self) -> Exception | None:
        """Return why an unknown task may exist all the same; None if it does not exist."""
        doubts = (one.doubt() for able in self.abilities if (one := able.directory) is not None)
        return next(filter(None, doubts), None)

    def request_cancel(self, task_id: str) -> bool:
        """Request a task's cancellation; False if it is unknown or final."""
        return any(directory.request_cancel(task_id) for directory in self._directories)
