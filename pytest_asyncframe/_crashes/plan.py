"""The marker ``crash_points``: at which points a test's process dies, with checks of its values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pytest_asyncframe._toolkit import items
from pytest_asyncframe._toolkit.options import Settings, require_keywords

MOST_DEPTH = 2
"""How many deaths a run may have."""

_KEYWORDS = "depth, most"
_MODE = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is searched of one test.

    Attributes:
        depth: How many times the process dies in a run at most, 1 or 2.
        most: How many runs there are at most, from 1.
        deaths: The points of the one run that is made instead; () for all.
    """

    depth: int = 1
    most: int = 1_000
    deaths: tuple[str, ...] = ()


def plan_for(item: pytest.Item, settings: Settings, asked: Collection[str]) -> Plan | None:
    """Return what is searched of a test, whose closest marker wins for each keyword.

    Returns:
        None if the marker leaves the test out.

    Raises:
        pytest.UsageError: If a marker has a keyword or a value that is not allowed, or the
            process of the test cannot die.
    """
    fits = settings.mode == _MODE
    if not items.applies(item, "crash_points", asks="asyncframe" in asked, fits=fits):
        return None
    plan = Plan()
    for marker in reversed(list(item.iter_markers("crash_points"))):
        require_keywords(marker, _KEYWORDS)
        for keyword, value in marker.kwargs.items():
            _check(keyword, value)
        plan = replace(plan, **marker.kwargs)
    _check_test(item, settings, asked)
    given: list[str] | None = item.config.getoption("asyncframe_crash")
    return plan if not given else replace(plan, deaths=tuple(given))


def _check(keyword: str, value: Any) -> None:  # Any: whatever a user wrote
    given = f"@pytest.mark.crash_points({keyword}={value!r})"
    most = MOST_DEPTH if keyword == "depth" else None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or value < 1 or (most is not None and value > most):
        allowed = "from 1 on" if most is None else f"from 1 to {most}"
        raise pytest.UsageError(f"{given}: {keyword} must be a whole number {allowed}")


def _check_test(item: pytest.Item, settings: Settings, asked: Collection[str]) -> None:
    if "asyncframe" not in asked:
        raise pytest.UsageError(
            f"{item.name} is marked with crash_points, which needs the fixture asyncframe: request "
            "asyncframe, or remove the marker"
        )
    if "task_faults" in asked:
        raise pytest.UsageError(
            f"{item.name} is marked with crash_points and requests task_faults, whose faults are "
            "those of one process: remove one of them"
        )
    if settings.mode != _MODE:
        raise pytest.UsageError(
            f"{item.name} is marked with crash_points, whose runs must be the same up to the "
            f"crash, but its mode is {settings.mode!r}: use the mode {_MODE!r}, or remove the "
            "marker"
        )
    if items.closeness(item, "task_modes") == items.closeness(item, "crash_points"):
        raise pytest.UsageError(
            f"{item.name} has the markers crash_points and task_modes side by side: remove one of "
            "them"
        )
