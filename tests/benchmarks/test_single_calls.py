"""Single calls that the benchmarks time: each returns what its floor returns."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

from benchmarks import calls, coroutines, rates
from benchmarks._measure import OURS
from benchmarks.coroutines import ANSWER, function, plain
from benchmarks.floors import THREADS
from benchmarks.keepers import body
from framework import get_task_manager, setup_async_framework

RATE, WINDOW = 100_000, 0.01
"""Calls in seconds; more than anyone can make."""

Cases: TypeAlias = Mapping[str, Callable[[], Callable[[], Any]]]  # Any: of many kinds

ON_A_THREAD: Cases = {
    "rate, floor": lambda: rates.guarded(rates.DequeWindow(RATE, WINDOW).hit),
    "rate": lambda: rates.throttled(RATE, WINDOW),
    "retry, floor": lambda: calls.try_loop(function),
    "retry": lambda: calls.retried(function),
}
ON_THE_LOOP: Cases = {
    "rate, floor": lambda: rates.guarded_on_loop(rates.DequeWindow(RATE, WINDOW).hit),
    "rate": lambda: rates.throttled_on_loop(RATE, WINDOW),
    "retry, floor": lambda: calls.try_loop_on_loop(plain),
    "retry": lambda: calls.retried(plain),
    "coroutine, floor": lambda: coroutines.bare(plain),
    OURS: lambda: coroutines.tracked(plain),
}


def finished(coroutine: Coroutine[Any, Any, object]) -> object:
    """Return what a coroutine gives that does not suspend; on a running loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the coroutine suspended")


async def test_single_calls() -> None:
    """A call gives its answer at once, and only the tracked one leaves a task."""
    async with setup_async_framework(None, max_workers=THREADS):
        manager = get_task_manager()
        answers = {name: make()() for name, make in ON_A_THREAD.items()}
        assert answers == dict.fromkeys(ON_A_THREAD, ANSWER)

        tracked = {}
        for name, make in ON_THE_LOOP.items():
            before = manager.get_stats()["completed"]
            assert finished(make()()) == ANSWER, name
            tracked[name] = manager.get_stats()["completed"] - before
        assert tracked == dict.fromkeys(ON_THE_LOOP, 0) | {OURS: 1}

        assert await manager.get_result(body(ANSWER)) == ANSWER


async def test_ids() -> None:
    """An id is long, and a new one each time."""
    async with setup_async_framework(None):
        for make in (calls.uuid4_text, get_task_manager().new_id):
            one, other = make(), make()
            assert len(one) >= 32
            assert one != other
