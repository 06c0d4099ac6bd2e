"""`task_benchmark`: what is timed, and the figures, on a clock that only tasks move."""

from __future__ import annotations

import itertools

import pytest

from pytest_asyncframe.benchmark import Row, _rounds, table
from tests.plugin.benchmark.benchmark_runs import figures_of, run

FIGURES = {"body", "framework", "per_task", "round_trip", "submit", "tasks"}


def test_steps_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is repeated for as long as its time lasts, and made once if that is over."""
    seconds, steps = itertools.count(), itertools.count()
    monkeypatch.setattr(_rounds, "perf_counter", lambda: next(seconds))

    assert _rounds.repeat(lambda: next(steps), 3) == [0, 1, 2]
    assert _rounds.repeat(lambda: next(steps), 0) == [3]


# -- what can be measured

KINDS = """
def fn(number):
    return number

async def co(number):
    return number

class Shop:
    @background_task
    def sell(self, number):
        return number

@background_task
def add(other, number):
    return number

kinds = pytest.mark.parametrize(
    "fn",
    {
        "background": background_task(fn),
        "background coroutine": background_task(co),
        "awaited": async_task(fn),
        "awaited coroutine": async_task(co),
        "function": fn,
        "coroutine": co,
        "retried": retry_task(fn),
        "method": Shop().sell,
        "partial": functools.partial(add, 1),
    }.values(),
)
"""


def test_kinds(pytester: pytest.Pytester) -> None:
    """Each kind of function can be measured in each way, and its result is returned."""
    tests = f"""
{KINDS}

@kinds
def test_all(task_benchmark, fn):
    assert task_benchmark(fn, 7) == 7

@kinds
def test_round_trip(task_benchmark, fn):
    assert task_benchmark.round_trip(fn, number=7) == 7

@kinds
def test_submit(task_benchmark, fn):
    assert task_benchmark.submit(fn, 7) == 7

@kinds
def test_throughput(task_benchmark, fn):
    assert task_benchmark.throughput(fn, 7, tasks=20) == 7
"""
    run(pytester, tests).assert_outcomes(passed=36)


def test_it_runs_in_each_round(pytester: pytest.Pytester) -> None:
    """The function runs in every round that pytest-benchmark counts."""
    tests = """
def test_send(task_benchmark):
    task_benchmark.round_trip(send, 7)
    assert task_benchmark.benchmark.stats.stats.rounds == 40
    assert len(calls) > 40
"""
    result = run(pytester, tests, "--benchmark-min-rounds=40", "--benchmark-max-time=0.000001")

    result.assert_outcomes(passed=1)


def test_options_of_the_marker(pytester: pytest.Pytester) -> None:
    """min_rounds and max_time of the marker override those of the command line."""
    tests = """
@pytest.mark.benchmark(min_rounds=9, max_time=0.000001)
def test_send(task_benchmark):
    task_benchmark.submit(send, 7)
    assert task_benchmark.benchmark.stats.stats.rounds == 9
"""
    run(pytester, tests).assert_outcomes(passed=1)


def test_one_loop(pytester: pytest.Pytester) -> None:
    """All rounds and figures use one event loop, on the test's own thread."""
    tests = """
seen = set()

@background_task
async def look():
    seen.add((asyncio.get_running_loop(), threading.current_thread()))

def test_look(task_benchmark):
    task_benchmark(look)
    (only,) = seen
    assert only[1] is threading.current_thread()
    assert only[0].is_closed()
"""
    run(pytester, tests).assert_outcomes(passed=1)


def test_max_workers(pytester: pytest.Pytester) -> None:
    """The pool has as many threads as the test sets."""
    tests = """
def threads():
    return get_task_manager().pool.get_stats()["max_workers"]

def test_threads(task_benchmark):
    task_benchmark.max_workers = 3
    assert task_benchmark.round_trip(threads) == 3
"""
    run(pytester, tests).assert_outcomes(passed=1)


def test_a_batch_as_large_as_the_queue(pytester: pytest.Pytester) -> None:
    """The largest allowed batch fits into the queue."""
    tests = """
def test_send(task_benchmark):
    assert task_benchmark.throughput(send, 7, tasks=10_000) == 7
"""
    run(pytester, tests, "--benchmark-min-rounds=1").assert_outcomes(passed=1)


# -- the figures


def test_only_the_body_takes_time(pytester: pytest.Pytester) -> None:
    """If only the function takes time, the whole round trip is its body."""
    tests = """
@background_task
def work():
    ticks.work(3)

@on_ticks
def test_work(task_benchmark):
    task_benchmark(work)
"""
    found = figures_of(pytester, tests)

    assert found.keys() == FIGURES | {"mean"}
    del found["tasks"]
    assert found == {
        "mean": 3.0,
        "submit": 0.0,
        "body": 3.0,
        "framework": 0.0,
        "round_trip": 3.0,
        "per_task": 3.0,
    }


WRAPPED = """
@background_task
def work():
    ticks.work(3)

@functools.wraps(work)
def call_late():
    ticks.work(4)
    return work()
"""


