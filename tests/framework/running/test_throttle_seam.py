"""What an interceptor hears of throttled calls, and what nobody pays who has none."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from framework import (
    RateLimitExceededError,
    async_task,
    background_task,
    retry_task,
    throttled_task,
)
from framework._manager.frameworks import find_policies
from framework._running.waits.policies import Policies, WatchedPolicies
from framework.protocols import Interceptor, TaskRecord
from framework.testing import Call, call_of, function_name, override_framework
from pytest_asyncframe.probe import Probe
from tests.framework.exact import ExactClock
from tests.framework.running.messages import LIMITED

wide = throttled_task(rate_limit=1_000)
waits = throttled_task(rate_limit=1, time_window=10, when_limited="wait")


class Heard(Interceptor):
    """Notes what it hears, with the thread on which it does."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.records: list[TaskRecord | None] = []
        self.stamps: list[float] = []
        self.threads: list[int] = []

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """Note a call that was let pass."""
        self.names.append(name)
        self.records.append(record)
        self.stamps.append(at)
        self.threads.append(threading.get_ident())


class CountingClock(ExactClock):
    """A clock that is a second later at each reading."""

    def monotonic(self) -> float:
        """Move on and return the second."""
        self.advance(1)
        return super().monotonic()


@pytest.fixture
def heard() -> Heard:
    """Return an interceptor."""
    return Heard()


# -- the cost of it


def test_without_an_interceptor_policies_are_the_plain_ones() -> None:
    """Without an interceptor, a framework's policies call none."""
    with override_framework():
        assert type(find_policies()) is Policies


def test_with_an_interceptor_policies_are_watched(heard: Heard) -> None:
    """With an interceptor, a framework's policies call it."""
    with override_framework(interceptor=heard):
        assert type(find_policies()) is WatchedPolicies


def test_outside_any_framework_policies_are_the_plain_ones() -> None:
    """The policies outside of any framework call no interceptor."""
    assert type(find_policies()) is Policies


# -- who is told of what


def test_a_direct_call_is_told(heard: Heard) -> None:
    """For a call outside any task, the interceptor gets its name, before the body begins."""
    order: list[int] = []

    @wide
    def body() -> None:
        order.append(len(heard.names))

    with override_framework(interceptor=heard, clock=ExactClock(1_000)):
        body()

    assert heard.names == [function_name(body)]
    assert heard.names[0].endswith("test_a_direct_call_is_told.<locals>.body")
    assert (heard.records, heard.stamps) == ([None], [1_000.0])
    assert (heard.threads, order) == ([threading.get_ident()], [1])


def test_a_task_is_told_on_its_thread(heard: Heard) -> None:
    """For a throttled task, the interceptor gets its record, on the thread that runs its body."""

    @background_task
    @wide
    def body() -> int:
        return threading.get_ident()

    with override_framework(interceptor=heard) as manager:
        task_id = body()
        thread = manager.wait_result(task_id)

    assert [record and record.task_id for record in heard.records] == [task_id]
    assert heard.threads == [thread]


async def test_a_coroutine_is_told_on_its_loop(heard: Heard) -> None:
    """For a throttled coroutine, the interceptor gets its record, on the loop's thread."""

    @async_task
    @wide
    async def body() -> None:
        """Do nothing."""

    with override_framework(interceptor=heard):
        await body()

    assert [record and record.name for record in heard.records] == [function_name(body)]
    assert heard.threads == [threading.get_ident()]


def test_a_call_that_waits_is_told_when_it_passes(heard: Heard, asyncframe: Probe) -> None:
    """For a thread that waits for its turn, the interceptor is called once the turn has come."""
    clock, meanwhile = asyncframe.clock, list[list[float]]()
    limited = waits(int)
    with override_framework(interceptor=heard, clock=clock, nested=True):
        limited()
        clock.call_at(9, lambda: meanwhile.append(list(heard.stamps)))
        limited()

    assert meanwhile == [[0.0]]
    assert heard.stamps == [0.0, 10.0]
    assert heard.threads == [threading.get_ident()] * 2


def test_the_stamp_is_the_one_that_the_window_is_kept_by(heard: Heard) -> None:
    """The interceptor gets the very reading of the clock that the gate counted the call with."""
    clock = CountingClock()
    limited = throttled_task(rate_limit=2, time_window=100)(int)
    with override_framework(interceptor=heard, clock=clock):
        limited()
        limited()
        with pytest.raises(RateLimitExceededError) as caught:
            limited()
        free_at = ExactClock.monotonic(clock) + caught.value.retry_after

    assert heard.stamps[1] > heard.stamps[0] > 1_000
    assert free_at == heard.stamps[0] + 100


