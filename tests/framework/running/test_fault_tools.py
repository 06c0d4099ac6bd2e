"""What a test toolkit needs to inject faults: see `framework.testing`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from framework import (
    TaskStatus,
    async_task,
    background_task,
)
from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.testing import (
    call_of,
    deliver_again,
    override_framework,
)


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
