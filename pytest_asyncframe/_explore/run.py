"""The runs of an explored test: their choices, what makes them alike, and their results.

Relies on: `runtestprotocol` of pytest, which is not public.
"""

from __future__ import annotations

import copy
import logging
import os
import pdb  # noqa: T100  # replaced, not used
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
from _pytest.runner import runtestprotocol

from pytest_asyncframe._explore import world
from pytest_asyncframe._explore.deaths import MortalProcess
from pytest_asyncframe._explore.edges import Edges
from pytest_asyncframe._explore.locks.found import FoundLocks, kept_by
from pytest_asyncframe._explore.points import levels
from pytest_asyncframe._explore.points.calls import Calls
from pytest_asyncframe._explore.points.follower import Followed, Follower, followed_of
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.points.packages import explored_packages
from pytest_asyncframe._explore.policies.paused import Paused
from pytest_asyncframe._explore.races.watching import Watch
from pytest_asyncframe._explore.schedule import Course, Step, Strategy
from pytest_asyncframe._explore.telling.witness import Witness
from pytest_asyncframe._toolkit.items import RUN, is_from, is_strict_pass
from pytest_asyncframe._toolkit.repeating import SeveralRuns, line_of, withheld
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.actors import nothing
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe._turns.outside import Outside

When: TypeAlias = Literal["setup", "call", "teardown"]
Dress: TypeAlias = Callable[[pytest.TestReport], pytest.TestReport]


class Run:
    """One run; see `pytest_asyncframe._toolkit.toolkit.Exploration`.

    Args:
        strategy: Makes its choices.
        level: Where others may run.
        seed: Seed of its random numbers.
        lines: What follows the user's code; None if nothing does.
        scope: The code whose lines are kept for a story; None for no story.
        edges: Whether the starts and the ends of tasks are points.
        make_process: Makes the process that runs the apps and may die, given what is called with
            where it has died; None if the test runs them.

    Attributes:
        steps: Its choices so far.
        dress: Returns the report that users see, given that of a phase.
        end: Frees what the run has left behind; see `world.Collector`.
        until: How many choices there were when a phase had failed; None if none has.
        witness: Keeps what happens, for a story; None if it is not told.
        calls: What watches the calls that others may notice; None if nothing does.
        faults: Whether faults are choices too.
        replays: Whether tasks are replayed from their steps at its end.
        watch: Keeps what the lines read and write that *lines* follows; None if nothing does.
        edges: The points at the start and the end of tasks.
        bury: Frees what a dead process has, and the next one has anew.
    """

    start: datetime = world.START

    def __init__(
        self,
        strategy: Strategy,
        level: Level,
        seed: int,
        lines: Follower | None = None,
        scope: Followed | None = None,
        *,
        edges: bool,
        make_process: Callable[[Callable[[str], object]], MortalProcess] | None = None,
    ) -> None:
        self._course = course = Course(strategy)
        self._pause = strategy.pause if isinstance(strategy, Paused) else None
        self.steps: list[Step] = course.steps
        self.witness: Witness | None = (
            None if scope is None else Witness(course, scope.file_of, scope.is_own)
        )
        self.chooser: Chooser = self.witness or course
        self.seed: int = seed
        self.new_id: Callable[[], str] = world.counted_ids()
        self.dress: Dress = lambda report: report
        self.end: Callable[[], None] = lambda: None
        self.until: int | None = None
        self.calls: Calls | None = None
        self.faults: bool = False
        self.replays: bool = False
        self.watch: Watch | None = None
        self.edges: Edges = Edges(are_points=edges)
        self._level: Level = level
        self._lines = lines
        self._outside: Outside | None = None
        self.bury: Callable[[], object] = nothing
        make = make_process
        self.process: MortalProcess | None = None if make is None else make(self._died)

    def _died(self, where: str) -> None:
        self.bury()
        if self.witness is not None:
            self.witness.died(where)

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return the report that users see, given that of a phase; see `ReportedRun`."""
        if self.until is None and is_failure(report):
            self.until = len(self.steps)
        return self.dress(report)

    @property
    def offered(self) -> int:
        """How many timeouts could have come early so far; see `Course`."""
        return self._course.offered

    @property
    def uncontrolled(self) -> list[str]:
        """What it has met so far that no chooser controls, for users."""
        return [] if self._outside is None else list(self._outside.met)

    @contextmanager
    def installed(self, explored: Toolkit) -> Iterator[None]:
        """Install the points of the level, and what makes runs alike, inside the block."""
        clock = explored.require_clock("interleave")
        self._outside = clock.sequencer.outside
        clock.sequencer.pause = self._pause
        told = self._lines, self.witness, self.calls
        points = levels.installed(
            explored,
            self._level,
            *told,
            edges=self.edges,
            faults=self.faults,
            watch=self.watch,
        )
        process = self.process
        running = nullcontext() if process is None else process.running(explored)
        with world.same(self.seed), world.ordered(clock), points, running:
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
        offered: See `Run.offered`.
        noticed: See `Edges.noticed`.
        met: The points that its process has come to; see `MortalProcess`.
        missed: Those at which it was to die and has not.
    """

    def __init__(self, run: Run, reports: list[pytest.TestReport]) -> None:
        self.reports: list[pytest.TestReport] = reports
        self.steps: list[Step] = run.steps
        self.failing: list[Step] = run.steps[: run.until]
        self.uncontrolled: list[str] = run.uncontrolled
        self.offered: int = run.offered
        self.noticed: str = run.edges.noticed
        process = run.process
        self.met: Sequence[str] = () if process is None else tuple(process.met)
        self.missed: Sequence[str] = () if process is None else tuple(process.missed)

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