def test_only_the_framework_takes_time(pytester: pytest.Pytester) -> None:
    """Time that a round trip takes outside the function is the framework's."""
    tests = f"""
{WRAPPED}

@on_ticks
def test_work(task_benchmark):
    task_benchmark.round_trip(call_late)
"""
    assert figures_of(pytester, tests) == {
        "mean": 7.0,
        "submit": 4.0,
        "body": 3.0,
        "framework": 4.0,
        "round_trip": 7.0,
    }


def test_submission_timed(pytester: pytest.Pytester) -> None:
    """The statistics of submit() are the times until the id is returned."""
    tests = f"""
{WRAPPED}

@on_ticks
def test_work(task_benchmark):
    task_benchmark.submit(call_late)
"""
    found = figures_of(pytester, tests)

    assert (found["mean"], found["submit"], found["round_trip"]) == (4.0, 4.0, 7.0)


def test_throughput_timed(pytester: pytest.Pytester) -> None:
    """The statistics of throughput() are the times of batches divided by their size."""
    tests = f"""
{WRAPPED}

@on_ticks
def test_work(task_benchmark):
    task_benchmark.throughput(call_late, tasks=20)
"""
    found = figures_of(pytester, tests)

    assert (found["mean"], found["per_task"], found["tasks"]) == (7.0, 7.0, 20)


def test_awaited_in_place(pytester: pytest.Pytester) -> None:
    """The time of a coroutine is its body's; there is no figure for the submission."""
    tests = """
@async_task
async def work():
    ticks.work(3)
    await asyncio.get_running_loop().run_in_executor(None, ticks.work, 2)

@on_ticks
def test_work(task_benchmark):
    task_benchmark(work)
"""
    found = figures_of(pytester, tests)

    assert found.keys() == (FIGURES - {"submit"}) | {"mean"}
    assert (found["body"], found["framework"]) == (5.0, 0.0)


@pytest.mark.parametrize("colour", ["", "async "])
def test_all_attempts(pytester: pytest.Pytester, colour: str) -> None:
    """The body's time includes all attempts of a task."""
    tests = f"""
tries = []

@background_task
@retry_task(max_retries=1, retry_delay=0)
{colour}def work():
    ticks.work(2)
    tries.append(1)
    if len(tries) % 2:
        raise ValueError

@on_ticks
def test_work(task_benchmark):
    task_benchmark.round_trip(work)
"""
    found = figures_of(pytester, tests)

    assert (found["body"], found["round_trip"]) == (4.0, 4.0)


def test_tasks_of_tasks(pytester: pytest.Pytester) -> None:
    """The time of a nested task counts once, as part of the task that waits for it."""
    tests = """
@background_task
async def inner():
    ticks.work(5)

@background_task
def outer():
    ticks.work(3)
    get_task_manager().wait_result(inner())

@on_ticks
def test_outer(task_benchmark):
    task_benchmark.round_trip(outer)
"""
    found = figures_of(pytester, tests)

    assert (found["body"], found["framework"]) == (8.0, 0.0)


def test_a_coarse_timer(pytester: pytest.Pytester) -> None:
    """A timer that is too coarse for a task gives zeros, not an error."""
    tests = """
@on_ticks
def test_send(task_benchmark):
    task_benchmark(send, 7)
"""
    found = figures_of(pytester, tests)

    assert (found["round_trip"], found["per_task"]) == (0.0, 0.0)


def test_summary(pytester: pytest.Pytester) -> None:
    """The terminal shows pytest-benchmark's table and one with the figures."""
    tests = """
@background_task
def work():
    ticks.work(3)

@on_ticks
def test_work(task_benchmark):
    task_benchmark(work)

@on_ticks
@pytest.mark.parametrize("seconds", [0.002])
def test_in_place(task_benchmark, seconds):
    @async_task
    async def work():
        ticks.work(seconds)

    task_benchmark.round_trip(work)
"""
    result = run(pytester, tests, "--benchmark-columns=median,rounds", "--benchmark-name=short")

    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines(
        [
            r"Name \(time in ms\) +Median +Rounds$",
            r"in_place\[0\.002\] +2\.0000 \(1\.0\) +\d+",
            r"work +3,000\.0000 \(>1000\.0\) +\d+$",
            r"=+ task_benchmark \(medians\) =+",
            r"name +submit +body +framework +round_trip +per_task$",
            r"test_work +0 ns +3\.00 s +0 ns +3\.00 s +3\.00 s$",
            r"test_in_place\[0\.002\] +- +2\.00 ms +0 ns +2\.00 ms +-$",
        ]
    )


def test_units() -> None:
    """The summary uses seconds, milli-, micro- and nanoseconds, and a dash for a missing figure."""
    rows = [
        Row("test_small", {"submit": 0.000_001_5, "body": 0.000_000_25}),
        Row("test_large", {"submit": 0.0325, "body": 1_234.5, "framework": -0.002}),
    ]

    assert table(rows) == [
        "name              submit          body     framework    round_trip      per_task",
        "test_small       1.50 us        250 ns             -             -             -",
        "test_large      32.50 ms    1,234.50 s      -2.00 ms             -             -",
    ]
