"""Directories: the stores and engines that know tasks of other processes, and when it is certain.

An id may be that of a task which another process has accepted and not stored yet. So the others are
asked to store what they have accepted: one question for all ids that are unknown at that time.

Guarantees: what an inquiry has not brought to light did not exist when it began. However many ids
are asked for, there is one inquiry at a time, and one a second begins at most.
Relies on: calls on the thread of `other_processes` alone, since all may block for a few seconds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from framework._records.records import TaskRecord
from framework.protocols import AskingDirectory, Clock, Features
from framework.protocols._features import features_of

_BETWEEN: Final = 1.0
"""Seconds between the beginnings of two inquiries. Each makes every process write once, as its
signs of life do, so those who ask for ids that do not exist can no more than double that."""


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

    def request_cancel(self, task_id: str, at_once: bool = False) -> bool:
        """Request a task's cancellation; False if it is unknown or final."""
        # Only a store that keeps steps has tasks that would go on.
        return any(
            able.steps.cancel_at_once(task_id)
            if at_once and able.steps is not None
            else directory.request_cancel(task_id)
            for directory, able in zip(self._directories, self.abilities, strict=True)
        )


class Inquiries:
    """The inquiries of one process.

    Args:
        directories: What each of the directories can do; those that cannot ask others take no part.
        clock: The clock of the queries.

    Attributes:
        certain: Whether all directories can ask, so that nothing has to be guessed.
    """

    def __init__(self, directories: Sequence[Features], clock: Clock) -> None:
        self._asking = [one.asking for one in directories if one.asking is not None]
        self.certain = len(self._asking) == len(directories)
        self._clock = clock
        # The number of the latest inquiry that has begun, and of the latest that is over.
        self._begun = self._over = 0
        self._begun_at = -math.inf
        # What each directory is asked in the one that is open.
        self._questions: list[tuple[AskingDirectory, int]] = []

    def next(self) -> int:
        """Return the number of the next inquiry, for an id that was just not found."""
        return self._begun + 1

    def is_over(self, number: int) -> bool:
        """Return whether an inquiry was over at the last call of `go_on`."""
        return not self._asking or self._over >= number

    def go_on(self, number: int) -> None:
        """Look whether the open inquiry is over, or begin one if *number* needs it; may block."""
        if not self._asking or self._over >= number:
            return
        try:
            self._begin()
            if all(one.is_answered(asked) for one, asked in self._questions):
                self._over = self._begun
        except Exception:  # it is not over then; whoever waits tries again
            return

    def _begin(self) -> None:
        now = self._clock.monotonic()
        if self._begun > self._over or now < self._begun_at + _BETWEEN:
            return
        self._begun_at = now
        self._questions = [(one, one.ask()) for one in self._asking]
        self._begun += 1

    def expected(self, task_ids: Collection[str]) -> Collection[str]:
        """Return those unknown ids whose tasks will be stored all the same; may block."""
        try:
            return {one for part in self._asking for one in part.expected(task_ids)}
        except Exception:  # perhaps all of them
            return task_ids
