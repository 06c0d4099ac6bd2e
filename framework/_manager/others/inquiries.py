"""Inquiries: since when it is certain that no other process has a task with an unknown id.

An id may be that of a task which another process has accepted and not stored yet. So the others are
asked to store what they have accepted: one question for all ids that are unknown at that time.

Guarantees: what an inquiry has not brought to light did not exist when it began. However many ids
are asked for, there is one inquiry at a time, and one a second begins at most.
Relies on: calls on the thread of `other_processes` alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

from framework._threads.clock import SystemClock
from framework.protocols import AskingDirectory, Features

_BETWEEN: Final = 1.0
"""Seconds between the beginnings of two inquiries. Each makes every process write once, as its
signs of life do, so those who ask for ids that do not exist can no more than double that."""


class Inquiries:
    """The inquiries of one process.

    Args:
        directories: What each of the directories can do; those that cannot ask others take no part.
        clock: Real time.

    Attributes:
        certain: Whether all directories can ask, so that nothing has to be guessed.
    """

    def __init__(self, directories: Sequence[Features], clock: SystemClock) -> None:
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
