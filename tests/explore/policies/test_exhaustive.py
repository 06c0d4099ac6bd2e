"""The policy ``exhaustive`` runs each schedule once, and counts as an oracle does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_asyncframe._explore.policies import search
from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.schedule import Policy
from tests.explore.policies.models import Body, Model, Point, Ran, State, Until, explored, ran
from tests.explore.policies.races import Actor, beside, lost_update, points, several

TOO_MANY = 400
small = settings(max_examples=200)

# What an actor does in one atomic step: something, or taking or giving back a lock.
STEPS = ["step", "take a", "take b", "give a", "give b"]
# To start is a step of its own.
script = st.lists(st.sampled_from(STEPS), max_size=3).map(lambda steps: ["step", *steps])
scripts = st.lists(script, min_size=2, max_size=3)


# -- the oracle


def schedules(scripts: Sequence[Sequence[str]]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Return the order of the steps of each possible schedule, and how often it preempts."""
    yield from _continued(scripts, (), (0,) * len(scripts), 0)


def _continued(
    scripts: Sequence[Sequence[str]], order: tuple[int, ...], at: tuple[int, ...], preemptions: int
) -> Iterator[tuple[tuple[int, ...], int]]:
    able = [one for one in range(len(scripts)) if _is_able(scripts, order, one, at[one])]
    if not able:
        yield order, preemptions
    for one in able:
        moved = tuple(place + (number == one) for number, place in enumerate(at))
        preempts = bool(order) and order[-1] != one and _goes_on(scripts[order[-1]], at[order[-1]])
        yield from _continued(scripts, (*order, one), moved, preemptions + preempts)


def _is_able(scripts: Sequence[Sequence[str]], order: Sequence[int], one: int, place: int) -> bool:
    if place == len(scripts[one]):
        return False
    verb, _, lock = scripts[one][place].partition(" ")
    return verb != "take" or not _is_taken(scripts, order, lock)


def _is_taken(scripts: Sequence[Sequence[str]], order: Sequence[int], lock: str) -> bool:
    taken = False
    done: Counter[int] = Counter()
    for one in order:
        verb, _, of = scripts[one][done[one]].partition(" ")
        if of == lock:
            taken = verb == "take"
        done[one] += 1
    return taken


def _goes_on(script: Sequence[str], place: int) -> bool:
    """Whether an actor stands at a point, where it does not wait for a lock."""
    return place < len(script) and not script[place].startswith("take")


# -- the same as a model


def scripted(scripts: Sequence[Sequence[str]], orders: list[tuple[int, ...]]) -> Model:
    """Return actors that take the steps of scripts, and tell in which order they did."""

    def test(state: State) -> Body:
        order: list[int] = []
        for number in range(len(scripts)):
            state.start(f"actor#{number}", actor(number, order))
        yield Until(lambda: _is_over(scripts, tuple(order)))
        orders.append(tuple(order))

    def actor(number: int, order: list[int]) -> Actor:
        def body(_: State) -> Body:
            for step in scripts[number]:
                if step.startswith("take"):
                    yield Until(partial(_is_free, scripts, order, step[5:]))
                elif number in order:
                    yield Point("line", step)
                order.append(number)

        return body

    return test


def _is_free(scripts: Sequence[Sequence[str]], order: Sequence[int], lock: str) -> bool:
    return not _is_taken(scripts, order, lock)


def _is_over(scripts: Sequence[Sequence[str]], order: Sequence[int]) -> bool:
    """Whether all steps were taken, or all that are left wait for locks."""
    return not any(_is_able(scripts, order, n, order.count(n)) for n in range(len(scripts)))


def all_runs(model: Model, policy: Policy) -> list[Ran]:
    """Run all schedules of a policy."""
    return list(explored(model, policy, most=20 * TOO_MANY))


@pytest.mark.extended("time")
@small
@given(scripts, st.none() | st.integers(0, 3))
def test_each_schedule_runs_once(scripts: list[list[str]], most: int | None) -> None:
    """The orders of steps are those of the oracle with as few preemptions, each of them once."""
    expected = list(islice(schedules(scripts), TOO_MANY))
    if len(expected) == TOO_MANY:
        return
    orders: list[tuple[int, ...]] = []
    policy = make_policy("exhaustive" if most is None else f"exhaustive:{most}", 0)
    all_runs(scripted(scripts, orders), policy)
    assert sorted(orders) == sorted(
        order for order, preemptions in expected if most is None or preemptions <= most
    )


