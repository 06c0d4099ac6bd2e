"""How often a function's body starts: after its throttle, in a task or called directly."""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI

from framework import (
    RateLimitExceededError,
    TaskCancelledError,
    async_task,
    background_task,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework.testing import function_name
from pytest_asyncframe.probe import Probe

two_wait = throttled_task(rate_limit=2, time_window=10, when_limited="wait")
two_raise = throttled_task(rate_limit=2, time_window=10)

MODES = [
    pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode))
    for mode in ("auto", "virtual", "seeded")
]


@background_task
@two_wait
def waiting() -> None:
    """Wait for a turn, and do nothing."""


@background_task
@two_wait
async def waiting_async() -> None:
    """Wait for a turn on a loop, and do nothing."""


@two_wait
def direct() -> None:
    """Wait for a turn, and do nothing, without being a task."""


@two_wait
async def direct_async() -> None:
    """Wait for a turn on a loop, and do nothing, without being a task."""


@two_raise
def refusing() -> None:
    """Do nothing, if the rate allows it."""


# -- throttled


@pytest.mark.parametrize("mode", MODES)
def test_tasks_count_when_they_start(asyncframe: Probe, mode: str) -> None:
    """Tasks that are accepted at once count when their throttle lets them start."""
    for _ in range(6):
        waiting()
    asyncframe.run_until_idle()

    rate = asyncframe.rate(waiting)
    assert [rate.max_in(seconds) for seconds in (10, 11, 60)] == [2, 4, 6]
    assert rate.starts == (0, 0, 10, 10, 20, 20)


def test_a_window_that_is_none_is_refused(asyncframe: Probe) -> None:
    """A window has a number of seconds above 0, and any other value is named."""
    waiting()
    asyncframe.run_until_idle()

    others: list[Any] = [0, -1, math.nan, timedelta(minutes=1), "60"]
    for seconds in others:
        told = rf"^max_in\(\) takes .* above 0.* {re.escape(repr(seconds))}$"
        with pytest.raises((TypeError, ValueError), match=told):
            asyncframe.rate(waiting).max_in(seconds)
    assert asyncframe.rate(waiting).max_in(math.inf) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_coroutine_tasks_count_when_they_start(asyncframe: Probe, mode: str) -> None:
    """The same holds for tasks on the loop."""
    for _ in range(5):
        waiting_async()
    await asyncframe.settled()

    assert asyncframe.rate(waiting_async).starts == (0, 0, 10, 10, 20)


@pytest.mark.asyncframe(mode="manual")
def test_a_waiting_call_does_not_count(asyncframe: Probe) -> None:
    """A task that waits for its throttle is not counted yet."""
    for _ in range(3):
        waiting()
    asyncframe.executor.drain()
    before = asyncframe.rate(waiting).starts
    asyncframe.clock.advance(10)

    assert (before, asyncframe.rate(waiting).starts) == ((0, 0), (0, 0, 10))


def test_refused_calls_do_not_count(asyncframe: Probe) -> None:
    """A rejected call does not count; one after the window does."""
    task = background_task(refusing)
    asyncframe.expect_failure(task, RateLimitExceededError, times=2)
    for _ in range(4):
        task()
    asyncframe.run_until_idle()
    asyncframe.clock.advance(10)
    asyncframe.run_until_complete(task())

    assert asyncframe.rate(task).starts == (0, 0, 10)


@pytest.mark.asyncframe(mode="manual")
async def test_a_cancelled_call_does_not_count(asyncframe: Probe) -> None:
    """A task that is cancelled while it waits for its throttle does not count."""
    ids = [waiting_async() for _ in range(3)]
    asyncframe.executor.drain()
    await asyncframe.clock.run_for(1)
    assert await asyncframe.manager.cancel_task(ids[2])
    with pytest.raises(
        TaskCancelledError, match=r"^task '\w+' \(.*\.waiting_async\) was cancelled$"
    ):
        await asyncframe.completed(ids[2])
    await asyncframe.clock.run_for(60)

    assert asyncframe.rate(waiting_async).starts == (0, 0)


