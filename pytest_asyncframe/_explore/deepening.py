"""The levels at which one test is explored, from few points to many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from pytest_asyncframe._explore.points import levels
from pytest_asyncframe._explore.points.follower import Follower
from pytest_asyncframe._explore.points.levels import Level

_SHARE = 0.5
"""With less, races of the first level are missed, and with more, those of the deeper ones."""


class Deepening:
    """The levels at which a test is explored, one after the other.

    Args:
        item: The test.
        planned: The levels, one or more.
        stack: Undoes in the end what they need.
        edges: Whether the starts and the ends of tasks are points from the beginning.

    Attributes:
        level: The level of the runs.
        lines: What follows the user's code in them, if the level has points there.
        edges: Whether the starts and the ends of tasks are points in the runs; see `edges`.
        refused: A level that was planned and cannot be had, and why; None if all can so far.

    Raises:
        pytest.UsageError: If another tool has what the first level needs.
    """

    level: Level
    lines: Follower | None

    def __init__(
        self, item: pytest.Item, planned: Sequence[Level], stack: ExitStack, *, edges: bool
    ) -> None:
        self._item = item
        self.edges: bool = edges
        self._left = list(planned)
        self._stack = stack
        self._lines: dict[Level, Follower | None] = {}
        self.refused: tuple[Level, str] | None = None
        self._take()

    def _take(self) -> None:
        level = self._left.pop(0)
        self._lines[level] = self._stack.enter_context(levels.claimed(self._item, level))
        self.go_back(level)

    def go_back(self, level: Level) -> None:
        """Take a level again that was taken before."""
        self.level = level
        self.lines = self._lines[level]

    def share_of(self, runs: int) -> int:
        """Return how many of the runs that are left the level may use.

        If its schedules have no end, there are some left for the deeper ones.
        """
        return math.ceil(runs * _SHARE) if self._left else runs

    def deepen(self) -> bool:
        """Take the next level; return whether there is one that can be had."""
        if not self._left:
            return False
        level = self._left[0]
        try:
            self._take()
        except pytest.UsageError as error:
            self.refused = (level, str(error))
            return False
        return True
