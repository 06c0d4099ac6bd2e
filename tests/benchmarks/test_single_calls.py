"""Single calls as cases of pytest-benchmark, each grouped with its floor.

They are timed when asked for: ``pytest benchmarks --benchmark-only``, with
``--benchmark-autosave`` before a change and ``--benchmark-compare`` after it. Without, each
is made once, as a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest

from benchmarks import calls, coroutines, rates
from benchmarks._measure import OURS
from benchmarks.coroutines import ANSWER, function, plain
from benchmarks.floors import THREADS
from benchmarks.keepers import body
from framework import get_task_manager, setup_async_framework

SUBMITTED = 2_000
"""Tasks submitted while the loop stands still; the queue has room for them."""

RATE, WINDOW = 100_000, 0.01
"""Calls in seconds; more than anyone can make."""

Cases: TypeAlias = Mapping[str, Callable[..., Any]]  # Any: functions of many kinds

WINDOWS: Cases = {
    rates.DEQUE: lambda: rates.guarded(rates.DequeWindow(RATE, WINDOW).hit),
    OURS: lambda: rates.throttled(RATE, WINDOW),
}
LOOP_WINDOWS: Cases = {
    rates.DEQUE: lambda: rates.guarded_on_loop(rates.DequeWindow(RATE, WINDOW).hit),
    OURS: lambda: rates.throttled_on_loop(RATE, WINDOW),
}
RETRIES: Cases = {calls.TRY_LOOP: calls.try_loop, OURS: calls.retried}
LOOP_RETRIES: Cases = {calls.TRY_LOOP: calls.try_loop_on_loop, OURS: calls.retried}
COROUTINES: Cases = {coroutines.BARE: coroutines.bare, OURS: coroutines.tracked}


@pytest.fixture(autouse=True)
def once_unless_asked(benchmark: Any, request: pytest.FixtureRequest) -> None:
    """Keep the suite from timing anything that it was not asked to time."""
    if not request.config.getoption("benchmark_only"):
        benchmark.disabled = True


def finished(call: Callable[[], Coroutine[Any, Any, object]]) -> object:
    """Return what a coroutine gives that does not suspend; on a running loop."""
    try:
        call().send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the coroutine suspended")


@pytest.mark.benchmark(group="submit")
async def test_submit(benchmark: Any) -> None:
    """A submitted function is run, and its result kept under the id."""
    async with setup_async_framework(None, max_workers=THREADS):
        task_id = benchmark.pedantic(body, (ANSWER,), rounds=SUBMITTED, warmup_rounds=10)
        assert await get_task_manager().get_result(task_id) == ANSWER


@pytest.mark.benchmark(group="submit")
async def test_submit_to_stdlib(benchmark: Any) -> None:
    """The floor of a submission: a function is run, and its result in the future."""
    with ThreadPoolExecutor(THREADS) as pool:
        future = benchmark.pedantic(
            pool.submit, (body.fn, ANSWER), rounds=SUBMITTED, warmup_rounds=10
        )
        assert await asyncio.wrap_future(future) == ANSWER


@pytest.mark.benchmark(group="rate check before a function")
@pytest.mark.parametrize("name", WINDOWS)
async def test_rate_check(benchmark: Any, name: str) -> None:
    """A function below its rate is called."""
    async with setup_async_framework(None):
        assert benchmark(WINDOWS[name]()) == ANSWER


@pytest.mark.benchmark(group="rate check before a coroutine")
@pytest.mark.parametrize("name", LOOP_WINDOWS)
async def test_rate_check_on_loop(benchmark: Any, name: str) -> None:
    """A coroutine below its rate is run."""
    async with setup_async_framework(None):
        assert benchmark(finished, LOOP_WINDOWS[name]()) == ANSWER


@pytest.mark.benchmark(group="retry of a function")
@pytest.mark.parametrize("name", RETRIES)
async def test_retry(benchmark: Any, name: str) -> None:
    """A function that does not fail gives its result at once."""
    async with setup_async_framework(None):
        assert benchmark(RETRIES[name](function)) == ANSWER


@pytest.mark.benchmark(group="retry of a coroutine")
@pytest.mark.parametrize("name", LOOP_RETRIES)
async def test_retry_on_loop(benchmark: Any, name: str) -> None:
    """A coroutine that does not fail gives its result at once."""
    async with setup_async_framework(None):
        assert benchmark(finished, LOOP_RETRIES[name](plain)) == ANSWER


@pytest.mark.benchmark(group="id")
@pytest.mark.parametrize("name", [calls.UUID4, OURS])
async def test_new_id(benchmark: Any, name: str) -> None:
    """An id is long, and a new one each time."""
    async with setup_async_framework(None):
        make = calls.uuid4_text if name == calls.UUID4 else get_task_manager().new_id
        made = benchmark(make)
        assert len(made) >= 32
        assert made != make()


@pytest.mark.benchmark(group="coroutine, awaited")
@pytest.mark.parametrize("name", COROUTINES)
async def test_coroutine(benchmark: Any, name: str) -> None:
    """A coroutine that does not suspend gives its result, tracked or not."""
    async with setup_async_framework(None):
        assert benchmark(finished, COROUTINES[name](plain)) == ANSWER
        tracked = get_task_manager().get_stats()["completed"]
        assert (tracked > 0) == (name == OURS)
