"""Running a test under many schedules, in the place of pytest's own protocol for it.

Run 0 takes the default schedule, before anything is explored: it imports and caches what is
imported and cached once, and a failure in it is an ordinary one. Then come the runs of the
policy at each level, of which nobody is told; a failing one is shortened. Then comes the last
run, which users see.
"""

from __future__ import annotations

import functools
import os
import shlex
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_asyncframe._explore import conclusions, replay, world
from pytest_asyncframe._explore.deaths import Crashes, Deaths, Row, Rows
from pytest_asyncframe._explore.deepening import Deepening
from pytest_asyncframe._explore.plan import Plan, plan_for
from pytest_asyncframe._explore.points import levels
from pytest_asyncframe._explore.points.follower import Followed, Follower, followed_of
from pytest_asyncframe._explore.policies.haste import Trial
from pytest_asyncframe._explore.policies.minimise import minimise
from pytest_asyncframe._explore.policies.paused import MOST_SECONDS, Paused, PausedPolicy
from pytest_asyncframe._explore.policies.search import counted
from pytest_asyncframe._explore.races.pairs import Race, races_in
from pytest_asyncframe._explore.races.told import hint, without
from pytest_asyncframe._explore.races.told import told as told_races
from pytest_asyncframe._explore.races.watching import Watch
from pytest_asyncframe._explore.run import Ended, Repeated, Run, hushed, same_failure
from pytest_asyncframe._explore.schedule import (
    Default,
    Deviating,
    Step,
    Strategy,
    deviations_of,
)
from pytest_asyncframe._explore.searched import (
    NO_FAULT,
    AtLevel,
    Searched,
    none_fails,
    partially,
    times,
)
from pytest_asyncframe._explore.telling.failures import failure_of
from pytest_asyncframe._explore.telling.lanes import kept, picture
from pytest_asyncframe._explore.telling.story import told
from pytest_asyncframe._report.gates import AsyncframeWarning
from pytest_asyncframe._toolkit.items import PARTIALLY, REFUSED
from pytest_asyncframe._toolkit.options import Settings, settings_for
from pytest_asyncframe._toolkit.repeating import crash_of, logged, shows_fixtures
from pytest_asyncframe._turns.choices import FAULT

_MOST_SECONDS = 10.0
"""Real seconds for making a failing schedule small."""

RACES_NEED_LINES = (
    "races=True has to follow lines, which another tool does already: run the test without "
    "coverage, on Python 3.12 or later, or without races=True"
)

NO_RACE = "Nothing is read or written by two threads such that another order could make it wrong."
NOT_LOOKED = "It is not known whether there are races, since it is only partially controlled."

NO_FAULTS = (
    "{} is marked with crash_points and with interleave(faults=True), but in a process that may "
    "die the crash is the fault: leave out faults=True"
)

NOT_MET = (
    "this run has not met the point {!r}, though it has done the same up to there as a run that "
    "has: the test is not deterministic, or what it tests is not"
)

_EVERY = 5.0
"""Real seconds between two lines that say how far a long exploration is."""

_OF_TIME_LIMIT = 0.9
"""The part of the test's time limit after which that ends."""


