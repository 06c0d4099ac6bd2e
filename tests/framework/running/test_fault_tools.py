"""What a test toolkit needs to inject faults: see `framework.testing`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from framework import (
    QueueFullError,
    RateLimitExceededError,
    TaskStatus,
    async_task,
    background_task,
    retry_task,
    throttled_task,
)
from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.testing import (
    around_body,
    call_of,
    deliver_again,
    is_in_place,
    override_framework,
    refuse,
)
from tests.framework.running.messages import LIMITED


class AroundBodies(Interceptor):
    """Notes when a function starts, and makes its first start fail."""

    def __init__(self) -> None:
        self.starts = 0

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Put something around the function."""
        is_async = call_of(record).kind == "loop"
        return around_body(call, self._async_body if is_async else self._body)

    def _body(self, call: Callable[[], Any]) -> Any:
        self._start()
        return call()

    async def _async_body(self, call: Callable[[], Any]) -> Any:
        self._start()
        return await call()

    def _start(self) -> None:
        self.starts += 1
        if self.starts == 1:
            raise LookupError("the first start")


class Sender:
    """Has methods that are throttled."""

    @retry_task(retry_delay=0)
    @throttled_task(rate_limit=2, time_window=3_600)
    def send(self, to: str) -> str:
        """Return what it was given."""
        return to

    @throttled_task(rate_limit=1, time_window=3_600)
    def limited(self, to: str) -> str:
        """Return what it was given."""
        return to

    @retry_task(retry_delay=0)
    @throttled_task(rate_limit=2, time_window=3_600)
    async def async_send(self, to: str) -> str:
        """Return what it was given."""
        return to


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("name", ["send", "async_send"])
async def test_what_is_around_a_throttled_function(name: str, partial: bool) -> None:
    """It is called behind the throttle: its error is retried, and each start takes a slot."""
    interceptor = AroundBodies()
    throttled = getattr(Sender, name).fn
    fn: Any = retry_task(retry_delay=0)(functools.partial(throttled, to="ann"))
    if not partial:
        fn = getattr(Sender(), name)
    with override_framework(interceptor=interceptor) as manager:
        args = (Sender(),) if partial else ("ann",)
        assert await manager.submit(fn, args, wait=True) == "ann"
        with pytest.raises(RateLimitExceededError, match=LIMITED):
            await manager.submit(throttled, (Sender(), "ann"), wait=True)
    assert interceptor.starts == 2


async def test_what_is_around_a_throttled_method() -> None:
    """A bound method that is throttled is called with its object behind the throttle."""
    interceptor = AroundBodies()
    interceptor.starts = 1
    with override_framework(interceptor=interceptor) as manager:
        assert await manager.submit(Sender().limited, ("ann",), wait=True) == "ann"
        with pytest.raises(RateLimitExceededError, match=LIMITED):
            await manager.submit(Sender().limited, ("bob",), wait=True)
    assert interceptor.starts == 2


async def test_what_is_around_a_function_without_a_throttle() -> None:
    """It is called at once."""
    interceptor = AroundBodies()
    with override_framework(interceptor=interceptor) as manager:
        assert await manager.submit(retry_task(retry_delay=0)(int), wait=True) == 0
    assert interceptor.starts == 2


# -- deliveries


class Again(Interceptor):
    """Delivers each task a second time, and runs that after the first."""

    def __init__(self) -> None:
        self.seen: set[TaskRecord] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.late: list[Callable[[], Any] | None] = []

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Deliver it again."""
        if record in self.seen:
            return call()
        self.seen.add(record)
        again = deliver_again(record)
        assert again is not None
        if call_of(record).kind == "loop":
            self.tasks.append(again())
        else:
            self.late.append(again)
        return call()


async def count_async(calls: list[int]) -> int:
    """Count its calls."""
    calls.append(len(calls) + 1)
    return calls[-1]


def count(calls: list[int]) -> int:
    """Count its calls."""
    calls.append(len(calls) + 1)
    return calls[-1]


@pytest.mark.parametrize("kind", ["thread", "loop", "in place"])
async def test_a_delivery_that_comes_after_the_end(kind: str) -> None:
    """A further delivery runs the function although the task has ended, and changes nothing."""
    interceptor, calls, kinds = Again(), list[int](), list[str]()

    def note(event: TaskEvent) -> None:
        kinds.append(event.kind)

    with override_framework(interceptor=interceptor) as manager:
        manager.subscribe(note)
        if kind == "in place":
            assert await async_task(count_async)(calls) == 1
        else:
            fn = count if kind == "thread" else count_async
            assert await manager.submit(fn, (calls,), wait=True) == 1
        for again in interceptor.late:
            assert again is not None
            await asyncio.to_thread(again)
        for task in interceptor.tasks:
            await task
        (found,) = manager.get_all_tasks().values()
    assert calls == [1, 2]
    assert (found["status"], found["attempts"]) == (TaskStatus.COMPLETED, 2)
    assert kinds == ["submitted", "started", "started", "completed", "late_result"]


def test_a_task_that_has_ended_is_not_delivered() -> None:
    """There is no further delivery of a task that has ended."""
    records: list[TaskRecord] = []

    class Keeps(Interceptor):
        def before_accept(self, record: TaskRecord) -> None:
            records.append(record)

    with override_framework(interceptor=Keeps()) as manager:
        manager.wait_result(background_task(count)([]))
        assert deliver_again(records[0]) is None


# -- refusals


class Full(Interceptor):
    """Refuses what would queue."""

    def before_accept(self, record: TaskRecord) -> None:
        """Refuse it."""
        if not is_in_place(record):
            refuse(record)


async def test_a_refused_task_counts_as_one_that_a_full_queue_refuses() -> None:
    """It raises QueueFullError with the size of the queue, and is counted as rejected."""
    with override_framework(interceptor=Full()) as manager:
        with pytest.raises(QueueFullError) as caught:
            background_task(count)([])
        assert await async_task(count_async)([]) == 1
        stats = manager.get_stats()
    assert caught.value.queue_size == 10_000
    assert (stats["rejected"], stats["submitted"], stats["completed"]) == (1, 1, 1)
