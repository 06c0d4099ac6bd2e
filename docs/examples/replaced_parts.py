"""Tests that replace parts of the framework."""

import itertools
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, retry_task, setup_async_framework, throttled_task
from framework.protocols import Clock, Interceptor, TaskRecord, TimerHandle
from framework.testing import override_framework

app = FastAPI(lifespan=setup_async_framework)


@throttled_task(rate_limit=5, time_window=60)
async def limited_call() -> str:
    """Be called at most five times a minute."""
    return "done"


@app.get("/limited")
async def call() -> str:
    """Call the rate-limited function."""
    return await limited_call()


@background_task
@retry_task(max_retries=1, retry_delay=0)
def import_orders() -> str:
    """Import orders; this may fail sometimes."""
    return "imported"


class Timer(TimerHandle):
    """A timer of `ManualClock`."""

    def __init__(self, when: float, fn: Callable[[], object], background: bool) -> None:
        self.when = when
        self.fn: Callable[[], object] | None = fn
        self.background = background

    def cancel(self) -> None:
        """Cancel the timer."""
        self.fn = None


class ManualClock(Clock):
    """Time that stands still until a test moves it.

    Threads that wait with a timeout (a sync retry or throttle) wait in real time, because
    this clock is as simple as possible.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def sleep(self, seconds: float) -> None:
        """Advance the clock, and return immediately."""
        self.advance(seconds)

    async def asleep(self, seconds: float) -> None:
        """Advance the clock, and return immediately."""
        self.advance(seconds)

    def time(self) -> float:
        """Return the wall clock."""
        return 1_700_000_000.0 + self.now

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        return self.now

    def call_at(
        self, when: float, fn: Callable[[], object], *, background: bool = False
    ) -> TimerHandle:
        """Add a timer; `advance` fires it."""
        timer = Timer(when, fn, background)
        self.timers.append(timer)
        return timer

    def wait(self, condition: Any, timeout: float | None = None) -> bool:
        """Wait in real time."""
        return bool(condition.wait(timeout))

    def advance(self, seconds: float) -> None:
        """Move time forward and fire the timers that are due."""
        self.now += seconds
        due = sorted((one for one in self.timers if one.when <= self.now), key=lambda t: t.when)
        self.timers = [one for one in self.timers if one.when > self.now]
        for timer in due:
            if timer.fn is not None:
                timer.fn()


class FailFirst(Interceptor):
    """Makes the first attempt of every task fail."""

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Fail the first attempt, and run the others."""
        if attempt == 1:
            raise ConnectionError("injected by the test")
        return call()


def test_a_minute_passes_at_once() -> None:
    """The sixth call is refused; a minute later calls are allowed again."""
    clock = ManualClock()
    with override_framework(clock=clock), TestClient(app) as client:
        assert [client.get("/limited").status_code for _ in range(6)] == [200] * 5 + [429]
        clock.advance(59.9)
        assert client.get("/limited").status_code == 429
        clock.advance(0.1)
        assert client.get("/limited").status_code == 200


def test_a_delay_of_an_hour_takes_no_time() -> None:
    """A delayed task starts when the test moves the clock."""
    clock = ManualClock()
    with override_framework(clock=clock) as manager, TestClient(app):
        task_id = manager.submit_nowait(lambda: "done", delay=3600)
        assert manager.get_active_count() == 1
        clock.advance(3600)
        assert manager.wait_result(task_id, timeout=60) == "done"


def test_a_fault_is_survived() -> None:
    """The first attempt fails and the retry succeeds; the test chooses the ids."""
    numbers = itertools.count(1)
    with override_framework(
        interceptor=FailFirst(), new_id=lambda: f"task-{next(numbers)}"
    ) as manager:
        task_id = import_orders()
        assert task_id == "task-1"
        assert manager.wait_result(task_id, timeout=60) == "imported"
        task = manager.get_all_tasks()[task_id]
        assert task["attempts"] == 2
