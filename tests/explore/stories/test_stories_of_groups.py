"""Stories of runs that fail with a group of errors."""

from __future__ import annotations

import pytest

from tests.explore.sessions import run

GROUP = """
import asyncio
import pytest

@pytest.mark.interleave(level="framework", seeds=20)
async def test_sale(asyncframe):
    left = {"n": 1}
    async def buy(late):
        for _ in range(late):
            await asyncio.sleep(0)
        if left["n"]:
            await asyncio.sleep(0)
            left["n"] -= 1
            assert left["n"] == 0
    async def watch():
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise ValueError("it still watches")
    async with asyncio.TaskGroup() as group:
        group.create_task(buy(0))
        group.create_task(buy(4))
        group.create_task(watch())
"""


def test_the_line_of_the_first_error_in_a_group_is_told(pytester: pytest.Pytester) -> None:
    """A story ends at the line of the first error, and not at that of the group."""
    result = run(pytester, GROUP)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ['  it fails at `assert left[[]"n"[]] == 0` (test_it.py:13): ExceptionGroup: *(2 sub-*)*']
    )
