"""Who takes what waits, over two processes whose transactions come in many orders."""

from __future__ import annotations

import pytest

from tests.explore.ourselves import taking
from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.run import Scenario


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


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", taking.SCENARIOS)
def test_no_order_of_many_fails(scenario: Scenario) -> None:
    """The same in more orders, and with switches at each line."""
    assert failure(scenario, "locks", 500) == ""
    assert failure(scenario, "line", 100) == ""
