"""Races as they are in apps: the default finds each of them, and none in its cured twin."""

from __future__ import annotations

import re
from pathlib import Path

# Each run of pytest inside this one would import them again, and then mix old and new classes.
import anyio._backends._asyncio  # noqa: F401
import pytest
import sqlalchemy.orm  # noqa: F401

from tests.explore.sessions import PLAIN

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

FIELD = Path(__file__).parents[1] / "field"

MISSED: dict[str, list[str]] = {
    "apps": [],
    # It fails whenever its timeout comes early, and so is taken for a test that expects none.
    "coroutines": ["test_asked_again_too_early[racy]"],
    "threads": [],
    "timeouts": [],
}
"""The files, with the races that are not found."""


def run(
    pytester: pytest.Pytester, name: str, tests: str, seed: int = 0, **settings: object
) -> pytest.RunResult:
    """Run tests of a file of the field, each with what the default is.

    Args:
        pytester: Its folder is used.
        name: The file.
        tests: Which of its tests.
        seed: Of the session.
        settings: Options of the ini file, such as how many runs.
    """
    options = "".join(f"asyncframe_{option} = {value}\n" for option, value in settings.items())
    pytester.makeini(f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{options}")
    (pytester.path / f"{name}.py").write_text((FIELD / f"{name}.py").read_text("utf-8"))
    given = (*PLAIN, "-p", "no:randomly", "-k", tests, f"--asyncframe-seed={seed}")
    return pytester.runpytest_inprocess(*given, "-v", f"{name}.py")


def not_found(result: pytest.RunResult) -> list[str]:
    """Return the tests that passed; that the others fail by their race is what their twins show."""
    assert set(result.parseoutcomes()) <= {"passed", "failed", "deselected"}
    return re.findall(r"::(\S+) PASSED", "\n".join(result.outlines))


@pytest.mark.parametrize("name", MISSED)
def test_the_races_are_found(pytester: pytest.Pytester, name: str) -> None:
    """Each race but one fails within 200 runs."""
    assert not_found(run(pytester, name, "racy")) == MISSED[name]


@pytest.mark.parametrize("name", MISSED)
def test_the_cured_pass(pytester: pytest.Pytester, name: str) -> None:
    """No twin fails in 8 runs."""
    result = run(pytester, name, "cured", seeds=8)
    assert set(result.parseoutcomes()) == {"passed", "deselected"}


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", MISSED)
def test_the_races_are_found_with_other_seeds(
    pytester: pytest.Pytester, name: str, seed: int
) -> None:
    """The seed of the session does not matter."""
    assert not_found(run(pytester, name, "racy", seed)) == MISSED[name]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MISSED)
def test_the_cured_pass_1000_runs(pytester: pytest.Pytester, name: str) -> None:
    """No twin fails in 1,000 runs."""
    result = run(pytester, name, "cured", seeds=1_000)
    assert set(result.parseoutcomes()) == {"passed", "deselected"}
