"""The error of a failed test: its traceback and its notes."""

from __future__ import annotations

import re

import pytest

from tests.plugin.endings import PLAIN

SOURCE = """
    from framework import background_task
    @background_task
    def pays(amount):
        raise ValueError(amount)
    async def test_pays(task_manager):
        await task_manager.get_result(await task_manager.submit(pays, (7,)))
    async def test_unknown(task_manager):
        await task_manager.get_result("nobody")
    async def test_other_words(task_manager):
        pays.delay(7)
    def test_without_a_fixture():
        pays.delay(7)
"""


@pytest.mark.parametrize("whole", [False, True], ids=["short", "whole"])
def test_an_error_leads_from_the_test_to_the_task(pytester: pytest.Pytester, whole: bool) -> None:
    """Frames of this project are shown where an error was raised, and between others if asked."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(test_it=SOURCE)
    options = ("--full-trace",) if whole else ()
    text = "\n".join(pytester.runpytest_inprocess(*PLAIN, *options).outlines)
    _, pays, unknown, *other_words = re.split(r"^_+ test_\w+ _+$", text, flags=re.MULTILINE)

    files = re.findall(r"(\w+)\.py:\d+: ", pays)
    if whole:
        assert {"runner", "results", "test_it"} <= {*files}
    else:
        assert files == ["test_it", "test_it"]
    assert re.search(r"results\.py:\d+: TaskNotFoundError$", unknown, re.MULTILINE)
    assert len(other_words) == 2
    for one in other_words:
        assert "\nE       call the function itself: pays(...); with options: " in one
