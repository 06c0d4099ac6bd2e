"""What runs without a failure prove, in words."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pytest_asyncframe._explore.policies.search import Search

Unit: TypeAlias = Literal["deviation", "preemption"]


def proof_of_search(search: Search, runs: int, unit: Unit, part: str = "") -> str:
    """Say what *runs* runs without a failure prove.

    Args:
        search: The schedules that have run, and those that are left.
        runs: How many runs there were.
        unit: What the levels of the search count.
        part: What is said of the schedules of incomplete levels, in brackets.
    """
    if search.diverged:
        return (
            f"{counted(runs, 'run')} without a failure, {search.diverged} of which did not follow "
            "the schedule that was planned"
        )
    if not search.ran:
        return "no schedule was run"
    complete, level = search.complete()
    if not complete:
        return f"{counted(search.ran, 'schedule')} without a {unit}, none fails; there are more"
    ended = search.level is None
    known = _known(complete, "" if ended and not search.cut else _up_to(level, unit), unit)
    others = search.ran - complete
    if others:
        return f"{known}, and {counted(others, 'other')}{part}, none fails"
    return f"{known} does not fail" if complete == 1 else f"{known}, none fails"


def _known(complete: int, bound: str, unit: Unit) -> str:
    if complete > 1:
        return f"all {complete} schedules{bound}"
    # The one without a deviation is there in every test.
    return "the default schedule" if bound and unit == "deviation" else f"the only schedule{bound}"


def _up_to(most: int, unit: Unit) -> str:
    return f" with up to {counted(most, unit)}" if most else f" without a {unit}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number and what it counts.

    Args:
        number: The number.
        one: The word for one of them.
        several: The word for several; None for the same with an "s".
    """
    return f"{number} {one if number == 1 else several or f'{one}s'}"
