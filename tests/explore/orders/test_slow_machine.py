"""Early timeouts of small random programs, against an interpreter of a slow machine."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence

import pytest

from pytest_asyncframe._explore.holds import Holds
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.policies.haste import Noting
from pytest_asyncframe._explore.schedule import EARLY, Deviating, Step, Strategy
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run
from tests.explore.oracle import interpreter, on_asyncio, programs, slow
from tests.explore.oracle.programs import Note, Program, drawn, is_thread
from tests.explore.orders.test_oracle import POINTS

MOST = 4_000
"""How many runs a program may take; others are passed over."""

MOST_OF_THREADS = 700
"""The same for a program of threads, which has more orders."""


def with_early_timeouts(program: Program, level: Level = "awaits") -> Iterator[tuple[Note, ...]]:
    """Yield what a program does if a timeout comes early, for each moment that there is."""
    found = list[tuple[Note, ...]]()

    def body(probe: Probe) -> None:
        if all(map(is_thread, program)):
            on_asyncio.run_threads(program, probe, found.append)
        else:
            asyncio.run(on_asyncio.run(program, found.append))

    def ran(strategy: Strategy) -> Sequence[Step]:
        steps = one_run(body, strategy, level)
        is_early.append(any(step.kind == EARLY for step in steps))
        return steps

    is_early = list[bool]()

    noting = Noting()
    ran(noting)
    for offer in itertools.chain.from_iterable(noting.offers.values()):
        steps = ran(Deviating(offer.plan, Holds()))
        yield found[-1]
        for plan in offer.plans_to_go_on(steps) if offer.held else ():
            ran(Deviating(plan, Holds()))
            yield found[-1]
    assert not is_early[0]
    assert all(is_early[1:])


@pytest.mark.extended("time")
def test_nothing_happens_that_a_slow_machine_could_not_do() -> None:
    """Each early timeout shows what is possible if time passes once, and some show what is new."""
    programs = [program for program in map(drawn, range(300)) if "timeout" in repr(program)]
    early = new = 0
    for program in programs:
        possible = slow.outcomes(program, MOST)
        in_time = interpreter.outcomes(program, MOST)
        if possible is None or in_time is None:
            continue
        for outcome in with_early_timeouts(program):
            early += 1
            assert outcome in possible
            new += outcome not in in_time
    assert early > 40
    assert new > 10


@pytest.mark.extended("time")
@pytest.mark.parametrize(("level", "points"), [*POINTS.items()])
def test_threads_do_only_what_a_slow_machine_could_do(level: Level, points: frozenset[str]) -> None:
    """The same of waits of threads, and of the ways in which who is held back goes on."""
    early = new = 0
    for program in map(programs.threads, range(80)):
        possible = slow.outcomes_of_threads(program, MOST_OF_THREADS, points)
        in_time = interpreter.outcomes(program, MOST_OF_THREADS, points)
        if possible is None or in_time is None:
            continue
        for outcome in with_early_timeouts(program, level):
            early += 1
            assert outcome in possible
            new += outcome not in in_time
    assert early > 20
    assert new > 5
