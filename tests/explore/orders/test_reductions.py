"""The two rules that keep schedules few: what is found with each, and missed without it."""

from __future__ import annotations

import re
from random import Random

import pytest

from pytest_asyncframe._explore.policies.drawn import Priorities
from pytest_asyncframe._explore.schedule import Step, Strategy
from pytest_asyncframe._turns.points import Points
from tests.plugin.endings import LOOPS, PLAIN

SHOP = """
import pytest
from fastapi import FastAPI
from framework import background_task, current_task, setup_async_framework

app = FastAPI()
setup_async_framework(app)
stock = {"left": 1}
sold = []

@background_task
def reserve(buyer):
    left = stock["left"]
    if left:
        current_task().report_progress(0.5)
        stock["left"] = left - 1
        sold.append(buyer)

@app.post("/buy/{buyer}")
async def buy(buyer: str):
    return {"task_id": reserve(buyer)}

@pytest.mark.interleave(policy="mixed", level="framework")
def test_sale(asyncframe):
    stock["left"] = 1
    sold.clear()
    with asyncframe.client(app) as client:
        for answer in [client.post("/buy/ann"), client.post("/buy/bob")]:
            asyncframe.run_until_complete(answer)
    assert len(sold) == 1
"""


def between_steps(self: Points, ran_users_code: bool) -> None:
    """Offer threads a turn between any two steps of a loop."""
    with self._lock:
        self._on_next_step(self.here)
    self.point("await", "")


def found_in(pytester: pytest.Pytester) -> int:
    """Return the number of the run that finds the shop's race."""
    pytester.makepyfile(test_it=SHOP)
    result = pytester.runpytest_inprocess(*PLAIN, *LOOPS)
    result.assert_outcomes(failed=1)
    found = re.search(r"^run (\d+) of at most 200 fails", result.stdout.str(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.extended("time")
@pytest.mark.usefixtures("untraced")
def test_turns_between_steps_of_a_loop(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A race is found in far fewer runs if threads get turns only after what they notice."""
    with_it = found_in(pytester)
    monkeypatch.setattr(Points, "between_steps", between_steps)
    without = found_in(pytester)

    assert 3 * with_it <= 2 * without


class AtAnyStep(Priorities):
    """Lowers priorities at any step, also where nobody could go on."""

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take."""
        low = self._change_at.get(number)
        if low is not None:
            self._priorities[step.options[0]] = low
        self._preemptive = -1 if step.preempts else self._preemptive
        return super().choose(number, step)


STEPS, POINTS = 200, (60, 100, 140)
"""A run: its choices, and at which of them a task could be preempted; the second one matters."""


def is_found(strategy: Strategy) -> bool:
    """Whether a task is preempted at its second point, and at no other."""
    taken = []
    for number in range(STEPS):
        at_point = number in POINTS
        options = ("buy#1", "buy#2") if at_point else ("loop#1", "loop#2")
        chosen = strategy.choose(number, Step("framework", "", options, at_point, 0))
        if at_point:
            taken.append(chosen)
    return taken[:2] == [0, 1]


def test_priorities_change_where_someone_could_go_on() -> None:
    """Priorities that change only at points find in 100 runs what those at any step miss."""
    with_it = sum(is_found(Priorities(Random(seed), 2, len(POINTS))) for seed in range(100))
    without = sum(is_found(AtAnyStep(Random(seed), 2, STEPS)) for seed in range(100))

    assert with_it > 10
    assert without == 0