def test_a_key_that_fails_does_not_count(asyncframe: Probe) -> None:
    """A task that fails before its throttle does not count."""

    def by_user(user: dict[str, str]) -> str:
        return user["id"]

    @background_task
    @throttled_task(rate_limit=2, key=by_user)
    def send(user: dict[str, str]) -> None:
        """Do nothing."""

    asyncframe.expect_failure(send, KeyError)
    asyncframe.run_until_complete(send({}), check=False)
    asyncframe.run_until_complete(send({"id": "ann"}))

    assert len(asyncframe.rate(send).starts) == 1


def test_all_keys_count_together(asyncframe: Probe) -> None:
    """Each key has a window of its own, but the rate includes all keys."""

    @background_task
    @throttled_task(rate_limit=1, time_window=10, when_limited="wait", key=lambda user: user)
    def send(user: str) -> None:
        """Do nothing."""

    for user in ("ann", "bob", "ann", "cid"):
        send(user)
    asyncframe.run_until_idle()

    assert asyncframe.rate(send).starts == (0, 0, 0, 10)


def test_each_attempt_counts(asyncframe: Probe) -> None:
    """Each attempt of a retry waits for the throttle, and counts when it starts."""

    @background_task
    @retry_task(max_retries=3, retry_delay=1)
    @two_wait
    def flaky() -> None:
        raise ConnectionError("no")

    asyncframe.expect_failure(flaky, ConnectionError)
    asyncframe.run_until_complete(flaky(), check=False)

    assert asyncframe.rate(flaky).starts == (0, 1, 10, 11)
    assert asyncframe.delays(flaky) == [1, 1, 8, 1]


# -- outside any task


def test_calls_from_the_test_count(asyncframe: Probe) -> None:
    """Direct calls count when they start, together with those of tasks."""
    for _ in range(3):
        direct()
    asyncframe.run_until_complete(asyncframe.manager.submit_nowait(direct))

    assert asyncframe.rate(direct).starts == (0, 0, 10, 10)


def test_delays_of_calls_from_the_test(asyncframe: Probe) -> None:
    """delays() includes direct calls, by function and by name."""
    for _ in range(3):
        direct()

    assert asyncframe.delays(direct) == [10]
    assert asyncframe.delays(function_name(direct)) == [10]


async def test_coroutines_of_the_test_count(asyncframe: Probe) -> None:
    """Coroutines awaited directly count when they start."""
    for _ in range(3):
        await direct_async()

    assert asyncframe.rate(direct_async).starts == (0, 0, 10)


async def test_calls_from_routes_count(asyncframe: Probe) -> None:
    """Calls from a route count, except those answered with 429."""
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/refusing")(refusing)
    app.get("/waiting")(direct_async)

    async with asyncframe.client(app) as client:
        answers = [(await client.get("/refusing")).status_code for _ in range(3)]
        for _ in range(3):
            await client.get("/waiting")

    assert answers == [200, 200, 429]
    assert asyncframe.rate(refusing).starts == (0, 0)
    assert asyncframe.rate(direct_async).starts == (0, 0, 10)


def test_calls_from_another_task_count(asyncframe: Probe) -> None:
    """A call from a task counts for the function called, not for the task."""

    @background_task
    def caller() -> None:
        for _ in range(3):
            direct()

    asyncframe.run_until_complete(caller())

    assert asyncframe.rate(direct).starts == (0, 0, 10)
    assert asyncframe.rate(caller).starts == (0,)
    assert asyncframe.rate(function_name(caller)).starts == (0,)


@pytest.mark.asyncframe(mode="virtual")
def test_calls_on_many_threads_count(asyncframe: Probe) -> None:
    """No call is lost when 8 threads start at once."""
    together = threading.Barrier(8)
    limited = throttled_task(rate_limit=10_000)(int)

    def calls() -> None:
        together.wait()
        for _ in range(100):
            limited()

    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(calls) for _ in range(8)]:
            call.result()

    assert asyncframe.rate(limited).max_in(60) == 800


