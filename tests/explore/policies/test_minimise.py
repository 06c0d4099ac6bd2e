"""Failing schedules are made small in few runs, and stay failing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.policies.minimise import (
    Position,
    Switch,
    Switching,
    minimise,
    switches_of,
)
from pytest_asyncframe._explore.schedule import Deviating, Step, Strategy, deviations_of
from tests.explore.policies.models import Model, explored, ran
from tests.explore.policies.races import (
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


def made_small(race: str, policy: str) -> dict[str, object]:
    """Minimise a failing run of a race of the gallery, and return what came of it."""
    trials = Trials(GALLERY[race])
    small = minimise(failing(GALLERY[race], policy), trials)
    again = ran(GALLERY[race], Deviating(deviations_of(small.steps)))
    return {
        "switches": len(small.switches),
        "counts its runs": small.runs == trials.runs,
        "within 150 runs": small.runs <= 150,
        "fails again": again == (small.steps, True),
    }


def as_small_as_can_be(race: str) -> dict[str, object]:
    """Return what `made_small` must return."""
    true = dict.fromkeys(("counts its runs", "within 150 runs", "fails again"), True)
    return {"switches": FEWEST.get(race, 1), **true}


def test_the_gallery_is_made_small() -> None:
    """Of each race as few switches are left as it needs, and these fail again."""
    found = {race: made_small(race, "delays") for race in GALLERY}
    assert found == {race: as_small_as_can_be(race) for race in GALLERY}


@pytest.mark.soak
@pytest.mark.parametrize("policy", ["mixed", "pct:3"])
@pytest.mark.parametrize("race", GALLERY)
def test_drawn_schedules_are_made_small(race: str, policy: str) -> None:
    """The same of a race that any other policy has found."""
    assert made_small(race, policy) == as_small_as_can_be(race)


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


def test_the_budget_is_kept() -> None:
    """No more runs are made than allowed, and what was found by then is returned."""
    steps = failing(oversell_by_relay(), "pct:3")
    for runs in (0, 1, 2, 5, 20):
        trials = Trials(oversell_by_relay())
        small = minimise(steps, trials, runs)
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


def not_repeated(race: str, policy: str) -> list[int]:
    """Return which of ten runs of a race differ when their switches are made again."""
    runs = explored(GALLERY[race], make_policy(policy, 3), 10)
    return [
        number
        for number, run in enumerate(runs)
        if ran(GALLERY[race], Switching(switches_of(run.steps))) != run
    ]


def test_switches_repeat_a_run() -> None:
    """The switches of any run, made again, give the same run; ``mixed`` draws in all ways."""
    wrong = {race: runs for race in GALLERY if (runs := not_repeated(race, "mixed"))}
    assert wrong == {}


@pytest.mark.soak
@pytest.mark.parametrize("policy", ["random", "pct:3", "delays"])
@pytest.mark.parametrize("race", GALLERY)
def test_switches_repeat_a_run_of_each_policy(race: str, policy: str) -> None:
    """The same for runs of any other policy."""
    assert not_repeated(race, policy) == []


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


def test_few_runs_are_enough() -> None:
    """Two switches are found in all that a random schedule makes, in some 50 runs."""
    for model in (deep_window(8), to_and_fro(6)):
        small = minimise(failing(model, "mixed", 20_000), Trials(model))
        assert len(small.switches) == 2
        assert small.runs <= 50
