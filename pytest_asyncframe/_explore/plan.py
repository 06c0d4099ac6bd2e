"""The marker ``interleave``: what is explored of a test, with checks of its values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import pytest

from pytest_asyncframe._explore.points.levels import LEVELS, Level
from pytest_asyncframe._explore.points.packages import explored_packages
from pytest_asyncframe._explore.policies.by_name import base_seed, make_policy
from pytest_asyncframe._explore.replay import ReplayLine, ReplayLineError, decode, node_sum
from pytest_asyncframe._toolkit import items
from pytest_asyncframe._toolkit.options import Settings, require_keywords

_EXPLORED = ("auto", "seeded")
"""The modes in which one thread runs at a time and tasks start by themselves."""

_KEYWORDS = ("seeds", "policy", "level")
_MARKERS_ONLY = ("faults", "races", "benign")

_BENCHMARKS = frozenset({"benchmark", "task_benchmark"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is explored of one test.

    Attributes:
        seeds: How many schedules are run at the most, from 1.
        policy: Which ones; see `make_policy`.
        level: At which locations others may run; "auto" for few at first, and for more of them with
            the runs that are left.
        seed: The base seed of the policy, of jitter and of `random`.
        budget: Real seconds after which no further schedule is run; None for no limit.
        limit: Real seconds that the test may take in all by pytest-timeout; None for no limit.
        twice: Whether each schedule is run twice, to see whether the runs are the same.
        faults: Whether faults are choices too.
        races: Whether accesses fail the test that nothing orders.
        benign: The names of those that do not.
        line: The one schedule that is run instead of those of the policy; None for none.
    """

    seeds: int = 200
    policy: str = "delays"
    level: Level | Literal["auto"] = "auto"
    seed: int = 0
    budget: float | None = None
    limit: float | None = None
    twice: bool = False
    faults: bool = False
    races: bool = False
    benign: Collection[str] = ()
    line: ReplayLine | None = None

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels at which schedules are run, one after the other.

        Who asks for all schedules wants a proof, which is of one level, and ends.
        """
        if self.level != "auto":
            return (self.level,)
        return _AUTO[:1] if self.policy.startswith("exhaustive") else _AUTO


_AUTO: Final[tuple[Level, ...]] = ("framework", "locks", "line")


def plan_of(config: pytest.Config) -> Plan:
    """Return the plan of the ini file and the command line, for tests whose marker is empty.

    Raises:
        pytest.UsageError: If a value is not allowed.
    """
    seeds, budget = config.getoption("asyncframe_seeds"), config.getoption("asyncframe_budget")
    if seeds is not None and seeds < 1:
        raise pytest.UsageError(f"--asyncframe-seeds={seeds}: it must be a whole number from 1 on")
    if budget is not None and not 0 < budget < float("inf"):
        raise pytest.UsageError(
            f"--asyncframe-budget={budget:g}: it must be a number of seconds above 0"
        )
    given = {key: config.getini(f"asyncframe_{key}") for key in _KEYWORDS}
    written = {key: value for key, value in given.items() if value}
    text = written.get("seeds")
    if text is not None and text.isdecimal():
        written["seeds"] = int(text)
    for key, value in written.items():
        _check(key, value, f"asyncframe_{key} = {given[key]!r} in the ini file")
    explored_packages(config)
    twice = config.getoption("asyncframe_check_determinism")
    return replace(Plan(budget=budget, twice=twice, line=line_of(config)), **written)


def line_of(config: pytest.Config) -> ReplayLine | None:
    """Return the replay line of the command line; None if there is none.

    Raises:
        pytest.UsageError: If it is damaged, or is none for this version.
    """
    text = config.getoption("asyncframe_replay")
    if text is None:
        return None
    try:
        return decode(text)
    except ReplayLineError as error:
        raise pytest.UsageError(f"--asyncframe-replay: {error}") from None


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the test of the replay line alone: the only explored one, or the one of its name.

    Args:
        config: The configuration.
        items: The collected tests, which are changed.

    Raises:
        pytest.UsageError: If that test was not collected.
    """
    line = line_of(config)
    if line is None:
        return
    explored = [one for one in items if one.get_closest_marker("interleave") is not None]
    found = [one for one in explored if node_sum(one.nodeid) == line.node]
    if not found and len(explored) == 1:
        # It was renamed or moved. Whether it is the same is checked at each choice.
        found = explored
    if len(found) != 1:
        raise pytest.UsageError(
            f"--asyncframe-replay: {len(explored)} tests marked with interleave were collected, "
            "and the replay line is of none of them: name the test on the command line, as the "
            "failure printed it"
        )
    config.hook.pytest_deselected(items=[one for one in items if one is not found[0]])
    items[:] = found