def protocol(
    item: pytest.Item,
    next_item: pytest.Item | None,
    settings: Settings,
    asked: Collection[str],
    crashes: Crashes | None = None,
) -> bool | None:
    """Explore a test that has the marker; see the hook ``pytest_runtest_protocol``.

    Args:
        item: The test.
        next_item: The test after it; None if it is the last one.
        settings: The settings of the session.
        asked: The fixtures of asyncframe that it requests.
        crashes: What is searched of the deaths of its process; None if that does not die.

    Returns:
        None if the test is to be run as any other: it is left out, or cannot be explored.
    """
    # Who steps through a test wants to do that once.
    if shows_fixtures(item.config) or item.config.getoption("trace", False):
        return None
    with ExitStack() as stack:
        try:
            plan = plan_for(item, settings_for(item, settings), asked)
            if plan is None:
                return None
            if crashes is not None and plan.faults:
                raise pytest.UsageError(NO_FAULTS.format(item.name))
            # A process that dies is an event loop, whose tasks always notice them.
            edges = crashes is not None or (plan.line is not None and plan.line.edges)
            # With crashes there are few runs of each level, and the last one has all points.
            planned = plan.levels if crashes is None else plan.levels[::2]
            deepening = Deepening(item, planned, stack, edges=edges)
            repeated = Repeated(item, next_item)
            stack.enter_context(repeated.calls.claimed())
        except pytest.UsageError as error:
            item.stash[REFUSED] = str(error)
            return None
        stack.enter_context(world.alike(item.config))
        collector = world.Collector(item.config)
        stack.enter_context(collector.instead())
        stack.enter_context(logged(item))
        Explorer(repeated, plan, deepening, collector, crashes).explore()
    return True


