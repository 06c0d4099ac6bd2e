"""The same choices give the same run, whatever the system does to threads: replays rest on it."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._explore.points.levels import LEVELS, Level
from pytest_asyncframe._explore.schedule import Step
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run
from tests.plugin.turns import orders
from tests.plugin.turns.hold_ups import held_up
from tests.plugin.turns.orders import PROGRAMS, Program, Run


class NowAndThen:
    """Preempts at every fifth point in the mean, and draws evenly where nobody can go on.

    Args:
        seed: Equal seeds choose equally.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        if step.preempts and self._random.random() < 0.8:
            return 0
        return self._random.randrange(len(step.options))


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Collect no garbage, as in all explored runs, and take the tracer of coverage away."""
    tracer = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    yield
    gc.enable()
    sys.settrace(tracer)


def run_of(
    program: Program, level: Level, seed: int, lines: Follower | None
) -> tuple[Sequence[str], Sequence[Step]]:
    """Return all that happens in a run of *program*, and its choices."""
    histories = []

    def body(probe: Probe) -> None:
        run = Run(probe)
        histories.append(run.history)
        run.follow(program)

    steps = one_run(body, NowAndThen(seed), level, lines)
    return tuple(histories[0]), tuple(steps)


def most_runs(program: Program, level: Level, seeds: int, runs: int) -> int:
    """Return how many different runs one seed has given at the most, with threads held up."""
    most = 0
    with ExitStack() as stack:
        lines = None
        if level in ("line", "opcode"):
            # The programs alone: what holds threads up is no code of a user.
            lines = Follower(level, Followed(Path(orders.__file__), [program.__code__]))
            stack.enter_context(lines.claimed())
        for seed in range(seeds):
            found = set()
            for number in range(runs):
                with held_up(number, longest=0.001):
                    found.add(run_of(program, level, seed, lines))
            most = max(most, len(found))
    return most


@pytest.mark.extended("time")
def test_one_run_for_one_seed() -> None:
    """At level "framework", three runs of each program make the same choices."""
    found = {one.__name__: most_runs(one, "framework", seeds=1, runs=3) for one in PROGRAMS}
    assert found == {one.__name__: 1 for one in PROGRAMS}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_one_run_for_one_seed_in_many_runs(program: Program, level: Level) -> None:
    """At each level, five runs of each of 20 seeds make the same choices."""
    assert most_runs(program, level, 20, 5) == 1
