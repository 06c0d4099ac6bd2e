"""The policy ``delays``: its phases, their order, and what it finds."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import pytest

from pytest_asyncframe._explore.holds import Holds
from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.policies.delays import spread_out
from pytest_asyncframe._explore.policies.order import coarse_to_fine, in_turn
from pytest_asyncframe._explore.policies.search import Branch
from pytest_asyncframe._explore.schedule import Default, Deviating, Step, deviations_of
from tests.explore.policies.models import (
    Body,
    Model,
    Point,
    State,
    Until,
    explored,
    first_failure,
    ran,
)
from tests.explore.policies.races import (
    GALLERY,
    beside,
    deep_window,
    lost_update,
    oversell_by_relay,
    points,
    raced_by_two_of,
    several,
)

RUNS = 200


def equal_actors(number: int, steps: int) -> Model:
    """Return actors that take so many atomic steps each."""
    return beside(*several("actor", number, lambda _: points(steps - 1, "point")))


def deviations(model: Model, most: int, runs: int = RUNS) -> list[tuple[tuple[int, str], ...]]:
    """Return the deviations of so many runs, of a policy that counts with *runs* of them."""
    return [
        tuple(deviations_of(run.steps).items())
        for run in explored(model, make_policy("delays", 0, runs), most)
    ]


# -- what it finds


@pytest.mark.extended("time")
def test_the_gallery_is_found() -> None:
    """Each race of the gallery is found within 200 runs; the default schedule has none of them."""
    by_default = [race for race, model in GALLERY.items() if ran(model, Default()).failed]
    missed = [race for race in GALLERY if not is_found(race, seed=0)]
    assert (by_default, missed) == ([], [])


def is_found(race: str, seed: int) -> bool:
    """Whether the policy finds a race of the gallery in time."""
    return first_failure(GALLERY[race], make_policy("delays", seed), RUNS) is not None


@pytest.mark.soak
@pytest.mark.parametrize("race", GALLERY)
def test_the_gallery_is_found_by_each_seed(race: str) -> None:
    """The same for many seeds."""
    assert [seed for seed in range(1, 20) if not is_found(race, seed)] == []


# -- phases


def singles(model: Model) -> list[tuple[tuple[int, str], ...]]:
    """Return all schedules with one deviation, from the steps of the default one."""
    steps = ran(model, Default()).steps
    return [((number, option),) for number, step in enumerate(steps) for option in step.options[1:]]


def doubles(model: Model) -> list[tuple[tuple[int, str], ...]]:
    """Return all schedules with two deviations, from the steps of those with one."""
    found = []
    for single in singles(model):
        steps = ran(model, _Only(dict(single))).steps
        for number, step in enumerate(steps):
            if number > single[0][0]:
                found += [(*single, (number, option)) for option in step.options[1:]]
    return found


class _Only:
    """Takes some deviations, as an oracle for `Deviating`."""

    def __init__(self, deviations: dict[int, str]) -> None:
        self._deviations = deviations

    def choose(self, number: int, step: Step) -> int:
        return list(step.options).index(self._deviations.get(number, step.options[0]))


def test_the_phases_are_complete() -> None:
    """The default schedule comes first, then each with 1 deviation, then each with 2; all once."""
    model = equal_actors(2, 5)
    one, two = singles(model), doubles(model)
    ran_ones = deviations(model, RUNS, runs=1_000)
    assert ran_ones[0] == ()
    assert sorted(ran_ones[1 : 1 + len(one)]) == sorted(one)
    second = ran_ones[1 + len(one) : 1 + len(one) + len(two)]
    # By hand: the start and 4 points of the first actor; then 4 points of the second one.
    assert (len(one), len(two)) == (5, 20)
    assert sorted(second) == sorted(two)


def test_no_schedule_in_order_runs_twice() -> None:
    """When drawn schedules take turns with those in order, none of these runs that has run."""
    policy = make_policy("delays", 0)
    seen: set[tuple[tuple[int, str], ...]] = set()
    in_order = 0
    for _ in range(RUNS):
        strategy = policy.next()
        assert strategy is not None
        steps = ran(raced_by_two_of(5, (2, 4)), strategy).steps
        policy.ended(steps)
        found = tuple(deviations_of(steps).items())
        if isinstance(strategy, Deviating):
            assert found not in seen
            in_order += 1
        seen.add(found)
    assert in_order == 133


def test_a_small_test_ends() -> None:
    """When all schedules have run, the policy ends, and says so."""
    policy = make_policy("delays", 0)
    runs = list(explored(equal_actors(2, 3), policy, RUNS))
    assert policy.claim(len(runs)) == "all 20 schedules"
    assert len(runs) == 20


def test_drawn_schedules_take_turns_when_there_are_too_many() -> None:
    """With more single deviations than runs, every third run is drawn."""
    model, policy = raced_by_two_of(8, (1, 2)), make_policy("delays", 0)
    assert len(singles(model)) > RUNS
    drawn = []
    for number in range(RUNS):
        strategy = policy.next()
        assert strategy is not None
        policy.ended(ran(model, strategy).steps)
        if not isinstance(strategy, Default | Deviating):
            drawn.append(number)
    assert max(b - a for a, b in pairwise(drawn)) == 3


def test_two_deviations_with_one_preemption_come_first() -> None:
    """Of two deviations, those of which at most one preempts run before all others."""
    preempted = [
        sum(step.preempted for step in run.steps)
        for run in explored(equal_actors(2, 5), make_policy("delays", 0, 1_000), 50)
        if len(deviations_of(run.steps)) == 2
    ]
    assert [number > 1 for number in preempted] == sorted(number > 1 for number in preempted)


# -- order


def test_items_are_taken_from_coarse_to_fine() -> None:
    """The ends come first, then the middle, then the middles of the halves; each item once."""
    assert coarse_to_fine("abcdefghi") == list("aiecgbdfh")
    assert coarse_to_fine("") == []
    for length in range(40):
        assert sorted(coarse_to_fine(range(length))) == list(range(length))


def test_columns_are_taken_in_turn() -> None:
    """The first of each column come first; columns may be of different lengths."""
    assert in_turn(["abc", "d", "ef"]) == list("adebfc")


def test_different_places_come_first() -> None:
    """A place in a loop, and equal actors at one place, come once before any comes again."""
    steps = [
        Step("line", what, (f"buy#{one}", f"buy#{3 - one}"), True, 0)
        for one in (1, 2)
        for what in ("a", "loop", "loop", "loop", "b")
    ]
    ordered = spread_out(steps, [Branch(number, 1) for number in range(len(steps))])
    assert {steps[branch.number].what for branch in ordered[:3]} == {"a", "loop", "b"}
    assert sorted(branch.number for branch in ordered) == list(range(len(steps)))


def test_places_are_taken_from_coarse_to_fine() -> None:
    """Of places in a row, the first and the last one come first, then the one in the middle."""
    steps = [Step("line", what, ("a", "b"), True, 0) for what in "abcde"]
    ordered = spread_out(steps, [Branch(number, 1) for number in range(5)])
    assert [branch.number for branch in ordered] == [0, 4, 2, 1, 3]


# -- holding back


def test_a_chain_of_actors_is_let_through() -> None:
    """An actor that is held back lets a whole chain of others pass, each started by the last."""
    model = oversell_by_relay(0, 6)
    steps = ran(model, Default()).steps
    window = next(number for number, step in enumerate(steps) if step.what == "window")
    other = steps[window].options[1]
    assert not ran(model, _Only({window: other})).failed
    assert ran(model, Deviating({window: other}, Holds())).failed


def test_who_is_waited_for_is_let_go() -> None:
    """An actor that others poll for is held back for a while only, so the test ends."""

    def test(state: State) -> Body:
        state.start("poll#1", poll)
        yield Point("line", "before")
        state.values["set"] = True

    def poll(state: State) -> Body:
        while "set" not in state.values:
            yield Until(lambda: True)

    steps = ran(test, Deviating({0: "poll#1"}, Holds())).steps
    assert len(steps) == 1 + 1_000 + 1


def by_brute_force(model: Model, most: int) -> set[tuple[int, ...]]:
    """Return the choices of all schedules with so many deviations at the most.

    An oracle: it tries each sequence of choices, and counts who is passed over in each anew.
    """
    found = set[tuple[int, ...]]()
    prefixes: list[tuple[int, ...]] = [()]
    while prefixes:
        prefix = prefixes.pop()
        steps = ran(model, _Chosen(prefix), on_loop=True).steps
        if counted(steps[: len(prefix)]) > most:
            continue
        if len(steps) == len(prefix):
            found.add(prefix)
        else:
            prefixes += [(*prefix, option) for option in range(len(steps[len(prefix)].options))]
    return found


class _Chosen:
    """Takes some choices, and the first option after them."""

    def __init__(self, chosen: tuple[int, ...]) -> None:
        self._chosen = chosen

    def choose(self, number: int, step: Step) -> int:
        return self._chosen[number] if number < len(self._chosen) else 0


def counted(steps: Sequence[Step]) -> int:
    """Return how many deviations some steps have, by the words of the documentation."""
    deviations, waited = 0, dict[str, int]()  # how often each that is held back was passed over
    for step in steps:
        able = [one for one in step.options if one not in waited]
        first = able[0] if able else step.options[0]
        taken = step.options[step.chosen]
        passed = step.options[: step.chosen]
        goes_on = taken in waited and not set(passed) & set(able)
        for one in passed:
            if one in waited:
                waited[one] += 1
        if taken == first:
            continue
        if not goes_on:
            deviations += 1
            waited[first] = 0
        elif waited[taken] > 0:
            deviations += 1
        waited.pop(taken, None)
    return deviations


@pytest.mark.extended("time")
@pytest.mark.parametrize(("sizes", "most"), [((4, 4), 3), ((2, 3, 2), 3), ((1, 2, 2, 1), 2)])
def test_holding_back_is_one_deviation(sizes: Sequence[int], most: int) -> None:
    """All schedules with up to some deviations run, each once, as brute force counts them."""
    model = beside(
        *((f"actor#{n}", lambda _, size=size: points(size, "")) for n, size in enumerate(sizes))
    )
    policy = make_policy("delays", 0, 100_000)
    found: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    while (strategy := policy.next()) is not None:
        steps = ran(model, strategy, on_loop=True).steps
        policy.ended(steps)
        if (level := counted(steps)) > most:
            break
        found[level].append(tuple(step.chosen for step in steps))
    runs = sorted(itertools.chain(*found.values()))
    assert list(found) == list(range(most + 1))
    assert runs == sorted(by_brute_force(model, most))


# -- words


def words(model: Model, runs: int) -> str:
    """Return what is said when none of so many runs has failed."""
    policy = make_policy("delays", 0, 1_000)
    return policy.claim(len(list(explored(model, policy, runs))))


def test_the_words_of_a_pass() -> None:
    """A pass says up to how many deviations all schedules have run, and how many others."""
    one, two = equal_actors(1, 3), equal_actors(2, 5)
    assert words(one, 200) == "the only schedule"
    assert words(two, 1) == "the default schedule"
    assert words(two, 6) == "all 6 schedules with up to 1 deviation"
    assert words(two, 4) == ("the default schedule, and 3 others (3 of them with 1 deviation)")
    assert words(two, 7) == "all 6 schedules with up to 1 deviation, and 1 other"


def test_equal_seeds_give_equal_runs() -> None:
    """A policy runs the same schedules each time, and others for another seed."""
    for race in (lost_update(20), deep_window()):
        runs = [
            [run.steps for run in explored(race, make_policy("delays", seed), RUNS)]
            for seed in (1, 1, 2)
        ]
        assert runs[0] == runs[1] != runs[2]