@pytest.mark.asyncframe(mode="threads")
def test_real_time_keeps_the_rate(asyncframe: Probe) -> None:
    """On real threads in real time, no window has more starts than the rate allows."""
    limited = background_task(
        throttled_task(rate_limit=20, time_window=0.005, when_limited="wait")(int)
    )
    for _ in range(200):
        limited()
    asyncframe.run_until_idle()

    rate = asyncframe.rate(limited)
    assert len(rate.starts) == 200
    assert rate.max_in(0.005) <= 20


# -- which function is meant


def _throttled() -> None:
    """Do nothing, behind a throttle."""


class Sender:
    """Has a throttled method."""

    @background_task
    @two_wait
    def send(self) -> None:
        """Do nothing."""


DIRECT = two_wait(_throttled)
MEANT: dict[str, Callable[..., Any] | str] = {
    "throttled": DIRECT,
    "with retries": retry_task(DIRECT),
    "background": background_task(retry_task(DIRECT)),
    "async": async_task(DIRECT),
    "named": background_task(DIRECT).options(name="another.name"),
    "bare": _throttled,
    "name": function_name(_throttled),
}


def test_any_stack_means_the_same(asyncframe: Probe) -> None:
    """A function can be given as any of its decorated forms, as itself, or by name."""
    DIRECT()
    asyncframe.run_until_complete(asyncframe.manager.submit_nowait(DIRECT))
    asyncframe.run_until_complete(background_task(retry_task(DIRECT))())

    found = {meant: asyncframe.rate(fn).starts for meant, fn in MEANT.items()}
    assert found == dict.fromkeys(MEANT, (0, 0, 10))


def test_tasks_of_another_name(asyncframe: Probe) -> None:
    """A task's own name matches its calls only; the function's name matches all calls."""
    reports = background_task(DIRECT).options(name="reports")
    DIRECT()
    asyncframe.run_until_complete(reports())
    asyncframe.run_until_complete(reports())

    assert asyncframe.rate("reports").starts == (0, 10)
    assert asyncframe.rate(function_name(DIRECT)).starts == (0, 0, 10)
    assert asyncframe.rate("another.name").starts == ()


def test_methods(asyncframe: Probe) -> None:
    """A method can be given from the class or from an instance."""
    one, other = Sender(), Sender()
    for sender in (one, one, other):
        sender.send()
    asyncframe.run_until_idle()

    assert asyncframe.rate(Sender.send).starts == (0, 0, 10)
    assert asyncframe.rate(other.send).starts == (0, 0, 10)


def test_partials(asyncframe: Probe) -> None:
    """A partial of a throttled function counts as the function."""
    part = background_task(functools.partial(DIRECT))
    for _ in range(3):
        part()
    asyncframe.run_until_idle()

    assert asyncframe.rate(part).starts == (0, 0, 10)
    assert asyncframe.rate(DIRECT).starts == (0, 0, 10)


# -- not throttled


def test_attempts_count_where_there_is_no_throttle(asyncframe: Probe) -> None:
    """Without a throttle, each attempt of the tasks counts when it starts."""

    @background_task
    @retry_task(max_retries=2, retry_delay=3)
    def flaky() -> None:
        raise ConnectionError("no")

    asyncframe.expect_failure(flaky, ConnectionError, times=2)
    for _ in range(2):
        asyncframe.run_until_complete(flaky(), check=False)

    assert asyncframe.rate(flaky).starts == (0, 3, 6, 6, 9, 12)
    assert asyncframe.rate(flaky).max_in(3) == 2


def test_functions_with_the_same_name(asyncframe: Probe) -> None:
    """Two functions with the same name and no throttle are counted separately."""

    def make() -> Callable[[], str]:
        @background_task
        def made() -> None:
            """Do nothing."""

        return made

    one, other = make(), make()
    for start in (one, one, other):
        start()
    asyncframe.run_until_idle()

    assert [len(asyncframe.rate(fn).starts) for fn in (one, other)] == [2, 1]
