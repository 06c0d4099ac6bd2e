"""Early timeouts of small random programs, against an interpreter of a slow machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pytest_asyncframe._explore.holds import Holds
from pytest_asyncframe._explore.policies.haste import Noting
from pytest_asyncframe._explore.schedule import EARLY, Deviating, Strategy
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run
from tests.explore.oracle import interpreter, on_asyncio, slow
from tests.explore.oracle.programs import Note, Program, drawn

MOST = 4_000
"""How many runs a program may take; others are passed over."""


def with_early_timeouts(program: Program) -> Iterator[tuple[Note, ...]]:
    """Yield what a program does if a timeout comes early, for each moment that there is."""
    found = list[tuple[Note, ...]]()

    def body(probe: Probe) -> None:
        asyncio.run(on_asyncio.run(program, found.append))

    def ran(strategy: Strategy) -> bool:
        return any(step.kind == EARLY for step in one_run(body, strategy, "awaits"))

    noting = Noting()
    assert not ran(noting)
    for offers in noting.offers.values():
        for offer in offers:
            assert ran(Deviating({offer.number: offer.identity}, Holds()))
            yield found[-1]


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
