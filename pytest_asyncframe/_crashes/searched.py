"""Running a test once for each point at which its process can die.

In the place of pytest's own protocol for it, each run is that protocol: fixtures of function scope
are made anew, and wider ones live on. The first run dies nowhere and counts the points. Users see
one test: the reports of the first run that fails, or of the last one.

Relies on: `runtestprotocol` of pytest, which is not public.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from _pytest.runner import runtestprotocol

from pytest_asyncframe._crashes.plan import Plan, plan_for
from pytest_asyncframe._crashes.points import Points
from pytest_asyncframe._crashes.process import Process
from pytest_asyncframe._explore import world
from pytest_asyncframe._explore.run import hushed, is_failure, one_result
from pytest_asyncframe._toolkit.items import PROOF, REFUSED, RUN
from pytest_asyncframe._toolkit.options import Settings, settings_for
from pytest_asyncframe._toolkit.repeating import (
    SeveralRuns,
    crash_of,
    logged,
    shows_fixtures,
    withheld,
)
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.choices import Chooser, InOrder

SECTION = "crash points"
"""The title of the section of a report."""


def protocol(
    item: pytest.Item,
    next_item: pytest.Item | None,
    settings: Settings,
    asked: Collection[str],
) -> bool | None:
    """Run a test that has the marker; see the hook ``pytest_runtest_protocol``.

    Returns:
        None if the test is to be run as any other.
    """
    if shows_fixtures(item.config):
        return None
    try:
        plan = plan_for(item, settings_for(item, settings), asked)
    except pytest.UsageError as error:
        item.stash[REFUSED] = str(error)
        return None
    if plan is None:
        return None
    with ExitStack() as stack:
        stack.enter_context(world.alike(item.config))
        stack.enter_context(logged(item))
        runs = _Runs(item)
        runs.show(Search(runs, plan).reports(), next_item)
    return True


class CrashRun:
    """One run; see `pytest_asyncframe._toolkit.toolkit.ReportedRun`.

    Args:
        points: Where its process may die, and where it does.
    """

    start: datetime = world.START
    seed: int = 0
    # They go on for real.
    replays: bool = False

    def __init__(self, points: Points) -> None:
        self.process: Process = Process(points)
        self.chooser: Chooser = InOrder()
        self.new_id: Callable[[], str] = world.counted_ids()

    @contextmanager
    def installed(self, explored: Toolkit) -> Iterator[None]:
        """Make this run like all others, and let its process live, inside the block."""
        clock = explored.require_clock("crash_points")
        with world.same(self.seed), world.ordered(clock), self.process.running(explored):
            yield

    def end(self) -> None:
        """Do nothing: what belongs to dead processes stays."""

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return the report as it is."""
        return report


@dataclass(eq=False)
class Ended:
    """What a run has shown.

    Attributes:
        points: Those that it has met.
        reports: pytest's reports of its phases.
    """

    points: Points
    reports: list[pytest.TestReport]

    @property
    def failure(self) -> pytest.TestReport | None:
        """The report of the first phase that failed; None if none did."""
        return next((one for one in self.reports if is_failure(one)), None)


class _Runs(SeveralRuns):
    """The runs of one test."""

    def run(self, deaths: Sequence[str]) -> Ended:
        """Run it once; nobody is told."""
        points = Points(deaths)
        with (
            self.prepared(RUN, CrashRun(points)),
            hushed(self.item.config),
            withheld(self.item, "pytest_runtest_logreport") as told,
        ):
            reports = runtestprotocol(self.item, log=False, nextitem=self.copy)
        return Ended(points, one_result([*told, *reports]))


@dataclass(eq=False)
class Search:
    """Runs a test with each death that there is.

    Args:
        runs: Its runs.
        plan: What is searched.
    """

    runs: _Runs
    plan: Plan
    _made: int = field(default=0, init=False)
    _singles: int = field(default=0, init=False)
    _pairs: int = field(default=0, init=False)
    _latest: Points = field(default_factory=lambda: Points(()), init=False)

    def reports(self) -> list[pytest.TestReport]:
        """Return the reports that users see."""
        if self.plan.deaths:
            return self._replayed()
        first = self._run(())
        if first.failure is not None or any(one.skipped for one in first.reports):
            return first.reports
        points, last = list(first.points.met), first
        for deaths in self._deaths(points):
            last = self._run(deaths)
            if last.failure is not None or last.points.missed:
                return self._failed(last, len(points))
        return _proven(last.reports, self._proof(len(points)))

    def _deaths(self, points: Sequence[str]) -> Iterator[Sequence[str]]:
        """Yield the deaths of each run, as long as there may be another one."""
        for one in points:
            if self._made >= self.plan.most:
                return
            self._singles += 1
            yield (one,)
            if self.plan.depth == 1:
                continue
            met = self._latest.met
            for other in met[met.index(one) + 1 :]:
                if self._made >= self.plan.most:
                    return
                self._pairs += 1
                yield (one, other)

    def _run(self, deaths: Sequence[str]) -> Ended:
        self._made += 1
        ended = self.runs.run(deaths)
        self._latest = ended.points
        return ended

    def _proof(self, many: int) -> str:
        if not many:
            return "no crash points: nothing was stored"
        pairs = f" and {self._pairs} pairs of them" if self.plan.depth > 1 else ""
        if self._made < self.plan.most:
            return f"all {many} crash points{pairs}, none fails"
        return f"{self._singles} of {many} crash points{pairs}, none fails: most={self.plan.most}"

    def _replayed(self) -> list[pytest.TestReport]:
        ended = self._run(self.plan.deaths)
        if ended.failure is not None or ended.points.missed:
            return self._failed(ended, None)
        return _proven(ended.reports, f"does not fail after {' and '.join(self.plan.deaths)}")

    def _failed(self, ended: Ended, many: int | None) -> list[pytest.TestReport]:
        """Return the reports of a run that failed, with what led to it."""
        points, item = ended.points, self.runs.item
        deaths = [*points.died_at, *points.missed]
        words = ["pytest", item.nodeid]
        for one in deaths:
            words += ["--asyncframe-crash", one]
        failure = ended.failure or _not_met(ended)
        counted = "" if many is None else f", one of {many} points"
        lines = [
            f"The process dies {' and then '.join(points.died_at) or 'nowhere'}{counted}.",
            "",
            "The points of this run:",
            *(f"  {'X' if one in points.died_at else ' '} {one}" for one in points.met),
            "",
            f"Again: {shlex.join(words)}",
        ]
        failure.sections.insert(0, (SECTION, "\n".join(lines)))
        crash = crash_of(failure)
        if crash is not None:
            crash.message = f"crash {' and '.join(deaths)}: {crash.message}"
        return ended.reports


def _not_met(ended: Ended) -> pytest.TestReport:
    """Let a run fail that has not met a point of the run before."""
    report = next(one for one in ended.reports if one.when == "call")
    report.outcome = "failed"
    report.longrepr = (
        f"this run has not met the point {ended.points.missed[0]!r}, though it has done the same "
        "up to there as a run that has: the test is not deterministic, or what it tests is not"
    )
    return report


def _proven(reports: list[pytest.TestReport], proof: str) -> list[pytest.TestReport]:
    for report in reports:
        if report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            setattr(report, PROOF, proof)
        if report.when != "setup":
            report.user_properties.append((SECTION, proof))
    return reports
