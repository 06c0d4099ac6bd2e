"""The benchmarks of tests: what they measure is there, and comes out as it should."""

from __future__ import annotations

import asyncio
from pathlib import Path

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


def test_one_task_sleeps_for_seconds() -> None:
    """A task alone sleeps for a second each time."""
    assert sleeps.durations(1, 3) == [[1.0, 1.0, 1.0]]


def test_tasks_sleep_for_different_times() -> None:
    """Many tasks share the sleeps, and no two of them sleep for the same times."""
    times = sleeps.durations(sleeps.MANY, sleeps.SLEEPS)

    assert {len(one) for one in times} == {sleeps.SLEEPS // sleeps.MANY}
    assert len({tuple(one) for one in times}) == len(times) == sleeps.MANY
    assert 0.5 <= min(map(min, times)) < max(map(max, times)) < 1.5


@pytest.mark.parametrize("tasks", [1, sleeps.MANY])
def test_sketch_sleeps(few_sleeps: None, tasks: int) -> None:
    """On the sketch's loop the time of the longest task passes, warm-up included."""
    loop = sleeps.JumpingLoop()
    try:
        spent = loop.run_until_complete(sleeps.on_asyncio(tasks))
        passed = loop.time()
    finally:
        loop.close()

    longest = [max(map(sum, sleeps.durations(tasks, count))) for count in (100, 1_000)]
    assert spent > 0
    assert passed == pytest.approx(sum(longest), abs=1e-6)


def test_sketch_that_would_wait_for_ever() -> None:
    """The sketch refuses to wait for what never comes."""
    loop = sleeps.JumpingLoop()
    try:
        with pytest.raises(RuntimeError, match=r"^nothing will ever happen$"):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


def test_time_that_does_not_pass(few_sleeps: None) -> None:
    """Sleeps after which too little time has passed are an error, not a fast result."""

    async def no_sleep(times: sleeps.Durations) -> None:
        return

    with pytest.raises(RuntimeError, match=r"^0 s have passed in place of 1000 s$"):
        asyncio.run(sleeps._microseconds(no_sleep, lambda: 0.0, 1))


def test_ours_sleeps_in_a_test() -> None:
    """Ours is measured in a test with the probe that pytest runs and that passes."""
    assert sleeps._value(OURS, sleeps.MANY) > 0


# -- runs of pytest


def test_empty_tests_run(tmp_path: Path) -> None:
    """The empty tests are as many as was said, with and without the plugin."""
    for number, suite in enumerate(section._SUITES.values()):
        file = tmp_path / f"test_{number}.py"
        file.write_text(suite.source(3))

        assert section.time_tests([*suite.options, str(file)], 3) > 0


@pytest.mark.parametrize("name", [section.BY_HAND, OURS])
def test_suite_of_an_api(name: str) -> None:
    """The suite passes by hand and with the plugin, each kind of test once."""
    assert section.time_suite(name, KINDS) > 0


def test_tests_that_fail(tmp_path: Path) -> None:
    """A run in which a test fails is an error, which shows what pytest has said."""
    file = tmp_path / "test_failing.py"
    file.write_text("def test_nothing():\n    assert False, 'broken'")

    with pytest.raises(RuntimeError, match=r"test_failing\.py failed: (?s:.*)broken"):
        section.time_tests([str(file)], 1)


def test_other_number_of_tests(tmp_path: Path) -> None:
    """A run with other tests than those that were meant is an error."""
    file = tmp_path / "test_two.py"
    file.write_text("def test_one(): pass\ndef test_two(): pass")

    with pytest.raises(RuntimeError, match="2 passed"):
        section.time_tests([str(file)], 12)


def test_import_is_timed() -> None:
    """The import of the plugin is timed in an interpreter that has pytest alone."""
    assert section.time_import("pytest_asyncframe.plugin") > 0


# -- rows


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
