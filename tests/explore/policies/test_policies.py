"""Policies by name: what they draw, which schedules they run first, and what they prove."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from pytest_asyncframe._explore.policies.by_name import base_seed, make_policy
from pytest_asyncframe._explore.policies.drawn import (
    Evenly,
    Lengths,
    Orders,
    Priorities,
    Straying,
    mixed,
)
from pytest_asyncframe._explore.schedule import Step, deviations_of
from tests.explore.policies.models import Body, Model, State, Until, explored, ran
from tests.explore.policies.races import (
    beside,
    deep_window,
    last_wholly_first,
    nested,
    oversell,
    points,
    several,
    to_and_fro,
)

DRAWN = ["mixed", "random", "pos", "pct:1", "pct:3"]
EVERY = [*DRAWN, "delays", "exhaustive:0", "exhaustive:2", "exhaustive"]

THREE = Step("line", "", ("a", "b", "c"), preempts=True, chosen=0)
"""A step with three options."""


def test_an_unknown_policy_is_refused() -> None:
    """A name that is no policy, or a number out of range, is an error that lists all of them."""
    for text in ("", "Delays", "pct", "pct:0", "pct:-1", "exhaustive:", "pct:3 "):
        message = (
            f"policy {text!r}: it must be one of delays, mixed, random, pos, pct:d (such as pct:3; "
            "d is how many events must come in one order, 1 or more), exhaustive:b (such as "
            "exhaustive:2; b is the most preemptions, 0 or more) and exhaustive"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make_policy(text, 0)


def test_the_first_schedule_is_the_default_one() -> None:
    """The first run of each policy takes the default at each step."""
    chosen = {}
    for text in EVERY:
        strategy = make_policy(text, 0).next()
        assert strategy is not None
        steps = [THREE._replace(preempts=n % 2 == 0) for n in range(1_000)]
        chosen[text] = {strategy.choose(n, step) for n, step in enumerate(steps)}
    assert chosen == {text: {0} for text in EVERY}


def test_the_base_seed_is_stable() -> None:
    """The seed of a test depends on its node id and the session's seed, not on the process."""
    assert base_seed("tests/test_a.py::test_b", 0) == 2246128905648694926
    assert base_seed("tests/test_a.py::test_b", 1) != base_seed("tests/test_a.py::test_b", 0)


def test_random_is_uniform() -> None:
    """Of 3 options, each is taken as often as the others: chi-square below its 99.9 % point."""
    strategy = Evenly(Random(0))
    drawn = 30_000
    counts = Counter(strategy.choose(n, THREE) for n in range(drawn))
    expected = drawn / 3
    assert sum((counts[i] - expected) ** 2 / expected for i in range(3)) < 13.8


# -- what is drawn


def test_equal_seeds_draw_equal_schedules() -> None:
    """A policy draws the same schedules each time, and others for another seed."""
    for text in DRAWN:
        runs = [
            [run.steps for run in explored(oversell(), make_policy(text, seed), 20)]
            for seed in (1, 1, 2)
        ]
        assert runs[0] == runs[1], text
        assert runs[1] != runs[2], text


def test_a_test_without_choices_runs_once() -> None:
    """Where nothing is to be chosen, each policy ends after the first run, and says so."""
    model = beside(*several("actor", 1, lambda _: points(3, "point")))
    found = {}
    for text in EVERY:
        policy = make_policy(text, 0)
        found[text] = len(list(explored(model, policy))), policy.claim(1)
    assert found == dict.fromkeys(EVERY, (1, "the only schedule"))


def test_the_words_of_a_pass() -> None:
    """A pass says how many runs there were, and how their schedules were drawn."""
    drawn = {
        "random": "schedules drawn at random",
        "pos": "a priority drawn for each event (pos)",
        "mixed": "schedules drawn in several ways",
        "pct:3": "priorities drawn at random (pct:3)",
    }
    for text, words in drawn.items():
        policy = make_policy(text, 0)
        assert len(list(explored(oversell(), policy, 20))) == 20
        assert policy.claim(20) == f"20 runs with {words}"
        assert policy.claim(1) == "the default schedule"


def test_each_straying_run_deviates() -> None:
    """However rare deviations are, a run as long as the earlier ones has one at least."""
    model = beside(*several("actor", 3, lambda _: points(9, "point")))
    least = min(
        len(deviations_of(ran(model, Straying(Random(seed), 1 / 64, 11)).steps))
        for seed in range(500)
    )
    assert least == 1


def test_straying_runs_deviate_at_their_rate() -> None:
    """Deviations are as frequent as the rate says, within 5 %, and even among the others."""
    drawn = 100_000
    for rate in (1 / 2, 1 / 8, 1 / 64):
        strategy = Straying(Random(0), rate, 64)
        counts = Counter(strategy.choose(n, THREE) for n in range(drawn))
        assert counts[1] + counts[2] == pytest.approx(drawn * rate, rel=0.05)
        assert counts[1] == pytest.approx(counts[2], rel=0.1)


def test_mixed_draws_in_three_ways() -> None:
    """Of the runs of ``mixed``, a third each chooses evenly, by priorities, and strays."""
    ways = Counter(type(mixed(Random(seed), Lengths(50, 40))) for seed in range(3_000))
    assert {way: round(count / 1_000, 1) for way, count in ways.items()} == {
        Evenly: 1.0,
        Priorities: 1.0,
        Straying: 1.0,
    }


# -- priorities