@dataclass(eq=False)
class Explorer:
    """Runs one test under many schedules."""

    _repeated: Repeated
    _plan: Plan
    _deepening: Deepening
    _collector: world.Collector
    _crashes: Crashes | None = None

    def __post_init__(self) -> None:
        self._item = self._repeated.item
        self._progress = Progress(self._item)
        self._root = self._item.config.rootpath
        self._scope = followed_of(self._item, with_own=True)
        # Of the test, whatever they were for.
        self._runs = 0
        # Where the process dies in the runs from now on, and the rows of each level.
        self._deaths: Deaths = ()
        self._rows: Sequence[Deaths] = [()]
        self._most = self._plan.seeds

    def explore(self) -> None:
        """Run the test until it fails, or all is done, or the budget is spent."""
        line = self._plan.line
        # Who replays a schedule wants to stop in that.
        with nullcontext() if line is None else hushed(self._item.config):
            first = self._run(Default())
            # Once will do: other orders have other ways, and a crash lets tasks go on for real.
            first.replays = self._crashes is None
            ended = self._repeated.first(first)
        if ended.failure is not None or ended.was_skipped:
            return
        if self._crashes is not None:
            self._rows = self._crashes.rows(ended.met)
            self._most = min(self._most, self._crashes.most)
            self._deaths = self._crashes.deaths
        if line is None:
            self._deepening.edges = self._crashes is not None or bool(ended.noticed)
            self._end(self._races() or self._search())
        else:
            self._end(conclusions.Replayed(self._item, replay.Following(line)))

    def _run(
        self, strategy: Strategy, scope: Followed | None = None, lines: Follower | None = None
    ) -> Run:
        self._runs += 1
        at = self._deepening
        followed = lines or at.lines
        crashes, seed = self._crashes, self._plan.seed
        make = None if crashes is None else functools.partial(crashes.make_process, self._deaths)
        run = Run(strategy, at.level, seed, followed, scope, edges=at.edges, make_process=make)
        run.end = self._collector.at_end
        run.faults = self._plan.faults
        self._collector.before_run()
        return run

    def _quietly(self, strategy: Strategy, what: str, watch: Watch | None = None) -> Ended:
        run = self._run(strategy)
        run.watch = watch
        ended = self._repeated.quietly(run)
        self._progress.ran(what)
        return ended

    def _end(self, conclusion: conclusions.Conclusion) -> None:
        def reported(report: pytest.TestReport) -> pytest.TestReport:
            if hasattr(report, "context"):  # of a subtest
                return report
            found = conclusion.reported(report)
            if found.when == "call":
                # What --durations shows and pytest's summary adds up.
                found.duration = self._progress.seconds
                found.start = found.stop - found.duration
            return found

        # Its pauses are in the timeline.
        scope = (
            self._scope
            if isinstance(conclusion, (conclusions.Found, conclusions.Replayed))
            else None
        )
        run = self._run(conclusion.strategy, scope)
        run.dress = reported
        if isinstance(conclusion, conclusions.Replayed):
            conclusion.met = lambda: run.uncontrolled
        self._repeated.openly(run)

    # -- races of the default schedule

    def _races(self) -> conclusions.Conclusion | None:
        """Look for races in one more run, if the marker asks for it; return what was found."""
        if not self._plan.races:
            return None
        scope, at = followed_of(self._item), self._deepening
        with levels.telling(scope, at.level, at.lines) as lines:
            if lines is None:
                return conclusions.Wrong(self._item, RACES_NEED_LINES)
            run = self._run(Default(), lines=lines)
            run.watch = watch = Watch(scope.file_of)
            found = without(self._races_of(self._repeated.quietly(run), watch), self._plan.benign)
        if not found:
            return None
        text = f"{counted(len(found), 'race')} that may be benign, found in the default schedule"
        return conclusions.Wrong(self._item, text, lines=told_races(found, self._root))

    def _races_of(self, ended: Ended, watch: Watch) -> list[Race]:
        """Return the races of a run; none if it failed, or something may have ordered it unseen."""
        return [] if ended.failure or ended.uncontrolled else races_in(watch.places)

    @property
    def _hints(self) -> bool:
        """Whether a pass says that there may be races."""
        is_asked = not self._plan.races and self._item.config.get_verbosity() > 0
        return is_asked and self._deepening.level == "line"

    # -- searching

    def _search(self) -> conclusions.Conclusion:
        searched = Searched()
        while True:
            found = self._search_level(searched)
            if found is not None:
                return found
            if searched.uncontrolled:
                return self._search_paused(searched) or self._passed(searched)
            if self._stops or searched.runs >= self._most:
                return self._passed(searched)
            if not self._deepening.deepen():
                return self._search_on(searched) or self._passed(searched)

    def _search_level(self, searched: Searched) -> conclusions.Conclusion | None:
        """Search at one level; return what was found, None for nothing."""
        plan, level = self._plan, self._deepening.level
        left = self._most - searched.runs
        # No level is begun before each row has had the default schedule at the one before.
        most = max(self._deepening.share_of(left), min(left, len(self._rows)))
        searched.begin(level)
        depth = 1 if self._crashes is None else self._crashes.depth
        at = AtLevel(level, Rows(plan.policy, plan.seed, most, self._rows, depth))
        return self._search_at(at, searched, most)

    def _search_on(self, searched: Searched) -> conclusions.Conclusion | None:
        """Use the runs that are left at the deepest level with points of its own."""
        at = searched.deepest
        if at is None or at.is_done:
            return None
        self._deepening.go_back(at.level)
        return self._search_at(at, searched, self._most - searched.runs)

    def _search_at(
        self, at: AtLevel, searched: Searched, most: int
    ) -> conclusions.Conclusion | None:
        """Run so many more schedules of a level at the most; return what was found."""
        plan, until = self._plan, searched.runs + most
        while searched.runs < until and not self._stops:
            found = at.rows.next()
            if found is None:
                at.is_done = True
                break
            row, strategy = found
            self._deaths = row.deaths
            searched.runs += 1
            at.runs += 1
            words = f"{searched.runs} of at most {self._most} schedules, none fails"
            is_first = at.runs == 1
            watch = Watch(followed_of(self._item).file_of) if is_first and self._hints else None
            ended = self._quietly(strategy, words, watch)
            row.policy.ended(ended.steps)
            at.rows.ended(row, ended.met, ended.missed)
            if watch is not None:
                searched.hint = hint(without(self._races_of(ended, watch), plan.benign))
            searched.faults = searched.faults or any(step.kind == FAULT for step in ended.steps)
            searched.uncontrolled.update(dict.fromkeys(ended.uncontrolled))
            if isinstance(strategy, Trial):
                strategy.failed = ended.failure is not None
            elif ended.failure is not None:
                return self._found(ended, ended.failure, searched.runs)
            strange = self._strange(ended, row)
            if strange:
                return conclusions.Wrong(self._item, strange)
            if ended.noticed:
                return self._search_again(searched)
            if is_first:
                default = (ended.steps, ended.offered)
                if default == searched.default:
                    # The level has no point more than the one before.
                    return None
                searched.default, searched.deepest = default, at
        self._claim(searched, at)
        return None

    def _search_again(self, searched: Searched) -> conclusions.Conclusion | None:
        """Search a level with more points, from its beginning; what has run is not claimed."""
        self._deepening.edges = True
        searched.default = None
        is_over = self._stops or searched.runs >= self._most
        return None if is_over or searched.uncontrolled else self._search_level(searched)

    def _search_paused(self, searched: Searched) -> conclusions.Conclusion | None:
        """Use the runs that are left to meet what no chooser controls at other moments."""
        policy = PausedPolicy(self._plan.seed)
        until = self._progress.seconds + MOST_SECONDS
        self._deaths = ()
        while searched.runs < self._most and not self._stops and self._progress.seconds < until:
            searched.runs += 1
            searched.paused += 1
            words = f"{searched.paused} runs with drawn delays, none fails"
            ended = self._quietly(strategy := policy.next(), words)
            policy.ended(ended.steps)
            searched.uncontrolled.update(dict.fromkeys(ended.uncontrolled))
            if ended.failure is not None:
                return self._found(ended, ended.failure, searched.runs, strategy)
        return None

    def _claim(self, searched: Searched, at: AtLevel) -> None:
        """Take note of what was searched at one level."""
        where, seeds = f" of level {at.level}", self._most
        if at.runs and self._is_over and searched.runs < seeds and len(self._rows) == 1:
            left = seeds - (searched.runs - at.runs)
            most = f"at most {left} schedules{where} in {self._plan.budget:g} s"
            searched.claims[at.level] = f"{at.runs} of {most}"
        elif at.runs:
            searched.claims[at.level] = at.rows.claim(at.runs, where)

    @property
    def _stops(self) -> bool:
        session = self._item.session
        return bool(self._is_over or session.shouldstop or session.shouldfail)

    @property
    def _is_over(self) -> bool:
        budget = self._plan.budget
        return budget is not None and self._progress.seconds >= budget

    def _passed(self, searched: Searched) -> conclusions.Conclusion:
        plan, self._deaths = self._plan, ()
        # The last run, which is still to come, is the same as one of these.
        runs = self._runs + 1
        if not searched.runs:
            why = f": the first run took more than {plan.budget:g} s" if self._is_over else ""
            return self._nothing(f"nothing was explored{why}")
        if searched.uncontrolled:
            # Whatever the policy has run, what it did not control may have had other orders.
            proof = f"{none_fails(searched.all_of(runs))}, {PARTIALLY}"
        else:
            proof = f"{searched.proof}; {searched.hint}" if searched.hint else searched.proof
        lines = [self._settings(plan.level), times(runs, races=plan.races)]
        if self._deepening.refused is not None:
            refused, reason = self._deepening.refused
            proof += f"; level {refused} was not tried"
            lines.append(f"level {refused} was not tried: {reason}")
        if plan.races:
            lines.append(NOT_LOOKED if searched.uncontrolled else NO_RACE)
        if self._crashes is not None and not any(self._rows):
            proof = f"no crash points: {proof}"
        if plan.faults and not searched.faults:
            proof = f"no fault was possible: {proof}"
            lines.append(NO_FAULT)
        return conclusions.Passed(proof, [*lines, *partially(searched.uncontrolled)])

    def _nothing(self, proof: str) -> conclusions.Conclusion:
        """Warn that there was no run to prove anything, or fail the test where warnings do."""
        try:
            self._item.warn(AsyncframeWarning(proof))
        except AsyncframeWarning as warning:
            return conclusions.Wrong(self._item, str(warning))
        return conclusions.Passed(proof, [self._settings(self._plan.level)])

    def _settings(self, level: str, policy: str = "") -> str:
        faults = ", with faults" if self._plan.faults else ""
        policy = policy or self._plan.policy
        return f"policy {policy}, level {level}, seed {self._plan.seed}{faults}"

    # -- a failure

    def _found(
        self, ended: Ended, failure: pytest.TestReport, runs: int, paused: Paused | None = None
    ) -> conclusions.Conclusion:
        policy = self._plan.policy if paused is None else "drawn delays"
        how = self._settings(self._deepening.level, policy)
        lines = [f"run {runs} of at most {self._most} fails: {how}"]
        same = (
            Deviating(deviations_of(ended.failing))
            if paused is None
            else paused.again(ended.failing)
        )
        if hasattr(failure, "wasxfail"):
            return conclusions.Found(failure, same, lines)
        if _is_time_limit(failure):
            over = "The time limit came in this run; the default schedule keeps it."
            return conclusions.Found(failure, Default(), lines, over)
        chosen = paused is not None or deviations_of(ended.failing)
        if self._deaths:
            self._blame(same, failure)
        if self._deaths:
            lines.append(f"The process dies {' and then '.join(self._deaths)}.")
            if not chosen:
                lines.append(f"replay: {_command(self._item, self._deaths)}")
                return conclusions.Found(failure, same, lines)
        if not chosen or self._fails(Default()) is not None:
            return conclusions.Found(failure, same, [*lines, conclusions.AGAIN])
        if paused is not None:
            lines += [conclusions.BY_DELAYS, *partially(ended.uncontrolled)]
            return conclusions.Found(failure, same, lines)
        again = self._fails(same)
        if again is None:
            return conclusions.Found(failure, same, [*lines, *partially(ended.uncontrolled)])
        return self._shortest(again, failure, lines)

    def _shortest(
        self, ended: Ended, failure: pytest.TestReport, lines: list[str]
    ) -> conclusions.Conclusion:
        plan = self._plan
        least, words = self._minimised(ended, failure)
        line = replay.line_of(
            least.failing,
            node_id=self._item.nodeid,
            level=self._deepening.level,
            seed=plan.seed,
            edges=self._deepening.edges,
        )
        lines = [*lines, words, *self._story(least, lines[0])]
        if least.uncontrolled:
            lines += partially(least.uncontrolled)
        else:
            command = _command(self._item, self._deaths)
            lines.append(f"replay: {command} --asyncframe-replay={replay.encode(line)}")
        return conclusions.Found(least.failure or failure, replay.Following(line), lines)

    def _blame(self, same: Strategy, failure: pytest.TestReport) -> None:
        """Leave out the deaths without which the test fails as well."""
        all_of_them = self._deaths
        for fewer in ((), *((one,) for one in all_of_them[1:])):
            self._deaths = fewer
            again = self._fails(same)
            if again is not None and again.failure and same_failure(again.failure, failure):
                return
        self._deaths = all_of_them

    def _minimised(self, ended: Ended, failure: pytest.TestReport) -> tuple[Ended, str]:
        """Return the smallest run that fails in the same way, and how small it is."""
        until = self._progress.seconds + _MOST_SECONDS
        if self._plan.limit is not None:
            until = min(until, self._plan.limit * _OF_TIME_LIMIT)
        failing = {id(ended.failing): ended}

        def fails(strategy: Strategy) -> Sequence[Step] | None:
            found = self._fails(strategy) if self._progress.seconds < until else None
            if found is None or found.failure is None or not same_failure(found.failure, failure):
                return None
            failing[id(found.failing)] = found
            return found.failing

        result = minimise(ended.failing, fails)
        return failing[id(result.steps)], str(result)

    def _story(self, ended: Ended, found: str) -> list[str]:
        """Run the same choices again; return what happens, and where a picture of it is."""
        strategy = Deviating(deviations_of(ended.failing))
        at = self._deepening
        with levels.telling(self._scope, at.level, at.lines) as lines:
            run = self._run(strategy, self._scope, lines)
            again = self._repeated.quietly(run).failure
        entries = [] if run.witness is None else run.witness.entries
        shown = again or ended.failure
        failure = None if shown is None else failure_of(shown, self._root)
        page = picture(entries, self._item.nodeid, found, failure)
        story = [f"  {text}" for text in told(entries, failure)]
        if again is None:
            story.append("  (told is a run with the same choices that did not fail)")
        return [*story, *kept(self._item, page)]

    def _fails(self, strategy: Strategy) -> Ended | None:
        ended = self._quietly(strategy, "found a failure, looking for the shortest schedule")
        return None if ended.failure is None else ended

    # -- determinism

    def _strange(self, ended: Ended, row: Row) -> str:
        """Return how a run that passed is not what it should be; "" if that is not so."""
        if ended.missed and row.runs == 1:
            return NOT_MET.format(ended.missed[0])
        return self._difference(ended) if self._plan.twice and ended.failure is None else ""

    def _difference(self, ended: Ended) -> str:
        """Run the same choices again; return how that run differs, "" if it does not."""
        again = self._quietly(Deviating(deviations_of(ended.steps)), "each schedule twice")
        for number, (one, other) in enumerate(zip(ended.steps, again.steps, strict=False)):
            if one != other:
                return f"not deterministic here: step {number}: {_shown(one, other)}"
        lengths = len(ended.steps), len(again.steps)
        if lengths[0] != lengths[1]:
            return "not deterministic here: first {} steps, then {}".format(*lengths)
        if again.failure is not None:
            return "not deterministic here: first it passed, then it failed, with the same steps"
        return ""


