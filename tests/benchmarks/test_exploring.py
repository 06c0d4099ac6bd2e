"""The benchmarks of explored tests: what they measure is there, and comes out as it should."""

from __future__ import annotations

import os

import pytest

from benchmarks import __main__ as bench
from benchmarks import exploring as section


@pytest.mark.extended("time")
def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs that a test has more than another share the time that it takes longer."""
    monkeypatch.setattr(section, "POINTS", 20)
    monkeypatch.setattr(
        section, "_time", lambda file: 50 + 2 * int(file.stem.split("_")[1]), raising=True
    )
    allowed = os.sched_getaffinity(0)
    rows = list(section.rows(1, peers=False))

    assert tuple(row.key for row in rows) == bench.KEYS["exploring"]
    assert [row.ours.median for row in rows[:3]] == [2.0, 2.0, 2.0]
    assert os.sched_getaffinity(0) == allowed


def test_points_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads come to their points, by turns if the other one is chosen."""
    monkeypatch.setattr(section, "POINTS", 20)

    assert min(section.time_points(index) for index in (0, 1)) > 0


def test_the_measured_tests_pass(pytester: pytest.Pytester) -> None:
    """The tests whose runs are timed pass."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    sources = {"test_tasks": section._TWO_TASKS, "test_requests": section._REQUESTS}
    pytester.makepyfile(
        **{name: source.format(runs=2, requests=2) for name, source in sources.items()}
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)
