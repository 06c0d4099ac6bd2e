"""The framework's own code under many schedules of its threads, at its lines and bytecodes.

The long test runs 30 times the schedules of the short one, and as many at bytecodes. The plugin's
own options change how many, and which: ten times, and others than usual, are::

    make soak ARGS="tests/explore/ourselves --asyncframe-seeds 600 --asyncframe-seed 7"
"""

from __future__ import annotations

import pytest

from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.run import Scenario
from tests.explore.ourselves.scenarios import BY_SUBJECT, SCENARIOS

_RUNS = 2
"""Runs of a scenario in the short test; `test_locks` runs many of them more often."""

_MANY = 60
"""Runs of a scenario with each policy in the long test."""


def failure(scenario: Scenario, level: str, policy: str, runs: int, seed: int = 0) -> str:
    """Run a scenario under some schedules, and return what fails; "" for nothing."""
    explorer = Explorer(scenario, level)
    _, failed = explorer.explore(policy, runs, seed)
    return "" if failed is None else explorer.explain(failed)


@pytest.mark.extended("time")
@pytest.mark.parametrize("subject", BY_SUBJECT)
def test_no_schedule_fails(subject: str) -> None:
    """Whatever the order of the threads, all that must hold does; a few schedules of each."""
    found = [failure(one, "line", "delays", _RUNS) for one in BY_SUBJECT[subject]]
    assert [text for text in found if text] == []


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_schedule_of_many_fails(scenario: Scenario, pytestconfig: pytest.Config) -> None:
    """The same with many schedules, or as many as the options ask for, and at bytecodes too."""
    runs = pytestconfig.getoption("asyncframe_seeds") or _MANY
    seed = pytestconfig.getoption("asyncframe_seed") or 0
    for level, policy in (("line", "delays"), ("opcode", "mixed")):
        assert failure(scenario, level, policy, runs, seed) == ""
