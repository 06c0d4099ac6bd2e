"""Memory stays bounded however many tasks run; each case is measured in a fresh process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.children import python

PROGRAM = "tests.framework.apps.many"


def measure(what: str, *numbers: int, patience: float = 200.0) -> dict[str, Any]:
    """Run the program and return its figures; ``grown`` is in millions of bytes."""
    done = python("-m", PROGRAM, what, *map(str, numbers), patience=patience)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.extended("processes")
@pytest.mark.timeout(240)
def test_finished_tasks_cost_nothing_once_as_many_are_kept_as_may_be() -> None:
    """Of 200,000 tasks whose results nobody reads, the last two thirds add less than 5 MB."""
    figures = measure("finished", 200_000, 20_000)
    assert figures["completed"] == 200_000
    # The oldest 128th goes at once.
    assert 20_000 - 20_000 // 128 <= figures["kept"] <= 20_000
    assert figures["grown"] < 5


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_million_finished_tasks_stay_bounded_at_the_default_retention() -> None:
    """Of 1,000,000 tasks whose results nobody reads, the last two thirds add less than 5 MB."""
    figures = measure("finished", 1_000_000, 100_000, patience=500.0)
    assert figures["completed"] == 1_000_000
    assert figures["kept"] == 100_000
    assert figures["grown"] < 5


@pytest.mark.extended("processes")
@pytest.mark.timeout(240)
def test_failures_do_not_keep_their_locals() -> None:
    """Keeping 2,000 failures, each with a local variable of 1 MB, adds less than 30 MB."""
    figures = measure("failed", 2_000)
    assert figures["failed"] == figures["kept"] == 2_020
    assert figures["grown"] < 30


@pytest.mark.extended("processes")
@pytest.mark.timeout(240)
def test_a_full_queue_refuses_and_does_not_grow() -> None:
    """With every thread stuck, a full queue of 1,000 refuses 100,000 more and adds under 20 MB."""
    figures = measure("refused", 100_000)
    assert figures["pending"] == 1_000
    assert figures["rejected"] == 100_000
    assert figures["grown"] < 20
