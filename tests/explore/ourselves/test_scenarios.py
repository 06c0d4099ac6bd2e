"""The framework's own code under many schedules of its threads, at its lines and bytecodes.

The long test runs 15 times the schedules of the short one. The plugin's own options change how
many, and which: ten times, and others than usual, are::

    make soak ARGS="tests/explore/ourselves --asyncframe-seeds 40 --asyncframe-seed 7"
"""

from __future__ import annotations

import pytest

from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.run import Scenario
from tests.explore.ourselves.scenarios import SCENARIOS

_RUNS = 4
"""Runs of a scenario with each policy; all together take some ten seconds."""

_TIMES = 15
"""How many times more runs the long test has."""


def explore(scenario: Scenario, runs: int, seed: int = 0) -> None:
    """Run a scenario under two policies, one at lines and one at bytecodes."""
    for level, policy in (("line", "delays"), ("opcode", "mixed")):
        explorer = Explorer(scenario, level)
        _, failed = explorer.explore(policy, runs, seed)
        assert failed is None, explorer.explain(failed)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_schedule_fails(scenario: Scenario) -> None:
    """Whatever the order of the threads, all that must hold does."""
    explore(scenario, _RUNS)


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_schedule_of_many_fails(scenario: Scenario, pytestconfig: pytest.Config) -> None:
    """The same with 15 times as many schedules, or as many as the options ask for."""
    runs = pytestconfig.getoption("asyncframe_seeds") or _RUNS * _TIMES
    explore(scenario, runs, pytestconfig.getoption("asyncframe_seed") or 0)
