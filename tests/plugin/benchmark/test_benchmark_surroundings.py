"""`task_benchmark` together with other fixtures, and what it leaves behind."""

from __future__ import annotations

import pytest

from pytest_asyncframe.benchmark import _rounds
from tests.plugin.benchmark.benchmark_runs import run

# -- what else is there


def test_beside_the_probe(pytester: pytest.Pytester) -> None:
    """Together with asyncframe, in each mode, it uses a manager of its own."""
    tests = """
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode))
        for mode in ("manual", "auto", "virtual", "seeded", "threads")
    ],
)
def test_managers(asyncframe, task_benchmark, mode):
    begun = asyncframe.manager.clock.monotonic()
    assert task_benchmark(get_task_manager) is not asyncframe.manager
    assert get_task_manager() is asyncframe.manager
    assert asyncframe.manager.get_stats()["submitted"] == 0
    assert mode == "threads" or asyncframe.manager.clock.monotonic() == begun

def test_override_is_over():
    with pytest.raises(FrameworkNotStartedError):
        get_task_manager()
"""
    run(pytester, tests).assert_outcomes(passed=6)


def test_beside_other_fixtures(pytester: pytest.Pytester) -> None:
    """Together with each other fixture it uses a manager and real threads of its own."""
    tests = "".join(
        f"""
def test_{fixture}({fixture}, task_benchmark):
    before = get_task_manager()
    assert task_benchmark.throughput(get_task_manager, tasks=5) is not before
    assert get_task_manager() is before
"""
        for fixture in ("task_manager", "task_pool", "task_executor", "task_clock")
    )
    run(pytester, tests).assert_outcomes(passed=4)


def test_real_wall_clock(pytester: pytest.Pytester) -> None:
    """A function sees the real date, although the test's clock has moved by a day."""
    tests = """
from datetime import datetime

@pytest.mark.parametrize("fn", [datetime.now, background_task(lambda: datetime.now())])
def test_today(task_clock, task_benchmark, fn):
    today = datetime.now()
    task_clock.advance(86_400)
    assert task_benchmark.round_trip(fn) - today < timedelta(hours=12)
    assert datetime.now() - today >= timedelta(days=1)
"""
    run(pytester, tests).assert_outcomes(passed=2)


def test_real_waiting(pytester: pytest.Pytester) -> None:
    """Threads and the loop wait in real time, and virtual time does not move."""
    tests = """
def meet():
    condition = threading.Condition()

    def notify():
        with condition:  # free once the other thread waits
            condition.notify()

    with condition:
        threading.Thread(target=notify).start()
        return condition.wait(3_600)

async def meet_on_loop():
    return meet()

@pytest.mark.parametrize("fn", [meet, meet_on_loop])
def test_meet(asyncframe, task_benchmark, fn):
    assert task_benchmark.round_trip(fn)
    assert asyncframe.clock.monotonic() == 0
"""
    run(pytester, tests).assert_outcomes(passed=2)


def test_beside_an_override(pytester: pytest.Pytester) -> None:
    """An override of the test's own is current again after the measurement."""
    tests = """
from framework.testing import override_framework

def test_managers(task_benchmark):
    with override_framework() as manager:
        assert task_benchmark(get_task_manager) is not manager
        assert get_task_manager() is manager
"""
    run(pytester, tests).assert_outcomes(passed=1)


def test_used_benchmark_before(pytester: pytest.Pytester) -> None:
    """A fixture that requested `benchmark` before can configure or disable it."""
    tests = """
@pytest.fixture(autouse=True)
def off(benchmark):
    benchmark.disabled = True

def test_send(task_benchmark):
    assert task_benchmark(send, 7) == 7
    assert calls == [7]
"""
    run(pytester, tests).assert_outcomes(passed=1)


@pytest.mark.extended("processes")
def test_schedules_do_not_run(pytester: pytest.Pytester) -> None:
    """A measurement does not start the app's schedules."""
    tests = """
@scheduled_task(every=0.001, run_at_start=True)
def clean_up():
    calls.append("cleaned up")

def test_figures(task_benchmark):
    task_benchmark(get_task_manager)
    assert calls == []
"""
    # The schedule belongs to a module, and would run here until that is collected.
    run(pytester, tests, apart=True).assert_outcomes(passed=1)


# -- what is left behind


def test_finished_tasks_are_forgotten(pytester: pytest.Pytester) -> None:
    """No more than a thousand finished tasks and one batch are kept."""
    tests = """
kept = []

@async_task
async def look():
    kept.append(get_task_manager().get_stats()["kept"])

@pytest.mark.benchmark(min_rounds=3_000, max_time=0.000001)
def test_rounds(task_benchmark):
    task_benchmark.round_trip(look)
    assert len(kept) > 3_000
    assert 900 < max(kept) <= 1_000

def test_batches(task_benchmark):
    kept.clear()
    task_benchmark.throughput(look, tasks=600)
    assert max(kept) <= 1_600
"""
    run(pytester, tests).assert_outcomes(passed=2)


def test_tasks_of_measured_tasks(pytester: pytest.Pytester) -> None:
    """Tasks submitted by the measured ones have ended when the measurement ends."""
    tests = """
begun, ended = [], []

@background_task
async def note():
    begun.append(1)
    for _ in range(3):
        await asyncio.get_running_loop().run_in_executor(None, int)
    ended.append(1)

@background_task
def leave():
    note()

@background_task
def leave_and_fail():
    note()
    raise ValueError("no")

def test_leave(task_benchmark):
    task_benchmark.throughput(leave, tasks=10)
    assert len(begun) >= 10
    assert len(begun) == len(ended)

def test_leave_and_fail(task_benchmark):
    begun.clear()
    ended.clear()
    with pytest.raises(ValueError, match="^no$"):
        task_benchmark.throughput(leave_and_fail, tasks=10)
    assert len(begun) == len(ended) == 10
"""
    run(pytester, tests).assert_outcomes(passed=2)


def test_a_task_that_does_not_end(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning names a task that has not ended when the time to wait is over."""
    monkeypatch.setattr(_rounds, "_PATIENCE", 0.0)
    tests = """
@background_task(name="endless")
async def endless():
    await asyncio.get_running_loop().create_future()

@background_task
def leave():
    endless()

def test_leave(task_benchmark):
    task_benchmark.benchmark.disabled = True
    with pytest.warns(ResourceWarning) as caught:
        task_benchmark(leave)
    assert [str(one.message) for one in caught] == [
        "task_benchmark: endless had not ended 0 s after the measured tasks"
    ]
"""
    run(pytester, tests).assert_outcomes(passed=1)