def plan_for(item: pytest.Item, settings: Settings, asked: Collection[str]) -> Plan | None:
    """Return what is explored of a test, whose closest marker wins for each keyword.

    Args:
        item: The test.
        settings: Its settings.
        asked: The fixtures of asyncframe that it requests.

    Returns:
        None if the marker leaves the test out.

    Raises:
        pytest.UsageError: If a marker has a keyword or a value that is not allowed, or the
            test cannot be explored.
    """
    measured = _BENCHMARKS & set(getattr(item, "fixturenames", ()))
    asks = "asyncframe" in asked and not measured
    if not items.applies(item, "interleave", asks=asks, fits=settings.mode in _EXPLORED):
        return None
    plan = plan_of(item.config)
    for marker in reversed(list(item.iter_markers("interleave"))):
        plan = replace(plan, **_checked(marker))
    seeds, line = item.config.getoption("asyncframe_seeds"), plan.line
    limit = _time_limit(item)
    if limit is not None:
        until = limit * _OF_TIME_LIMIT
        plan = replace(plan, budget=min(plan.budget or until, until), limit=limit)
    _check_test(item, settings, asked, measured)
    if line is not None:
        return replace(plan, level=cast("Level", line.level), seed=line.seed)
    return replace(
        plan,
        seeds=plan.seeds if seeds is None else seeds,
        seed=base_seed(item.nodeid, settings.seed),
    )


_OF_TIME_LIMIT = 0.8
"""The part of a time limit after which no schedule is started: the last ones may be slow."""


def _time_limit(item: pytest.Item) -> float | None:
    """Return how long a test may take in all by pytest-timeout; None for no limit."""
    plugin = item.config.pluginmanager.get_plugin("timeout")
    settings_of = getattr(plugin, "_get_item_settings", None)
    if settings_of is None:
        return None
    found = settings_of(item)
    if not found.timeout or found.func_only:
        return None
    return float(found.timeout)


def _checked(marker: pytest.Mark) -> Mapping[str, Any]:
    require_keywords(marker, ", ".join((*_KEYWORDS, *_MARKERS_ONLY)))
    for keyword, value in marker.kwargs.items():
        _check(keyword, value, f"@pytest.mark.interleave({keyword}={value!r})")
    return marker.kwargs


def _check(keyword: str, value: Any, given: str) -> None:  # Any: whatever a user wrote
    if keyword == "seeds":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise pytest.UsageError(f"{given}: seeds must be a whole number from 1 on")
    elif keyword == "benign":
        if not isinstance(value, (list, tuple, set)) or not all(type(one) is str for one in value):
            raise pytest.UsageError(
                f"{given}: benign must be a list of names, as the report of a race has them"
            )
    elif keyword in _MARKERS_ONLY:
        if not isinstance(value, bool):
            raise pytest.UsageError(f"{given}: {keyword} must be True or False")
    elif keyword == "level":
        if value not in ("auto", *LEVELS):
            raise pytest.UsageError(f"{given}: level must be one of auto, {', '.join(LEVELS)}")
    else:
        try:
            make_policy(str(value), 0)
        except ValueError as error:
            raise pytest.UsageError(f"{given}: {error}") from None


def _check_test(
    item: pytest.Item, settings: Settings, asked: Collection[str], measured: Collection[str]
) -> None:
    if "asyncframe" not in asked:
        raise pytest.UsageError(
            f"{item.name} is marked with interleave, which needs the fixture asyncframe: request "
            "asyncframe, or remove the marker"
        )
    if measured:
        raise pytest.UsageError(
            f"{item.name} is marked with interleave and requests {min(measured)}, but a benchmark "
            "measures one order, that of real time: remove one of them"
        )
    if settings.mode not in _EXPLORED:
        raise pytest.UsageError(
            f"{item.name} is marked with interleave, which chooses what runs next, but its mode "
            f"is {settings.mode!r}: use the mode 'auto' or 'seeded', or remove the marker"
        )
