"""The benchmarks of tests: what they measure is there, and comes out as it should."""

from __future__ import annotations

import asyncio
import subprocess
from subprocess import CompletedProcess

import pytest

from benchmarks import __main__ as bench
from benchmarks import sleeps
from benchmarks import tests as section
from benchmarks._measure import OURS
from benchmarks.suite.numbers import KINDS


@pytest.fixture
def few_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let little be measured."""
    monkeypatch.setattr(sleeps, "SLEEPS", 1_000)


# -- sleeps


def test_tasks_sleep_for_different_times() -> None:
    """A task alone sleeps for a second each time; many share the sleeps, and no two are alike."""
    assert sleeps.durations(1, 3) == [[1.0, 1.0, 1.0]]

    times = sleeps.durations(sleeps.MANY, sleeps.SLEEPS)

    assert {len(one) for one in times} == {sleeps.SLEEPS // sleeps.MANY}
    assert len({tuple(one) for one in times}) == len(times) == sleeps.MANY
    assert 0.5 <= min(map(min, times)) < max(map(max, times)) < 1.5


def test_sketch_sleeps(few_sleeps: None) -> None:
    """On the sketch's loop the time of the longest task passes, warm-up included.

    It refuses to wait for what never comes.
    """
    loop = sleeps.JumpingLoop()
    try:
        spent = loop.run_until_complete(sleeps.on_asyncio(sleeps.MANY))
        passed = loop.time()
        with pytest.raises(RuntimeError, match=r"^nothing will ever happen$"):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()

    longest = [max(map(sum, sleeps.durations(sleeps.MANY, count))) for count in (100, 1_000)]
    assert spent > 0
    assert passed == pytest.approx(sum(longest), abs=1e-6)


def test_time_that_does_not_pass(few_sleeps: None) -> None:
    """Sleeps after which too little time has passed are an error, not a fast result."""

    async def no_sleep(times: sleeps.Durations) -> None:
        return

    with pytest.raises(RuntimeError, match=r"^0 s have passed in place of 1000 s$"):
        asyncio.run(sleeps._microseconds(no_sleep, lambda: 0.0, 1))


# -- runs of pytest


@pytest.mark.extended("processes")
def test_each_kind_of_run() -> None:
    """The suite passes with the plugin, each kind of test once; sleeps and an import are timed."""
    assert section.time_suite(OURS, KINDS) > 0
    assert sleeps._value(OURS, sleeps.MANY) > 0
    assert section.time_import("pytest_asyncframe.plugin") > 0


def test_runs_that_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with a failure, or with other tests than were meant, is an error that shows it."""
    told = {"1 failed": 1, "2 passed in 1 s": 0}
    for text, status in told.items():
        done = CompletedProcess([], status, f"what pytest says\n{text}\n", "")
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)

        with pytest.raises(RuntimeError, match=rf"^a\.py failed: what pytest says\n{text}\n$"):
            section.time_tests(["a.py"], 12)

    passed = CompletedProcess([], 0, "12 passed in 1 s\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: passed)
    assert section.time_tests(["a.py"], 12) > 0


def test_empty_tests() -> None:
    """The source of the empty tests has as many as was said, with and without the plugin."""
    for suite in section._SUITES.values():
        compile(suite.source(3), "test_empty.py", "exec")
        assert "range(3)" in suite.source(3)


# -- rows


@pytest.mark.extended("time")
def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The section gives the rows it is known for; the start of pytest is no test's share."""

    def sleep(name: str, tasks: int) -> float:
        return 6.0 if name == OURS else 2.0

    def run(arguments: list[str], count: int, **environment: str) -> float:
        return 500.0 + count * (1.0 if "no:asyncframe" in arguments else 1.5)

    def load(module: str) -> float:
        return 10.0

    monkeypatch.setattr(sleeps, "_value", sleep)
    monkeypatch.setattr(section, "time_tests", run)
    monkeypatch.setattr(section, "time_import", load)
    monkeypatch.setattr(section, "_EXECUTORS", 1)

    rows = {row.key: row for row in section.rows(2, peers=False)}

    assert tuple(rows) == bench.KEYS["tests"]
    assert rows["virtual_sleep"].ours.ratio == 3.0
    assert rows["test_empty"].ours.ratio == pytest.approx(1.5)
    assert rows["test_run"].ours.ratio == pytest.approx(800 / 700)
    assert rows["api_suite"].ours.ratio == pytest.approx(2_000 / 1_500)
    assert rows["plugin_import"].ours.ratio == 0.5
    assert rows["executor"].ratio_to(section.STARTED) > 0
