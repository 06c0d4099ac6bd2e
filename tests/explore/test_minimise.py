"""Failing schedules are made small in few runs, and stay failing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from pytest_asyncframe._explore.policies.minimise import minimise
from pytest_asyncframe._explore.policies.named import make_policy
from pytest_asyncframe._explore.policies.switches import Position, Switch, Switching, switches_of
from pytest_asyncframe._explore.schedule import Deviating, Step, Strategy, deviations_of
from tests.explore.models import Model, explored, ran
from tests.explore.races import (
    GALLERY,
    all_windows,
    beside,
    deep_window,
    lost_update,
    oversell,
    oversell_by_relay,
    points,
    several,
    three_orders,
    to_and_fro,
)

FEWEST = {
    "deep window": 2,
    "to and fro": 2,
}
"""Switches that a race of the gallery needs; 1 for all others."""


def failing(model: Model, policy: str, most: int = 2_000) -> Sequence[Step]:
    """Return the steps of the first run that fails under a policy."""
    return next(run.steps for run in explored(model, make_policy(policy, 1), most) if run.failed)


class Trials:
    """Runs a model for the minimiser, and counts how often.

    Args:
        model: What to run.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.runs = 0

    def __call__(self, strategy: Strategy) -> Sequence[Step] | None:
        """Run it once; see `Fails`."""
        self.runs += 1
        steps, failed = ran(self.model, strategy)
        return steps if failed else None


@pytest.mark.parametrize("policy", ["mixed", "delays"])
@pytest.mark.parametrize("race", GALLERY)
def test_the_gallery_is_made_small(race: str, policy: str) -> None:
    """Of each race as few switches are left as it needs, within 150 runs."""
    trials = Trials(GALLERY[race])
    small = minimise(failing(GALLERY[race], policy), trials)
    assert len(small.switches) == FEWEST.get(race, 1)
    assert small.runs == trials.runs <= 150


@pytest.mark.parametrize("race", GALLERY)
def test_the_result_fails(race: str) -> None:
    """The steps of the result are those of a run that fails, and repeat by their deviations."""
    small = minimise(failing(GALLERY[race], "mixed"), Trials(GALLERY[race]))
    again = ran(GALLERY[race], Deviating(deviations_of(small.steps)))
    assert again == (small.steps, True)


def test_results_are_equal_each_time() -> None:
    """The same failing schedule gives the same result in as many runs."""
    steps = failing(three_orders(), "random")
    assert minimise(steps, Trials(three_orders())) == minimise(steps, Trials(three_orders()))


def test_three_switches_stay() -> None:
    """A race that needs three switches keeps three."""
    small = minimise(failing(three_orders(), "random"), Trials(three_orders()))
    assert len(small.switches) == 3


def test_the_words_of_a_result() -> None:
    """It says how many switches are left, and of how many."""
    race = oversell()
    steps = failing(race, "random")
    assert len(switches_of(steps)) == 17
    assert str(minimise(steps, Trials(race))) == "minimised: 1 switch (from 17)"
    assert str(minimise(steps, Trials(race), runs=0)) == "minimised: 17 switches (from 17)"


@pytest.mark.parametrize("runs", [0, 1, 2, 5, 20])
def test_the_budget_is_kept(runs: int) -> None:
    """No more runs are made than allowed, and what was found by then is returned."""
    trials = Trials(oversell_by_relay())
    small = minimise(failing(oversell_by_relay(), "pct:3"), trials, runs)
    assert small.runs == trials.runs <= runs
    assert ran(trials.model, Deviating(deviations_of(small.steps))).failed


def test_a_schedule_that_never_fails_again_is_kept() -> None:
    """If no run fails any more, the result is the schedule that was given."""
    steps = failing(oversell(), "random")
    small = minimise(steps, lambda _: None)
    assert small.steps is steps
    assert small.runs <= 150


def test_a_test_that_fails_by_any_schedule_needs_no_switch() -> None:
    """The default schedule is tried first."""
    model = beside(*several("actor", 2, lambda _: points(5, "point")), fails=lambda _: True)
    small = minimise(failing_by_chance(model), Trials(model))
    assert (len(small.switches), small.runs) == (0, 1)


