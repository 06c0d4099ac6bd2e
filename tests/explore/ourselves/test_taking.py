"""Who takes what waits, over two processes whose transactions come in many orders."""

from __future__ import annotations

import pytest

from tests.explore.ourselves import taking
from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.planted import FAULTS, with_fault
from tests.explore.ourselves.run import Scenario

FOUND_BY: dict[str, Scenario] = {
    "starts without a permit": taking.begin_or_be_given_up,
    "gives away what runs": taking.begin_or_go_back,
    "claims more than it has places for": taking.begin_or_be_given_up,
}
"""The scenario that finds each fault."""


def failure(scenario: Scenario, level: str, runs: int) -> str:
    """Run a scenario under some schedules, and return what fails; "" for nothing."""
    explorer = Explorer(scenario, level)
    _, failed = explorer.explore("mixed", runs)
    return "" if failed is None else explorer.explain(failed)


@pytest.mark.extended("time")
@pytest.mark.parametrize("scenario", taking.SCENARIOS)
def test_no_order_fails(scenario: Scenario) -> None:
    """Each task gets one taker in time and in turn, whoever is given up or cancels meanwhile."""
    assert failure(scenario, "locks", 25) == ""


@pytest.mark.extended("time")
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 5))]
)
@pytest.mark.parametrize("what", FOUND_BY)
def test_planted_faults_are_found(what: str, seed: int) -> None:
    """Whatever the search begins with, it finds each fault of the rule within 200 runs."""
    explorer = Explorer(with_fault(FOUND_BY[what], FAULTS[what]), "locks")
    _, failed = explorer.explore("mixed", 200, seed)
    assert failed is not None
    assert isinstance(failed.error, AssertionError)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", taking.SCENARIOS)
def test_no_order_of_many_fails(scenario: Scenario) -> None:
    """The same in more orders, and with switches at each line."""
    assert failure(scenario, "locks", 500) == ""
    assert failure(scenario, "line", 100) == ""
