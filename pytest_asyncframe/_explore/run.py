"""One run of an explored test: its choices, what makes it like all others, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeAlias

import pytest

from pytest_asyncframe._explore import world
from pytest_asyncframe._explore.points import levels
from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.schedule import Course, Step, Strategy
from pytest_asyncframe._explore.telling.witness import Witness
from pytest_asyncframe._toolkit.repeating import is_strict_pass, line_of
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe._turns.outside import Outside

Dress: TypeAlias = Callable[[pytest.TestReport], pytest.TestReport]


class Run:
    """One run; see `pytest_asyncframe._toolkit.toolkit.Exploration`.

    Args:
        strategy: Makes its choices.
        level: Where others may run.
        seed: Seed of its random numbers.
        lines: What follows the user's code; None if nothing does.
        scope: The code whose lines are kept for a story; None for no story.

    Attributes:
        steps: Its choices so far.
        dress: Returns the report that users see, given that of a phase.
        end: Frees what the run has left behind; see `world.Collector`.
        until: How many choices there were when a phase had failed; None if none has.
        witness: Keeps what happens, for a story; None if it is not told.
    """

    start: datetime = world.START

    def __init__(
        self,
        strategy: Strategy,
        level: Level,
        seed: int,
        lines: Follower | None = None,
        scope: Followed | None = None,
    ) -> None:
        course = Course(strategy)
        self.steps: list[Step] = course.steps
        self.witness: Witness | None = None if scope is None else Witness(course, scope.file_of)
        self.chooser: Chooser = self.witness or course
        self.seed: int = seed
        self.new_id: Callable[[], str] = world.counted_ids()
        self.dress: Dress = lambda report: report
        self.end: Callable[[], None] = lambda: None
        self.until: int | None = None
        self._level: Level = level
        self._lines = lines
        self._outside: Outside | None = None

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return the report that users see, given that of a phase; see `ReportedRun`."""
        if self.until is None and is_failure(report):
            self.until = len(self.steps)
        return self.dress(report)

    @property
    def uncontrolled(self) -> list[str]:
        """What it has met so far that no chooser controls, for users."""
        return [] if self._outside is None else list(self._outside.met)

    @contextmanager
    def installed(self, explored: Toolkit) -> Iterator[None]:
        """Install the points of the level, and what makes runs alike, inside the block."""
        clock = explored.require_clock("interleave")
        self._outside = clock.sequencer.outside
        points = levels.installed(explored, self._level, self._lines, self.witness)
        with world.same(self.seed), world.ordered(clock), points:
            yield


class Ended:
    """What a run has shown.

    Args:
        run: The run, which is over.
        reports: pytest's reports of its phases, those of subtests included.

    Attributes:
        reports: See above.
        steps: Its choices.
        failing: Its choices until a phase had failed; all if none has.
        uncontrolled: See `Run.uncontrolled`.
    """

    def __init__(self, run: Run, reports: list[pytest.TestReport]) -> None:
        self.reports: list[pytest.TestReport] = reports
        self.steps: list[Step] = run.steps
        self.failing: list[Step] = run.steps[: run.until]
        self.uncontrolled: list[str] = run.uncontrolled

    @property
    def failure(self) -> pytest.TestReport | None:
        """The report of the first phase that failed, also as expected; None if none did."""
        return next((one for one in self.reports if is_failure(one)), None)

    @property
    def was_skipped(self) -> bool:
        """Whether the test was skipped."""
        return any(one.skipped and not hasattr(one, "wasxfail") for one in self.reports)


def is_failure(report: pytest.TestReport) -> bool:
    """Whether a phase failed, also where its mark ``xfail`` expects that."""
    if report.failed:
        return not is_strict_pass(report)
    return report.skipped and hasattr(report, "wasxfail")


def same_failure(one: pytest.TestReport, other: pytest.TestReport) -> bool:
    """Whether two runs failed in the same phase and at the same line."""
    return one.when == other.when and line_of(one) == line_of(other)
