"""Runs files of benchmarks in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark import plugin

INI = """
[pytest]
addopts = -p no:randomly -p no:cacheprovider --benchmark-min-rounds=3 --benchmark-max-time=0.001
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

HEAD = """
import asyncio
import functools
import threading
from datetime import timedelta

import pytest
from pytest_benchmark import plugin

from framework import (
    FrameworkNotStartedError,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
)

calls = []


@background_task
def send(number):
    calls.append(number)
    return number


class Ticks:
    # A clock that only the measured functions move; the timer of pytest-benchmark.
    def __init__(self):
        self.now = 0.0
        self.lock = threading.Lock()

    def __call__(self):
        return self.now

    def work(self, seconds):
        with self.lock:
            self.now += seconds


ticks = Ticks()
on_ticks = pytest.mark.benchmark(timer=ticks)
"""

SEND = """
def test_send(task_benchmark):
    assert task_benchmark(send, 7) == 7

def test_something_else():
    pass
"""


def run(
    pytester: pytest.Pytester, tests: str, *options: str, apart: bool = False
) -> pytest.RunResult:
    """Run a file of tests in this process, or, if *apart*, in another one."""
    pytester.makeini(INI)
    pytester.makepyfile(HEAD + tests)
    with pytest.MonkeyPatch.context() as patch:
        # pytest-benchmark takes this for a worker of xdist, where it measures nothing.
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        # What it asks other programs for, for its file.
        patch.setattr(plugin, "get_cpu_info", dict)
        start = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return start(*options)


def figures_of(pytester: pytest.Pytester, tests: str) -> dict[str, Any]:
    """Run a file with one test, and return its figures from pytest-benchmark's own file."""
    run(pytester, tests, "--benchmark-json=found.json").assert_outcomes(passed=1)
    (found,) = json.loads(Path(pytester.path, "found.json").read_text("utf-8"))["benchmarks"]
    info: dict[str, Any] = found["extra_info"]
    return info | {"mean": found["stats"]["mean"]}
