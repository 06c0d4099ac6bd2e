"""Runs of pytest with explored tests, and tests to explore."""

from __future__ import annotations

from textwrap import dedent

import pytest

# Each run of pytest inside this one would import them again.
import framework.testing  # noqa: F401
import pytest_asyncframe._explore.explorer  # noqa: F401
import pytest_asyncframe.probe  # noqa: F401

INI = "asyncio_default_fixture_loop_scope = function"

PLAIN = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider")

REFUSED = ("-p", "no:logging")
"""Further options for runs that end with a usage error: pytest would leave its log file open."""

RACE = """
import pytest
from framework import background_task

@background_task
def buy(stock, manager):
    if stock["left"] > 0:
        manager.get_stats()
        stock["left"] -= 1
        stock["sold"] += 1

@background_task
def reserve(stock, manager):
    manager.get_stats()
    if stock["left"] > 0:
        stock["left"] -= 1
        stock["sold"] += 1

@pytest.fixture
def stock():
    return {"left": 1, "sold": 0}

async def sell(asyncframe, stock, task=buy):
    task(stock, asyncframe.manager)
    task(stock, asyncframe.manager)
    await asyncframe.settled()
    assert stock["sold"] == 1
"""
"""Two purchases of the last piece: `buy` may sell it twice, `reserve` may between two lines."""

RACY = (
    RACE
    + """
@pytest.mark.interleave(seeds=50)
async def test_sale(asyncframe, stock):
    await sell(asyncframe, stock)
"""
)

CORRECT = (
    RACE
    + """
@pytest.mark.interleave(level='framework', seeds=50)
async def test_sale(asyncframe, stock):
    await sell(asyncframe, stock, reserve)
"""
)


def run(
    pytester: pytest.Pytester, source: str, *options: str, ini: str = "", randomly: bool = False
) -> pytest.RunResult:
    """Run the tests in *source*, in this process.

    Args:
        pytester: Its folder is used.
        source: The module ``test_it``.
        options: Further options of pytest.
        ini: Further lines of the ini file.
        randomly: Whether pytest-randomly takes part.
    """
    pytester.makeini(f"[pytest]\n{INI}\n{ini}")
    pytester.makepyfile(test_it=dedent(source))
    chance = () if randomly else ("-p", "no:randomly")
    return pytester.runpytest_inprocess(*PLAIN, *chance, *options)


def replay_line(result: pytest.RunResult) -> str:
    """Return the option that the report of a failure gives for replaying it."""
    for line in result.outlines:
        if line.startswith("replay: pytest "):
            return line.split()[-1]
    raise AssertionError(f"no replay line in:\n{result.stdout}")