def failing_by_chance(model: Model) -> Sequence[Step]:
    """Return the steps of the second run by chance: the first one is the default schedule."""
    return list(explored(model, make_policy("random", 0), 2))[1].steps


def test_failures_by_chance_do_no_harm() -> None:
    """If every other run fails whatever is chosen, the result still is one that has failed."""
    chance = Random(0)
    failed: list[Sequence[Step]] = []

    def fails(strategy: Strategy) -> Sequence[Step] | None:
        steps = ran(oversell(), strategy).steps
        if chance.random() < 0.5:
            return None
        failed.append(steps)
        return steps

    small = minimise(failing(oversell(), "random"), fails)
    assert any(small.steps is steps for steps in failed)


def test_a_long_schedule_takes_few_runs() -> None:
    """Of some 200 switches, one is found in a dozen runs: late and early ones go in large parts."""
    race = oversell(100, 100, kind="line")
    steps = failing(race, "random")
    assert len(switches_of(steps)) > 150
    small = minimise(steps, Trials(race))
    assert (len(small.switches), small.runs) == (1, 10)


def test_many_needed_switches_stay() -> None:
    """Three windows need three switches there, and two back in between."""
    race = all_windows((3, 14, 25))
    assert len(minimise(failing(race, "mixed"), Trials(race)).switches) == 5


def test_a_run_that_is_no_smaller_is_not_taken() -> None:
    """A run that fails with as many switches as before leads nowhere."""
    steps = failing(oversell(), "random")
    assert minimise(steps, lambda _: list(steps)).steps is steps


# -- switches


@pytest.mark.parametrize("policy", ["random", "pct:3", "mixed"])
@pytest.mark.parametrize("race", GALLERY)
def test_switches_repeat_a_run(race: str, policy: str) -> None:
    """The switches of any run, made again, give the same run."""
    for run in explored(GALLERY[race], make_policy(policy, 3), 10):
        assert ran(GALLERY[race], Switching(switches_of(run.steps))) == run


def test_passing_over_again_is_one_switch() -> None:
    """An actor that stays passed over at later choices is one switch, until it runs."""
    steps = [
        Step("line", "window", ("a", "b", "c"), True, 1),
        Step("start", "", ("a", "c"), False, 1),
        Step("start", "", ("a", "d"), False, 0),
        Step("line", "window", ("a", "d"), True, 1),
    ]
    assert switches_of(steps) == [
        Switch(Position("a", "line", "window", 0), ("b", "c")),
        Switch(Position("a", "line", "window", 1), ("d",)),
    ]


def test_who_is_nowhere_is_where_it_was() -> None:
    """Where nobody stands at a point, a position tells the latest point of the actor."""
    steps = [
        Step("line", "window", ("a", "b"), True, 0),
        Step("start", "", ("a", "c"), False, 1),
        Step("start", "", ("c", "d"), False, 1),
    ]
    assert switches_of(steps) == [
        Switch(Position("a", "", "window", 0), ("c",)),
        Switch(Position("c", "", "", 0), ("d",)),
    ]


def test_a_switch_is_at_its_place_when_earlier_ones_are_dropped() -> None:
    """A switch in the second visit of a place stays there, though it is another step."""
    model = lost_update(1, visits=3, raced=2)
    both = [
        Switch(Position("add#1", "line", "after", 0), ("add#2",)),
        Switch(Position("add#1", "line", "window", 2), ("add#2",)),
    ]
    at = [
        next(step.what for step in ran(model, Switching(some)).steps if step.deviates)
        for some in (both[:1], both[1:])
    ]
    assert at == ["after", "window"]


@pytest.mark.parametrize("model", [deep_window(8), to_and_fro(6)], ids=["deep", "to and fro"])
def test_few_runs_are_enough(model: Model) -> None:
    """Two switches are found in all that a random schedule makes, in some 50 runs."""
    small = minimise(failing(model, "mixed", 20_000), Trials(model))
    assert len(small.switches) == 2
    assert small.runs <= 50
