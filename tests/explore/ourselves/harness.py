"""Runs the framework's own code under many schedules of its threads."""

from __future__ import annotations

import gc
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.policies.minimise import minimise
from pytest_asyncframe._explore.replay import Following, ReplayLine, decode, encode, line_of
from pytest_asyncframe._explore.schedule import Course, Default, Step, Strategy
from pytest_asyncframe._turns.actors import TestEndedError
from tests.explore.ourselves.locks import modelled
from tests.explore.ourselves.run import Run, Scenario, Thread
from tests.explore.ourselves.standins import Threads, installed
from tests.explore.ourselves.turns import Turns
from tests.explore.ourselves.watch import FrameworkFollower

_COLLECT = 50
"""How many runs come between two collections of garbage."""


class BlockedError(AssertionError):
    """A thread of a run blocked in a way that is not modelled, as far as the system tells."""


class Outcome(NamedTuple):
    """What came of one run.

    Attributes:
        error: What failed; None if nothing did.
        steps: The choices.
        locks: The names of the framework's locks that were made.
    """

    error: BaseException | None
    steps: Sequence[Step]
    locks: set[str]


class Explorer:
    """Runs one scenario under many schedules.

    Args:
        scenario: The scenario.
        level: "locks", "line" or "opcode".
        without: The name of the locks that keep nobody out; None for none.
    """

    def __init__(self, scenario: Scenario, level: str, without: str | None = None) -> None:
        self.name: str = scenario.__name__
        self._scenario = scenario
        self._level = level
        self._without = without
        more = vars(scenario).get("watched", ())
        self._lines = None if level == "locks" else FrameworkFollower(level, more)

    def explore(self, policy: str, runs: int, seed: int = 0) -> tuple[int, Outcome | None]:
        """Run *runs* schedules at the most; return how many, and the outcome that failed."""
        schedules = make_policy(policy, seed, runs)
        with self._prepared():
            # What is imported and cached once has lines, too.
            self._run(Default())
            for number in range(runs):
                strategy = schedules.next()
                if strategy is None:
                    return number, None
                outcome = self._run(strategy)
                assert self._without is None or self._without in outcome.locks, (
                    f"{self.name} makes no lock {self._without}"
                )
                schedules.ended(outcome.steps)
                if outcome.error is not None and self._is_confirmed(outcome):
                    return number + 1, outcome
                if number % _COLLECT == _COLLECT - 1:
                    gc.collect()
        equal = "did not follow" not in schedules.claim(runs)
        assert equal, f"{self.name}: equal choices gave differing runs"
        return runs, None

    def _is_confirmed(self, outcome: Outcome) -> bool:
        """Whether a failed run fails again, if all that is wrong is that a thread blocked.

        On a busy machine a thread that was not given a processor for long looks blocked.
        """
        if not isinstance(outcome.error, BlockedError):
            return True
        return self._run(Following(self._line(outcome.steps))).error is not None

    def once(self, strategy: Strategy) -> Outcome:
        """Run one schedule."""
        with self._prepared():
            return self._run(strategy)

    def replay(self, line: str) -> Outcome:
        """Run the schedule of a replay line."""
        return self.once(Following(decode(line)))

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        # What scenarios provoke is logged as it should be, by the thousand.
        logged, collects = logging.root.manager.disable, gc.isenabled()
        logging.disable(logging.CRITICAL)
        # The collector calls finalizers at any moment, on any thread.
        gc.disable()
        try:
            # Python 3.11 has nothing to claim: no other tool traces the threads of a run.
            claims = self._lines is not None and sys.version_info >= (3, 12)
            with self._lines.claimed() if claims and self._lines else nullcontext():
                yield
        finally:
            logging.disable(logged)
            if collects:
                gc.enable()

    def _run(self, strategy: Strategy) -> Outcome:
        course, lines = Course(strategy), self._lines
        turns = Turns(course)
        threads = Threads(turns, (lambda: None) if lines is None else lines.begin_thread)
        Thread.numbers = itertools.count()
        main = turns.enter_first()
        calling = nullcontext() if lines is None else lines.calling(turns.point)
        with modelled(turns, self._without) as names, installed(turns, threads), calling:
            run = Run(turns, threads)
            error: BaseException | None = None
            try:
                self._scenario(run)
                run.close()
                if turns.blocked:
                    raise BlockedError(f"{turns.blocked} blocked outside of the run")
            except TestEndedError:
                error = threads.error(f"stuck: {turns.stuck}")
            except Exception as raised:  # the scenario fails
                error = raised
            finally:
                turns.end()
                turns.sequencer.leave(main)
                threads.await_ends()
                run.stack.close()
        return Outcome(error, course.steps, names)

    def explain(self, outcome: Outcome) -> str:
        """Say what failed, after which switches, and how to run that again."""
        with self._prepared():
            least = minimise(outcome.steps, self._failing_steps)
        found = self.once(Following(self._line(least.steps)))
        switches = [
            f"  {step.options[0]} -> {step.options[step.chosen]}, at {step.what or 'its end'}"
            for step in least.steps
            if step.deviates
        ]
        return "\n".join(
            [
                f"{self.name} fails at level {self._level}: {found.error!r}",
                f"{least}:",
                *switches,
                f"python -m tests.explore.ourselves.replay {encode(self._line(least.steps))}",
            ]
        )

    def _line(self, steps: Sequence[Step]) -> ReplayLine:
        return line_of(steps, node_id=self.name, level=self._level, seed=0, edges=True)

    def _failing_steps(self, strategy: Strategy) -> Sequence[Step] | None:
        outcome = self._run(strategy)
        return None if outcome.error is None else outcome.steps
