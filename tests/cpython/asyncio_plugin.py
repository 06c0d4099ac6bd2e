"""A pytest plugin by which CPython's asyncio tests run on loops of a virtual clock.

`asyncio_runner.py` loads it. The variable ASYNCFRAME_LOOPS says which loops: "stock", or "ours",
where each test has the fixture `asyncframe`, and all that it makes by `asyncio.new_event_loop`
or a runner is on its clock.
"""

from __future__ import annotations

import asyncio
import fnmatch
import gc
import importlib
import json
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_asyncframe.probe import Probe

OURS = os.environ["ASYNCFRAME_LOOPS"] == "ours"

REPEATED = (
    "test_events.PollEventLoopTests.*",
    "test_events.SelectEventLoopTests.*",
    "test_futures.*Sub*",
    "test_tasks.CTask_PyFuture_Tests.*",
    "test_tasks.PyTask_CFuture*_Tests.*",
    "test_tasks.*Sub[cC]lass*",
)
"""The same tests again, with what makes no difference to a loop; nobody runs them here."""

EXCLUDED = {
    "test_base_events.RunningLoopTests.test_running_loop_within_a_loop": "runs two loops at once",
    "*.test_asyncgen_finalization_by_gc_in_other_thread": "mocks how its loop is woken",
    "test_futures.*.test_wrap_future": "spins a loop of its own until a thread has ended",
    "*.test_sock_connect_resolve_using_socket_params": "spins a loop of its own as well",
    "test_runners.Run*": "looks into the loop that a policy of its own makes",
    "*.test_signal_handling*": "waits for an alarm, which is in real time, for virtual seconds",
}
"""Tests that ask for what a loop on a virtual clock is not, and the reason."""

_outcomes: dict[str, str] = {}


def name_of(item: pytest.Item) -> str:
    """Return a test's module, class and name."""
    return f"{item.path.stem}.{item.nodeid.partition('::')[2].replace('::', '.')}"


def pytest_configure() -> None:
    """Let Ctrl+C be heard, which tests send to themselves, although a shell had it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take out what is not run; leave what has been loaded out of collections of garbage."""
    patterns = [*REPEATED, *(EXCLUDED if OURS else ())]
    items[:] = [
        one for one in items if not any(fnmatch.fnmatch(name_of(one), each) for each in patterns)
    ]
    if OURS:
        # What the fixtures would load in the first test.
        for name in ("pytest_asyncframe.probe", "fastapi.testclient", "framework.testing"):
            importlib.import_module(name)
    # The tests collect garbage several times each.
    gc.collect()
    gc.freeze()


if OURS:

    @pytest.fixture(autouse=True)
    def _on_a_clock(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have a clock for the test, also where it makes a loop of the stock class."""

        def make(selector: object = None) -> asyncio.AbstractEventLoop:
            return asyncframe.clock.new_event_loop()

        monkeypatch.setattr(asyncio, "SelectorEventLoop", make)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how a test ended: the worst of its parts."""
    report = yield
    name = name_of(item)
    if report.when == "setup" or (report.outcome != "passed" and _outcomes[name] != "failed"):
        _outcomes[name] = report.outcome
    return report


def pytest_sessionfinish() -> None:
    """Write how each test ended."""
    Path(os.environ["ASYNCFRAME_OUTCOMES"]).write_text(json.dumps(_outcomes), "utf-8")