def test_a_refused_call_is_not_told(heard: Heard) -> None:
    """A call that is raised to its caller has not passed."""
    limited = throttled_task(rate_limit=1)(int)
    with override_framework(interceptor=heard):
        limited()
        with pytest.raises(RateLimitExceededError, match=LIMITED):
            limited()

    assert len(heard.names) == 1


async def test_a_sync_call_on_a_loop_is_not_told_when_it_must_wait(heard: Heard) -> None:
    """A sync call on a loop's thread cannot wait, is refused, and has not passed."""
    limited = waits(int)
    with override_framework(interceptor=heard):
        limited()
        with pytest.raises(RateLimitExceededError, match=LIMITED):
            limited()

    assert len(heard.names) == 1


async def test_a_call_that_gives_up_is_not_told(heard: Heard, asyncframe: Probe) -> None:
    """A coroutine that is cancelled while it waits never passes, and the next one does."""

    @waits
    async def limited() -> None:
        """Do nothing."""

    with override_framework(interceptor=heard, clock=asyncframe.clock, nested=True):
        await limited()
        gone, stays = (asyncio.ensure_future(limited()) for _ in range(2))
        await asyncframe.clock.run_for(1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError, match=r"^$"):
            await gone
        await stays

    assert heard.stamps == [0.0, 10.0]


def test_each_attempt_is_told(heard: Heard) -> None:
    """A retried function passes its throttle once for each attempt."""
    failures = iter([ConnectionError(), ConnectionError()])

    @retry_task(max_retries=2, retry_delay=0)
    @wide
    def body() -> str:
        for error in failures:
            raise error
        return "done"

    with override_framework(interceptor=heard):
        assert body() == "done"

    assert heard.names == [function_name(body)] * 3


# -- what an interceptor does then


def test_an_interceptor_need_not_care() -> None:
    """With an interceptor without the method, throttled calls pass as usual."""
    limited = throttled_task(rate_limit=1)(int)
    with override_framework(interceptor=type("Silent", (Interceptor,), {})()):
        assert limited() == 0
        with pytest.raises(RateLimitExceededError, match=LIMITED):
            limited()


def test_what_an_interceptor_raises_takes_the_place_of_the_call() -> None:
    """The interceptor's error reaches the caller; the body does not begin, and the slot is used."""
    ran: list[int] = []

    class Failing(Interceptor):
        def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
            raise ConnectionResetError("injected")

    limited = throttled_task(rate_limit=1)(lambda: ran.append(1))
    with override_framework(interceptor=Failing()):
        with pytest.raises(ConnectionResetError, match=r"^injected$"):
            limited()
        with pytest.raises(RateLimitExceededError, match=LIMITED):
            limited()

    assert ran == []


# -- what a toolkit learns of functions


def body() -> None:
    """Do nothing."""


STACKS: dict[str, tuple[Callable[..., Any], bool]] = {
    "bare": (body, False),
    "retry": (retry_task(body), False),
    "background on retry": (background_task(retry_task(body)), False),
    "throttle": (wide(body), True),
    "background on throttle": (background_task(wide(body)), True),
    "async on retry on throttle": (async_task(retry_task(wide(body))), True),
    "options": (background_task(wide(body)).options(name="x"), True),
    "background on partial of throttle": (background_task(functools.partial(wide(body))), True),
    "partial of throttle": (functools.partial(wide(body)), True),
    "wrapper of throttle": (functools.wraps(wide(body))(lambda: None), True),
}


def test_a_call_tells_whether_it_is_throttled() -> None:
    """However decorators are stacked, a call says whether a throttle is among them."""
    seen: list[Call] = []

    class Looking(Interceptor):
        def before_accept(self, record: TaskRecord) -> None:
            seen.append(call_of(record))
            raise PermissionError("seen enough")

    with override_framework(interceptor=Looking()) as manager:
        for fn, _ in STACKS.values():
            with pytest.raises(PermissionError, match=r"^seen enough$"):
                manager.submit_nowait(fn)

    found = dict(zip(STACKS, [call.throttled for call in seen], strict=True))
    assert found == {stack: throttled for stack, (_, throttled) in STACKS.items()}


def test_a_function_keeps_its_name() -> None:
    """A function is called the same with any decorators, whatever its tasks are called."""
    names = {stack: function_name(fn) for stack, (fn, _) in STACKS.items()}

    assert names == dict.fromkeys(STACKS, f"{__name__}.body")
