"""Windows of all workers: a call is counted when its body begins, however slow the way is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from framework._threads.clock import SystemClock
from framework.engines.celery._redis.state import State
from framework.engines.celery._redis.windows import Windows
from framework.exceptions import RateLimitExceededError
from framework.worker._policies import WorkerPolicies
from tests.framework.policies import throttle_policy

POLICY = throttle_policy("calls", rate_limit=2, time_window=30.0, when_limited="raise", key=None)


class SlowWay:
    """The way to Redis, which holds this process up for so many seconds at each answer."""

    def __init__(self, state: State) -> None:
        self._windows = Windows(state)
        self.delays: list[float] = []
        self.now = 1000.0
        self.asked: list[str] = []

    def _pass(self, name: str) -> None:
        self.asked.append(name)
        self.now += self.delays.pop(0) if self.delays else 0.0

    def take(self, *given: Any) -> Any:
        """Count a call, and take long to say so."""
        answer = self._windows.take(*given)
        self._pass("take")
        return answer

    def restamp(self, *given: Any) -> Any:
        """Count it at another time, and take long to say so."""
        answer = self._windows.restamp(*given)
        self._pass("restamp")
        return answer


@pytest.fixture
def state(redis_url: str) -> Iterator[State]:
    """Windows of an empty namespace."""
    kept = State(redis_url, "test", 60.0)
    yield kept
    kept.client.close()


@pytest.fixture
def way(state: State) -> SlowWay:
    """The way there."""
    return SlowWay(state)


@pytest.fixture
def policies(way: SlowWay) -> WorkerPolicies:
    """What a process of a worker has."""
    host: Any = SimpleNamespace()
    made = WorkerPolicies(SystemClock(), random.Random(0), host)
    made.windows = way
    # It moves while the way to Redis is slow.
    made.monotonic = lambda: way.now
    return made


def counted(state: State, policies: WorkerPolicies) -> tuple[float, float]:
    """Count a call; return how far ahead of now its stamp is, at least and at most, in seconds."""
    before = state.now()
    assert policies.take(POLICY, None) is None
    after = state.now()
    (stamp,) = state.client.zrange(f"{state.prefix}throttle:calls", 0, -1, withscores=True)
    return stamp[1] / 1e6 - after, stamp[1] / 1e6 - before


def test_quick_answer(state: State, way: SlowWay, policies: WorkerPolicies) -> None:
    """Where Redis answers at once a call costs one question."""
    way.delays = [0.009]
    assert policies.take(POLICY, None) is None
    assert way.asked == ["take"]


def test_slow_answer(state: State, way: SlowWay, policies: WorkerPolicies) -> None:
    """A call whose answer was slow is counted again, ahead of the time that this takes."""
    way.delays = [0.5, 0.9]
    least, most = counted(state, policies)
    assert way.asked == ["take", "restamp"]
    # As much later as twice the first answer took, which the second one stayed below.
    assert least <= 1.0 <= most


def test_slower_and_slower(state: State, way: SlowWay, policies: WorkerPolicies) -> None:
    """It is counted again until the body begins no later than its stamp, give or take 10 ms."""
    way.delays = [0.5, 2.0, 3.9]
    least, most = counted(state, policies)
    assert way.asked == ["take", "restamp", "restamp"]
    assert least <= 4.0 <= most


def test_a_process_that_stood_still(state: State, way: SlowWay, policies: WorkerPolicies) -> None:
    """What held a process up for long, and once, does not keep its call in the window for long."""
    way.delays = [20.0]
    least, most = counted(state, policies)
    assert way.asked == ["take", "restamp"]
    assert least <= 1.0 <= most


def test_longer_than_the_window(state: State, way: SlowWay, policies: WorkerPolicies) -> None:
    """A call that was counted a window ago is counted anew, or refused."""
    way.delays = [40.0]
    expired = way.take

    def take(*given: Any) -> Any:
        answer = expired(*given)
        if len(way.asked) == 1:
            key = f"{state.prefix}throttle:calls"
            state.client.zadd(key, {str(answer[1]): (state.now() - 40.0) * 1e6})
            # Meanwhile others have had the window.
            assert [Windows(state).take("calls", 2, 30.0, "")[0] for _ in range(2)] == [None, None]
        return answer

    way.take = take  # type: ignore[method-assign]  # that is the test
    due = policies.take(POLICY, None)
    assert due is not None
    assert 0.0 < due - way.now <= 30.0
    assert way.asked == ["take", "restamp", "take"]
    assert isinstance(policies.limit_error(POLICY, due), RateLimitExceededError)