@pytest.mark.parametrize(
    ("race", "depth", "actors", "steps", "on_loop"),
    [
        pytest.param(last_wholly_first(), 1, 3, 8, False, id="1 on threads"),
        pytest.param(last_wholly_first(), 1, 3, 10, True, id="1 on a loop"),
        pytest.param(deep_window(5), 2, 2, 14, False, id="2 on threads"),
        pytest.param(deep_window(5), 2, 2, 15, True, id="2 on a loop"),
        pytest.param(to_and_fro(1), 3, 2, 6, False, id="3 on threads"),
        pytest.param(to_and_fro(1), 3, 2, 7, True, id="3 on a loop"),
        # Here a later change must go less low than an earlier one.
        pytest.param(nested(), 4, 3, 3, False, id="4 on threads"),
    ],
)
def test_pct_finds_races_as_often_as_it_promises(
    race: Model, depth: int, actors: int, steps: int, on_loop: bool
) -> None:
    """Of n actors with k steps, a race of depth d is hit in 1 of n * k**(d - 1) runs at least.

    Less by three standard deviations at most, since runs are drawn.
    """
    runs = 3_000
    promised = runs / (actors * steps ** (depth - 1))
    least = promised - 3 * promised**0.5
    drawn = (Priorities(Random(seed), depth, steps) for seed in range(runs))
    failed = sum(ran(race, strategy, on_loop=on_loop).failed for strategy in drawn)
    assert 0 < least <= failed


def test_pct_needs_the_depth() -> None:
    """With one change less than it takes, no run hits the race."""
    assert not any(ran(to_and_fro(1), Priorities(Random(seed), 2, 6)).failed for seed in range(500))


def test_changes_happen_where_someone_is_preempted() -> None:
    """With as many changes as steps that preempt, the current actor loses at each of them."""
    strategy = Priorities(Random(0), 11, 10)
    start = Step("start", "", ("a", "b"), preempts=False, chosen=0)
    assert [strategy.choose(n, start) for n in range(50)] in (
        [0] * 50,
        [1] * 50,
    )
    steps = [THREE._replace(options=(f"a{n}", f"b{n}")) for n in range(10)]
    chosen = [strategy.choose(n, step) for n, step in enumerate(steps)]
    assert chosen == [1] * 10


def test_an_actor_that_waits_for_others_steps_back() -> None:
    """An actor of high priority that polls for one of low priority lets it run in the end."""

    def poll(state: State) -> Body:
        while "set" not in state.values:
            yield from points(1, "poll")

    def put(state: State) -> Body:
        yield Until(lambda: True)
        state.values["set"] = True

    model = beside(("poll#1", poll), ("put#1", put))
    longest = max(len(ran(model, Priorities(Random(seed), 1, 9)).steps) for seed in range(20))
    assert 1_000 <= longest <= 1_002


# -- orders


def waits(others: int, seed: int, *, on_loop: bool) -> bool:
    """Return whether the one event of an actor came after so many of another one."""
    seen: list[str] = []

    def one(_: State) -> Body:
        seen.append("one")
        yield from ()

    def many(_: State) -> Body:
        for number in range(others):
            yield from points(min(number, 1), f"point {number}")
            seen.append("many")

    actors = beside(("one#1", one), ("many#1", many))
    ran(actors, Orders(Random(seed)), on_loop=on_loop)
    return seen[-1] == "one"


@pytest.mark.extended("time")
@pytest.mark.parametrize("on_loop", [False, True])
def test_pos_delays_an_event_as_often_as_it_promises(on_loop: bool) -> None:
    """An event waits for k others in one of k + 1 runs, within four standard deviations."""
    others, runs = 7, 4_000
    found = sum(waits(others, seed, on_loop=on_loop) for seed in range(runs))
    chance = 1 / (others + 1)
    assert abs(found - runs * chance) < 4 * (runs * chance * (1 - chance)) ** 0.5


@pytest.mark.extended("time")
def test_pos_draws_anew_what_may_race() -> None:
    """An event that others at its point have passed once is drawn as evenly as they are again."""
    step = Step("line", "x", ("b", "a"), preempts=True, chosen=0)
    again = step._replace(options=("a", "b"))
    strategies = [Orders(Random(seed)) for seed in range(6_000)]
    # The lower one of two stays at the point, and then waits for four events there.
    passed = [strategy for strategy in strategies if strategy.choose(0, step) == 1]
    waited = [one for one in passed if not any(one.choose(n, again) for n in range(1, 5))]
    # Not 1 / 3, as if it kept what it has drawn at first.
    assert len(waited) / len(passed) == pytest.approx(2 / 3 / 2**3, rel=0.2)


@pytest.mark.extended("time")
def test_pos_draws_nothing_anew_that_cannot_race() -> None:
    """Who has gone on stands at no point any more, and no step of a loop does: it waits as others.

    It waits for four events in one of 5 cases, within four standard deviations.
    """
    passing = Step("line", "x", ("b", "a"), preempts=True, chosen=0)
    turn = passing._replace(kind="await", preempts=False)
    on_threads = [Orders(Random(seed)) for seed in range(8_000)]
    gone_on = [
        one for one in on_threads if one.choose(0, passing._replace(options=("a", "c"))) == 0
    ]
    on_loops = [Orders(Random(seed)) for seed in range(4_000)]
    # Whichever of the two steps of the loop comes next by default.
    turns = [turn, turn._replace(options=("a", "b"))] * 2
    for strategies, steps in ((gone_on, [passing] * 4), (on_loops, turns)):
        waited = sum(waits_for_b(one, steps) for one in strategies)
        runs = len(strategies)
        assert abs(waited - runs / 5) < 4 * (runs * 1 / 5 * 4 / 5) ** 0.5


def waits_for_b(strategy: Orders, steps: list[Step]) -> bool:
    """Return whether b comes first at all of some steps."""
    return all(step.options[strategy.choose(n, step)] == "b" for n, step in enumerate(steps, 1))