def one_result(reports: Sequence[pytest.TestReport]) -> list[pytest.TestReport]:
    """Return the reports of a run such that a test whose call passed does not fail beside it.

    What is found at the end of the test, such as a failure that nobody has read, makes the call
    fail. pytest would show the test as passed, and then an error.
    """
    phases = {report.when: report for report in reports if not hasattr(report, "context")}
    call, teardown = phases.get("call"), phases.get("teardown")
    if call is None or teardown is None or not is_failure(teardown):
        return [*reports]
    if not (call.passed or is_strict_pass(call)):
        return [*reports]
    failed, ended = copy.copy(teardown), copy.copy(teardown)
    failed.when = "call"
    failed.start, failed.stop, failed.duration = call.start, call.stop, call.duration
    ended.outcome, ended.longrepr, ended.sections = "passed", None, []
    vars(ended).pop("wasxfail", None)
    told = {id(call): failed, id(teardown): ended}
    return [told.get(id(report), report) for report in reports]


def same_failure(one: pytest.TestReport, other: pytest.TestReport) -> bool:
    """Whether two runs failed in the same phase and at the same line."""
    return one.when == other.when and line_of(one) == line_of(other)


class Repeated(SeveralRuns):
    """A test that is run many times, with fixtures of its own each time.

    Each run is pytest's own protocol for the test, told that the next test is a copy of it: the
    fixtures of function scope are made anew, and wider ones are kept. The last run is told which
    test really comes next.

    Args:
        item: The test.
        next_item: The test after it; None if it is the last one.

    Attributes:
        calls: What watches calls in all runs, once it is claimed.
    """

    def __init__(self, item: pytest.Item, next_item: pytest.Item | None) -> None:
        super().__init__(item)
        self.calls: Calls = Calls(followed_of(item))
        self._next_item = next_item
        self._folder: Path | None = None
        self._locks = FoundLocks(
            item.config.rootpath, lambda: kept_by(item), explored_packages(item.config)
        )

    def quietly(self, run: Run) -> Ended:
        """Run it once, without showing its reports and without starting a debugger."""
        with (
            self._prepared(run),
            hushed(self.item.config),
            withheld(self.item, "pytest_exception_interact"),
            withheld(self.item, "pytest_runtest_logreport") as told,
        ):
            run.dress = self._note_folder
            reports = runtestprotocol(self.item, log=False, nextitem=self.copy)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        return Ended(run, [*told, *reports])

    def _note_folder(self, report: pytest.TestReport) -> pytest.TestReport:
        """Keep the path of ``tmp_path``: pytest would keep the folders of all runs."""
        info: Any = getattr(self.item, "_fixtureinfo", None)
        found: Sequence[Any] = info.name2fixturedefs.get("tmp_path", ()) if info else ()
        if report.when == "call" and is_from("_pytest.tmpdir", "tmp_path", found):
            # None if nothing has requested it in this run.
            result = found[0].cached_result
            self._folder = None if result is None else result[0]
        return report

    def openly(self, run: Run) -> None:
        """Run it for the last time, with reports."""
        self.show(one_result(self._reports_of(run)), self._next_item)

    def first(self, run: Run) -> Ended:
        """Run it once, with reports and for the last time if it does not pass."""
        ended = Ended(run, self._reports_of(run))
        if ended.failure is not None or ended.was_skipped:
            self.show(one_result(ended.reports), self._next_item)
        return ended

    def _reports_of(self, run: Run) -> list[pytest.TestReport]:
        with self._prepared(run), withheld(self.item, "pytest_runtest_logreport") as told:
            runtestprotocol(self.item, nextitem=self.copy)
        return told

    @contextmanager
    def _prepared(self, run: Run) -> Iterator[None]:
        """Make this the present run inside the block, with models of locks."""
        run.calls, run.bury = self.calls, self._locks.free_from_dead
        with self.prepared(RUN, run), self._locks.modelled(), warnings.catch_warnings():
            # pytest only warns of an error that has ended a thread. Filters of users come first.
            category = pytest.PytestUnhandledThreadExceptionWarning
            warnings.filterwarnings("error", category=category, append=True)
            yield


@contextmanager
def hushed(config: pytest.Config) -> Iterator[None]:
    """Drop inside the block what pytest would show at once, and pass over breakpoints.

    Two hundred runs would print all of it two hundred times. With pytest's capturing, a run
    prints nothing anyhow.
    """
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "breakpointhook", _pass_over)
        patch.setattr(pdb, "set_trace", _pass_over)
        plugin = config.pluginmanager.get_plugin("logging-plugin")
        handler = getattr(plugin, "log_cli_handler", None)
        if isinstance(handler, logging.Handler):
            handler.addFilter(_drop)
            stack.callback(handler.removeFilter, _drop)
        if config.getoption("capture", "no") == "no":
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _pass_over(*_: Any, **__: Any) -> None:
    """Replace a breakpoint."""


def _drop(_: logging.LogRecord) -> bool:
    return False
