"""The gallery: each race in it is found, and its cured twin passes at every level."""

from __future__ import annotations

import re
from pathlib import Path

# Each run of pytest inside this one would import them again, and then mix old and new classes.
import anyio._backends._asyncio  # noqa: F401
import fastapi.testclient  # noqa: F401
import pytest

from pytest_asyncframe._explore.points.levels import LEVELS, Level
from tests.explore.sessions import PLAIN

pytestmark = pytest.mark.usefixtures("untraced")

GALLERY = Path(__file__).with_name("gallery")

RACES: dict[str, Level] = {
    "check_then_act": "framework",
    "deep_window": "framework",
    "double_checked_start": "line",
    "edge_of_a_throttle": "framework",
    "locks_in_two_orders": "locks",
    "lost_update": "opcode",
    "lost_update_on_two_lines": "line",
    "order_of_awaits": "awaits",
    "order_of_tasks": "tasks",
    "oversell_between_lines": "line",
    "oversell_by_async_route": "framework",
    "oversell_by_def_route": "framework",
    "oversell_by_test_client": "framework",
    "retry_beside_its_cancelled_self": "framework",
}
"""The files, and the first level at which their race is found."""


class Marked:
    """A plugin that explores all tests in one way, whatever their markers say."""

    def __init__(self, **settings: object) -> None:
        self._mark = pytest.mark.interleave(**settings)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Add a marker that is closer than the test's own."""
        item.add_marker(self._mark, append=False)


def run(pytester: pytest.Pytester, *names: str, tests: str, **settings: object) -> pytest.RunResult:
    """Run some files of the gallery.

    Args:
        pytester: Its folder is used.
        names: The files.
        tests: Which of their tests.
        settings: Of the marker, instead of those in the files; none to keep these.
    """
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    for name in names:
        (pytester.path / f"{name}.py").write_text((GALLERY / f"{name}.py").read_text("utf-8"))
    plugins = [Marked(**settings)] if settings else []
    files = [f"{name}.py" for name in names]
    options = (*PLAIN, "-p", "no:randomly", "-v", "-k", tests)
    return pytester.runpytest_inprocess(*options, *files, plugins=plugins)


def test_all_races_are_here() -> None:
    """Each file of the gallery is in the table of this module."""
    assert sorted(path.stem for path in GALLERY.glob("*.py")) == sorted(RACES)


@pytest.mark.parametrize(("name", "level"), RACES.items())
def test_a_race_is_found(pytester: pytest.Pytester, name: str, level: Level) -> None:
    """The default policy finds the race within 200 runs, and not in the default order."""
    result = run(pytester, name, tests="racy")

    result.assert_outcomes(failed=1)
    [found] = [line for line in result.outlines if re.match(r"run \d+ of ", line)]
    pattern = rf"run [1-9]\d* of at most 200 fails: policy delays, level {level}, seed \d+"
    assert re.fullmatch(pattern, found)
    result.stdout.fnmatch_lines("replay: pytest * --asyncframe-replay=AF1:*")


@pytest.mark.parametrize("level", LEVELS)
def test_no_cured_race_is_found(pytester: pytest.Pytester, level: Level) -> None:
    """At each level, all twins pass ten runs."""
    result = run(pytester, *RACES, tests="correct", seeds=10, policy="mixed", level=level)
    result.assert_outcomes(passed=len(RACES))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", RACES)
def test_no_cured_race_is_found_in_1000_runs(
    pytester: pytest.Pytester, name: str, level: Level
) -> None:
    """At each level, each twin passes 1,000 runs."""
    result = run(pytester, name, tests="correct", seeds=1_000, policy="mixed", level=level)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*partially controlled*")
