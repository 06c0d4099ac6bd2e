"""The breakdown of a task's time: every step is made, and the table says of what it is a part."""

from __future__ import annotations

import asyncio
import re

import pytest

from benchmarks import breakdown


def test_every_step_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission, a run and a coroutine are taken apart, into the steps that each has."""
    monkeypatch.setattr(breakdown, "SIZE", 50)

    found = asyncio.run(breakdown.measured(2))

    assert [(next(iter(steps)), len(steps)) for steps in found] == [
        ("a call of a background_task", 7),
        ("a run of a queued task", 6),
        ("an awaited coroutine that is not suspended", 5),
    ]


def test_rest_of_the_whole() -> None:
    """The least of each step counts, and what no step took is the rest."""
    rounds = [{"whole": 9.0, "a": 2.0, "b": 5.0}, {"whole": 10.0, "a": 3.0, "b": 4.0}]

    assert breakdown.best(rounds) == {"whole": 9.0, "a": 2.0, "b": 4.0, breakdown.REST: 3.0}


def test_table() -> None:
    """Steps stand below their whole, in nanoseconds and as shares of it."""
    text = breakdown.as_text([{"a call": 2e-6, "an id": 5e-7}])

    assert re.fullmatch(r"a call +2,000 ns  100%\n  an id +500 ns   25%\n", text)
