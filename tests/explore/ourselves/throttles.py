"""Scenarios of throttles: windows, queues and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from framework import throttled_task
from framework._running.waits.policies import Policies
from framework._running.waits.throttle import Gate, Gates, ThrottlePolicy
from framework._tasks.options import THROTTLE
from framework.exceptions import RateLimitExceededError, TaskCancelledError
from tests.explore.ourselves.run import Run, wind_down
from tests.explore.ourselves.tasks import cancel, outcome


def policy(rate: int, window: float = 1.0, **more: Any) -> ThrottlePolicy:
    """Return the policy of a throttled function."""
    given = {"rate_limit": rate, "time_window": window, **more}
    return ThrottlePolicy("call", THROTTLE.complete(THROTTLE.checked("throttled_task", given)))


def check_window(times: list[float], rate: int, length: float) -> None:
    """Check that no half-open window has more than *rate* calls."""
    ordered = sorted(times)
    for first, last in zip(ordered, ordered[rate:], strict=False):
        assert last - first >= length, ordered


def edge(run: Run) -> None:
    """Threads call at the very edge of a window: no window has too many calls."""
    gate, times = Gate(2, 1.0), list[float]()
    assert gate.take(run.clock.monotonic) is None
    times.append(0.0)

    def call() -> None:
        for _ in range(2):
            if gate.take(run.clock.monotonic) is None:
                times.append(run.clock.monotonic())
            run.sleep(1.0 - run.clock.monotonic() if run.clock.monotonic() < 1 else 0.0)

    run.together(call, call, call)
    check_window(times, 2, 1.0)
    assert sorted(times) == [0.0, 0.0, 1.0, 1.0]


def queue(run: Run) -> None:
    """Calls wait in the queue of a throttle: all get through, each in a window of its own."""
    manager, times = run.manager(3), list[float]()

    @throttled_task(rate_limit=1, time_window=1.0, when_limited="wait")
    def call() -> None:
        times.append(run.clock.monotonic())

    ids = [manager.submit_nowait(call) for _ in range(3)]
    run.together(*(lambda task_id=task_id: outcome(manager, task_id) for task_id in ids))
    assert sorted(times) == [0.0, 1.0, 2.0]


def queue_or_cancel(run: Run) -> None:
    """A call leaves the queue as its turn comes: the next one gets it."""
    manager, times = run.manager(3), list[float]()

    @throttled_task(rate_limit=1, time_window=1.0, when_limited="wait")
    def call() -> None:
        times.append(run.clock.monotonic())

    ids = [manager.submit_nowait(call) for _ in range(3)]

    def stop() -> None:
        run.sleep(1.0)
        cancel(manager, ids[1])

    run.together(stop)
    told = [outcome(manager, task_id) for task_id in ids]
    assert set(told) <= {None, TaskCancelledError}
    assert sorted(times) == [float(number) for number in range(told.count(None))], times


def queue_or_shutdown(run: Run) -> None:
    """The framework stops while calls enter the queue: none sleeps on."""
    manager = run.manager(3)

    @throttled_task(rate_limit=1, time_window=50.0, when_limited="wait")
    def call() -> None:
        pass

    ids = [manager.submit_nowait(call) for _ in range(3)]
    run.together(lambda: wind_down(manager._core))
    told = [outcome(manager, task_id) for task_id in ids]
    assert sorted(told, key=str) == [RateLimitExceededError, RateLimitExceededError, None], told
    assert run.clock.monotonic() < 50


def sleep_or_close(run: Run) -> None:
    """Outside tasks, too: policies are closed while calls begin to wait."""
    policies = Policies(run.clock, run.random)
    its = policy(1, 50.0)
    assert policies.take(its, None) is None

    def call() -> None:
        due = policies.take(its, None)
        assert due is not None
        try:
            policies.wait_turn(its, None, due)
        except RateLimitExceededError:
            return
        raise AssertionError("it was allowed")

    run.together(call, call, policies.close)
    assert run.clock.monotonic() < 50


def first_calls(run: Run) -> None:
    """The first calls of a function come at once: they share one window."""
    policies, its = Policies(run.clock, run.random), policy(1)
    keyed = policy(1, key=lambda: None)
    allowed: list[int] = []

    def call() -> None:
        for number, one in enumerate((its, keyed)):
            if policies.take(one, None) is None:
                allowed.append(number)

    run.together(call, call)
    assert sorted(allowed) == [0, 1], allowed


def purge(run: Run) -> None:
    """Keys come while idle ones are purged: each key has one window."""
    gates, times = Gates(policy(1)), {"a": list[float](), "b": list[float]()}
    gates.take("old", run.clock.monotonic)
    gates._limit = 1
    run.sleep(1.0)

    def call(key: str) -> None:
        if gates.take(key, run.clock.monotonic) is None:
            times[key].append(run.clock.monotonic())

    run.together(lambda: call("a"), lambda: call("b"), lambda: call("a"), lambda: call("b"))
    assert times == {"a": [1.0], "b": [1.0]}, times


def retire_or_use(run: Run) -> None:
    """A gate is used as it is purged."""
    gates, times = Gates(policy(1)), list[float]()
    gates.take("a", run.clock.monotonic)
    gates._limit = 1
    run.sleep(1.0)

    def use() -> None:
        if gates.take("a", run.clock.monotonic) is None:
            times.append(run.clock.monotonic())

    run.together(use, lambda: gates.take("b", run.clock.monotonic), use)
    assert times == [1.0], times


SCENARIOS: list[Callable[[Run], None]] = [
    edge,
    queue,
    queue_or_cancel,
    queue_or_shutdown,
    sleep_or_close,
    first_calls,
    purge,
    retire_or_use,
]
