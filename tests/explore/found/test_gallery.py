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

GALLERY = Path(__file__).parents[1] / "gallery"

PAGE = Path(__file__).parents[3] / "docs" / "testing" / "races.md"

RACES: dict[str, tuple[Level, int]] = {
    "check_then_act": ("framework", 10),
    "oversell_by_async_route": ("framework", 10),
    "oversell_by_def_route": ("framework", 10),
    "oversell_by_test_client": ("framework", 25),
    "oversell_between_lines": ("line", 10),
    "lost_update": ("opcode", 10),
    "lost_update_on_two_lines": ("line", 10),
    "double_checked_start": ("line", 10),
    "locks_in_two_orders": ("locks", 25),
    "order_of_awaits": ("awaits", 10),
    "order_of_tasks": ("tasks", 10),
    "deep_window": ("framework", 25),
    "edge_of_a_throttle": ("framework", 25),
    "retry_beside_its_cancelled_self": ("framework", 150),
}
"""The files in the order of the page, the first level that finds their race, and the most runs."""

LONG = {
    *("oversell_by_test_client", "retry_beside_its_cancelled_self", "deep_window"),
    *("double_checked_start", "locks_in_two_orders", "edge_of_a_throttle", "oversell_by_def_route"),
}
"""Those that take more than half a second to find."""


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


def test_the_page() -> None:
    """The page about the races has the same levels and numbers of runs."""
    rows = re.findall(r"\| `(\w+)` \| (\d+) \|", PAGE.read_text("utf-8"))
    assert [(level, int(most)) for level, most in rows] == list(RACES.values())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.extended("time")) if name in LONG else name
        for name in RACES
    ],
)
def test_a_race_is_found(pytester: pytest.Pytester, name: str) -> None:
    """The default policy finds the race in time, and not in the default order."""
    level, most = RACES[name]
    result = run(pytester, name, tests="racy")

    result.assert_outcomes(failed=1)
    pattern = rf"run (\d+) of at most 200 fails: policy delays, level {level}, seed \d+"
    [found] = [int(one[1]) for line in result.outlines if (one := re.fullmatch(pattern, line))]
    assert 1 <= found <= most
    result.stdout.fnmatch_lines("replay: pytest * --asyncframe-replay=AF2:*")


@pytest.mark.extended("time")
def test_no_cured_race_is_found(pytester: pytest.Pytester) -> None:
    """All twins pass five runs, which stop at their lines; other levels have a longer test."""
    result = run(pytester, *RACES, tests="correct", seeds=5, policy="mixed", level="line")
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
