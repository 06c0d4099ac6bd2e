"""Policies by name: what they draw, which schedules they run first, and what they prove."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from pytest_asyncframe._explore.policies import base_seed, make_policy
from pytest_asyncframe._explore.random_policies import Evenly

EVERY = ["delays", "mixed", "random", "pct:1", "pct:3", "exhaustive:0", "exhaustive"]


@pytest.mark.parametrize("text", ["", "Delays", "pct", "pct:0", "pct:-1", "exhaustive:", "pct:3 "])
def test_an_unknown_policy_is_refused(text: str) -> None:
    """A name that is no policy, or a number out of range, is an error that lists all of them."""
    message = (
        f"policy {text!r}: it must be one of delays, mixed, random, pct:d (such as pct:3; d is "
        "how many events must come in one order, 1 or more), exhaustive:b (such as exhaustive:2; "
        "b is the most preemptions, 0 or more) and exhaustive"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_policy(text, 0)


@pytest.mark.parametrize("text", EVERY)
def test_the_first_schedule_is_the_default_one(text: str) -> None:
    """The first run of each policy takes the default at each step."""
    strategy = make_policy(text, 0).next()
    assert strategy is not None
    chosen = {strategy.choose(n, "line", "", "abc", n % 2 == 0) for n in range(1_000)}
    assert chosen == {0}


def test_the_base_seed_is_stable() -> None:
    """The seed of a test depends on its node id and the session's seed, not on the process."""
    assert base_seed("tests/test_a.py::test_b", 0) == 2246128905648694926
    assert base_seed("tests/test_a.py::test_b", 1) != base_seed("tests/test_a.py::test_b", 0)


def test_random_is_uniform() -> None:
    """Of 3 options, each is taken as often as the others: chi-square below its 99.9 % point."""
    strategy = Evenly(Random(0))
    drawn = 30_000
    counts = Counter(strategy.choose(n, "line", "", "abc", True) for n in range(drawn))
    expected = drawn / 3
    assert sum((counts[i] - expected) ** 2 / expected for i in range(3)) < 13.8
