"""`task_benchmark` with the options of pytest-benchmark, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugin.benchmark.benchmark_runs import HEAD, SEND, run

# -- options


def test_compare(pytester: pytest.Pytester) -> None:
    """A saved run can be compared with."""
    run(pytester, SEND, "--benchmark-autosave").assert_outcomes(passed=2)
    result = run(pytester, SEND, "--benchmark-compare", "--benchmark-columns=median")

    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines(
        [r"test_send \((NOW|0001_.*)\) +", r"test_send \((NOW|0001_.*)\) +"]
    )


def test_benchmark_only(pytester: pytest.Pytester) -> None:
    """With --benchmark-only it runs, and tests that are not benchmarks do not."""
    run(pytester, SEND, "--benchmark-only").assert_outcomes(passed=1, skipped=1)


def test_benchmark_skip(pytester: pytest.Pytester) -> None:
    """With --benchmark-skip it is skipped."""
    run(pytester, SEND, "--benchmark-skip").assert_outcomes(passed=1, skipped=1)


ONCE = """
@pytest.mark.parametrize("way", ["__call__", "round_trip", "submit", "throughput"])
def test_send(task_benchmark, way):
    calls.clear()
    assert getattr(task_benchmark, way)(send, 7) == 7
    assert calls == [7]
    assert task_benchmark.benchmark.extra_info == {}
"""


def test_disabled(pytester: pytest.Pytester) -> None:
    """If benchmarks are disabled, the function runs once and nothing is reported."""
    result = run(pytester, ONCE, "--benchmark-disable")

    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*task_benchmark (medians)*")


@pytest.mark.extended("processes")
def test_xdist(pytester: pytest.Pytester) -> None:
    """Under pytest-xdist, which disables benchmarks, the function runs once."""
    pytest.importorskip("xdist")
    result = run(pytester, ONCE, "-n", "1", "-W", "ignore:Benchmarks are automatically disabled")

    result.assert_outcomes(passed=4, warnings=0)


NEEDED = (
    r"E +\S*UsageError: task_benchmark needs pytest-benchmark, {}: "
    r"install the extra 'pytest' of asyncframe$"
)


def test_not_installed(pytester: pytest.Pytester) -> None:
    """Without pytest-benchmark the error says what to install."""
    pytester.makepyfile(HEAD + SEND)
    result = pytester.runpytest_inprocess("-p", "no:benchmark", "-p", "no:asyncio")

    result.assert_outcomes(passed=1, errors=1)
    told = "which is not installed or is disabled"
    result.stdout.re_match_lines([NEEDED.format(told)])


def test_another_benchmark(pytester: pytest.Pytester) -> None:
    """Another fixture named benchmark is rejected."""
    tests = """
@pytest.fixture
def benchmark():
    return "mine"
"""
    result = run(pytester, tests + SEND)

    result.assert_outcomes(passed=1, errors=1)
    told = "but another fixture 'benchmark' is in its place: 'mine'"
    result.stdout.re_match_lines([NEEDED.format(told)])


# -- mistakes, and tasks that fail


def test_async_test(pytester: pytest.Pytester) -> None:
    """In an async test it raises an error before anything runs."""
    tests = """
async def test_send(task_benchmark):
    with pytest.raises(RuntimeError) as caught:
        task_benchmark(send, 7)
    assert str(caught.value) == (
        "task_benchmark was called on a running event loop, but runs its own: write the "
        "test as 'def', not 'async def'; the measured function may be either"
    )
    assert calls == []
"""
    run(pytester, tests).assert_outcomes(passed=1)


def test_twice(pytester: pytest.Pytester) -> None:
    """A second measurement in one test is an error."""
    tests = """
def test_send(task_benchmark):
    task_benchmark(send, 7)
    with pytest.raises(RuntimeError) as caught:
        task_benchmark.submit(send, 8)
    assert str(caught.value) == (
        "task_benchmark was used before in this test: measure one thing in each test; write "
        "another test, or parametrize this one"
    )
    assert 8 not in calls
"""
    run(pytester, tests).assert_outcomes(passed=1)


def test_wrong_size(pytester: pytest.Pytester) -> None:
    """The size of a batch is checked before anything runs."""
    tests = """
@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        (0, ValueError, "tasks must be from 1 to 10,000, not 0"),
        (10_001, ValueError, "tasks must be from 1 to 10,000, not 10001"),
        (2.5, TypeError, "tasks must be a whole number, not 2.5"),
        (True, TypeError, "tasks must be a whole number, not True"),
    ],
)
def test_send(task_benchmark, tasks, error, message):
    with pytest.raises(error) as caught:
        task_benchmark.throughput(send, 8, tasks=tasks)
    assert str(caught.value) == message
    assert task_benchmark.submit(send, 7) == 7
    assert 8 not in calls
"""
    run(pytester, tests).assert_outcomes(passed=4)


FAILING = """
def fail():
    calls.append(1)
    raise ValueError("no")

async def fail_on_loop():
    fail()

@pytest.fixture(params=[background_task, async_task])
def failing(request, fn):
    calls.clear()
    return request.param(fn)

colours = pytest.mark.parametrize("fn", [fail, fail_on_loop])
"""


def test_failure(pytester: pytest.Pytester) -> None:
    """The error of a task is raised in the test, and there are no figures."""
    tests = f"""
{FAILING}

@colours
@pytest.mark.parametrize("way", ["__call__", "round_trip", "submit"])
def test_fail(task_benchmark, way, failing):
    with pytest.raises(ValueError, match="^no$"):
        getattr(task_benchmark, way)(failing)
    assert calls == [1]
"""
    result = run(pytester, tests)

    result.assert_outcomes(passed=12)
    result.stdout.no_re_match_line(r"test_fail\[")


def test_failure_in_a_batch(pytester: pytest.Pytester) -> None:
    """All tasks of a batch have ended when the first error is raised."""
    tests = f"""
{FAILING}

@colours
def test_fail(task_benchmark, failing):
    with pytest.raises(ValueError, match="^no$"):
        task_benchmark.throughput(failing, tasks=20)
    assert len(calls) == 20
"""
    run(pytester, tests).assert_outcomes(passed=4)


def test_failure_in_a_later_round(pytester: pytest.Pytester) -> None:
    """An error after the timed rounds is raised, and their figures are not saved."""
    tests = """
def fail_at_last():
    if task_benchmark_fixture.benchmark.stats is not None:
        calls.append(1)
    if len(calls) == 5:
        raise ValueError("no")

def test_fail(task_benchmark):
    global task_benchmark_fixture
    task_benchmark_fixture = task_benchmark
    with pytest.raises(ValueError, match="^no$"):
        task_benchmark(fail_at_last)
    assert task_benchmark.benchmark.stats.stats.rounds == 3
"""
    options = ("--benchmark-max-time=0.000001", "--benchmark-json=found.json")
    run(pytester, tests, *options).assert_outcomes(passed=1)

    assert json.loads(Path(pytester.path, "found.json").read_text("utf-8"))["benchmarks"] == []