def equal_actors(number: int, steps: int) -> Model:
    """Return actors that take so many atomic steps each."""
    return beside(*several("actor", number, lambda _: points(steps - 1, "point")))


COUNTS = {
    (1, 4, "exhaustive"): 1,
    (2, 3, "exhaustive"): 20,  # 6! / (3! * 3!)
    (3, 2, "exhaustive"): 90,  # 6! / (2! * 2! * 2!)
    (2, 3, "exhaustive:0"): 2,
    (2, 3, "exhaustive:1"): 6,
    (5, 1, "exhaustive:0"): 120,
    (3, 2, "exhaustive:9"): 90,
}
"""How many schedules there are for so many actors with so many steps each, under a policy."""


def test_known_numbers_of_schedules() -> None:
    """The number of schedules is that of a formula, or counted by hand."""
    found = {
        (number, steps, policy): len(all_runs(equal_actors(number, steps), make_policy(policy, 0)))
        for number, steps, policy in COUNTS
    }
    assert found == COUNTS


def test_fewer_preemptions_come_first() -> None:
    """No schedule runs before one with fewer preemptions."""
    runs = all_runs(equal_actors(3, 2), make_policy("exhaustive", 0))
    preemptions = [sum(step.preempted for step in run.steps) for run in runs]
    assert preemptions == sorted(preemptions)
    assert preemptions[-1] == 3


WORDS = {
    (1, 4, "exhaustive:2", 9): "the only schedule",
    (2, 1, "exhaustive:2", 9): "all 2 schedules",
    (2, 3, "exhaustive:1", 9): "all 6 schedules with up to 1 preemption",
    (2, 3, "exhaustive:0", 9): "all 2 schedules without a preemption",
    (2, 3, "exhaustive", 20): "all 20 schedules",
    (2, 3, "exhaustive:2", 1): "1 schedule without a preemption (there are more)",
    (5, 1, "exhaustive", 7): "7 schedules without a preemption (there are more)",
    (2, 3, "exhaustive", 10): "all 6 schedules with up to 1 preemption, and 4 others",
    (2, 3, "exhaustive:2", 7): "all 6 schedules with up to 1 preemption, and 1 other",
}
"""What is said of so many actors with so many steps, under a policy, after so many runs."""


def test_the_words_of_a_pass() -> None:
    """A pass says which schedules have run: all, all up to a bound, or how many of more."""
    found = {}
    for number, steps, policy, most in WORDS:
        made = make_policy(policy, 0)
        runs = list(explored(equal_actors(number, steps), made, most))
        found[number, steps, policy, most] = made.claim(len(runs))
    assert found == WORDS


def test_all_failing_schedules_are_found() -> None:
    """Of 20 interleavings of two increments, those fail in which both read before one writes."""
    runs = all_runs(lost_update(before=0), make_policy("exhaustive", 0))
    assert (len(runs), sum(run.failed for run in runs)) == (20, 12)


def restless() -> Model:
    """Return a test whose places have other names in each run."""
    runs = [0]

    def actor(_: State) -> Body:
        yield from points(2, f"run {runs[0]}")

    def test(state: State) -> Body:
        runs[0] += 1
        yield from beside(*several("actor", 2, actor))(state)

    return test


def test_runs_that_do_not_repeat_are_counted() -> None:
    """A run that comes to other choices than the one it continues has diverged; that ends well."""
    policy = make_policy("exhaustive", 0)
    runs = all_runs(restless(), policy)
    # Only those can be followed that deviate at the first choice or at the first point.
    assert len(runs) == 10
    assert policy.claim(len(runs)) == (
        "10 runs, 6 of which did not follow the schedule that was planned"
    )


def test_what_is_not_kept_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many schedules to keep, the words tell only of levels that are complete."""
    monkeypatch.setattr(search, "_MOST_WAITING", 4)
    policy = make_policy("exhaustive", 0)
    runs = all_runs(equal_actors(3, 3), policy)
    assert len(runs) == 32  # of 9! / (3! * 3! * 3!)
    assert policy.claim(len(runs)) == "all 6 schedules without a preemption, and 26 others"


def test_a_run_that_does_not_end_is_counted() -> None:
    """A schedule that was handed out, but never reported, is not claimed to have run."""
    policy = make_policy("exhaustive", 0)
    model = equal_actors(2, 2)
    default = policy.next()
    assert default is not None
    policy.ended(ran(model, default).steps)
    policy.next()
    # Of all 6, those 3 are left out in which the second actor comes first.
    assert len(list(explored(model, policy))) == 2
    assert policy.claim(3) == ("3 runs, 1 of which did not follow the schedule that was planned")