def _is_time_limit(report: pytest.TestReport) -> bool:
    """Whether a phase failed since pytest-timeout ended it."""
    crash = crash_of(report)
    return crash is not None and crash.message.startswith("Failed: Timeout (>")


def _command(item: pytest.Item, deaths: Deaths) -> str:
    """Return what runs a test with the same deaths."""
    words = ["pytest", _relative_node(item)]
    for one in deaths:
        words += ["--asyncframe-crash", one]
    return shlex.join(words)


def _relative_node(item: pytest.Item) -> str:
    """Return the node id of a test as seen from where pytest was started."""
    path, separator, rest = item.nodeid.partition("::")
    config = item.config
    return os.path.relpath(config.rootpath / path, config.invocation_params.dir) + separator + rest


def _shown(one: Step, other: Step) -> str:
    texts = [
        f"{f'{step.kind} {step.what}'.strip()}: {', '.join(step.options)}" for step in (one, other)
    ]
    return "first {}, then {}".format(*texts)


class Progress:
    """Writes a line every few seconds, if there is a terminal that somebody may watch.

    In a worker of xdist there is none.

    Args:
        item: The test that is explored.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._begun = self._told = time.perf_counter()
        self._runs = 0
        # Any: pytest's terminal reporter, whose methods are not all public.
        self._terminal: Any = item.config.pluginmanager.get_plugin("terminalreporter")

    @property
    def seconds(self) -> float:
        """Real seconds since the exploration began."""
        return time.perf_counter() - self._begun

    def ran(self, what: str) -> None:
        """Count a run, and write a line if it is time.

        Args:
            what: What is being done, with the number of failures so far.
        """
        self._runs += 1
        now = time.perf_counter()
        if self._terminal is None or now - self._told < _EVERY:
            return
        self._told = now
        seconds = now - self._begun
        rate = self._runs / seconds
        often = f"{rate:.2g}" if rate < 10 else f"{rate:.0f}"
        self._terminal.ensure_newline()
        self._terminal.write_line(
            f"{self._item.name}: {what}, {seconds:.0f} s, {often} runs a second"
        )
