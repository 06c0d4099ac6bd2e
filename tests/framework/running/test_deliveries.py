"""What becomes of a task when its delivery, its store or its wait goes wrong."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from framework import (
    RateLimitExceededError,
    TaskCancelledError,
    TaskManager,
    TaskNotFoundError,
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.stores.memory import MemoryStore
from framework.testing import override_framework
from pytest_asyncframe.probe import Probe
from tests.framework.running.messages import CANCELLED, LIMITED, UNKNOWN
from tests.patience import PATIENCE


class DeliversTwice(Interceptor):
    """A fault: every task is delivered a second time while it runs."""

    def around_delivery(self, record: TaskRecord, deliver: Callable[[], bool]) -> bool:
        """Deliver, and once more from the side."""
        self.again = threading.Thread(target=deliver)
        return deliver()


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_a_second_delivery_is_counted_and_changes_nothing(kind: str) -> None:
    """A second delivery runs the body in a context of its own, and the task still ends once."""
    interceptor = DeliversTwice()
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    runs: list[int] = []
    late = asyncio.Event()

    def note(event: TaskEvent) -> None:
        if event.kind == "late_result":
            loop.call_soon_threadsafe(late.set)

    def on_thread() -> int:
        task = current_task()
        assert task is not None
        number = task.attempts
        runs.append(number)
        loop.call_soon_threadsafe(started.set)
        if number == 1:
            interceptor.again.start()
        else:
            go_on.set()
        assert go_on.wait(PATIENCE)
        return number

    async def on_loop() -> int:
        task = current_task()
        assert task is not None
        number = task.attempts
        runs.append(number)
        if number == 1:
            started.set()
            interceptor.again.start()
            await loop.run_in_executor(None, go_on.wait, PATIENCE)
        else:
            go_on.set()
        return number

    body: Callable[[], Any] = on_thread if kind == "thread" else on_loop
    with override_framework(interceptor=interceptor) as manager:
        manager.subscribe(note)
        task_id = await manager.submit(body)
        await manager.get_result(task_id)
        await late.wait()
        task = await manager.get_task(task_id)
        stats = manager.get_stats()
    assert runs == [1, 2]
    assert task is not None
    assert (task.status, task.attempts, task.still_running) == (TaskStatus.COMPLETED, 2, False)
    assert stats["completed"] == stats["late_results"] == 1


async def test_a_store_that_fails_leaves_no_task_live(caplog: pytest.LogCaptureFixture) -> None:
    """A task whose record the store refuses still ends, and the refusal is logged."""

    class Full(MemoryStore):
        def put(self, record: TaskRecord) -> None:
            raise OSError("the disk is full")

    ended = threading.Event()
    with override_framework(store=Full()) as manager:
        task_id = await manager.submit(int, on_complete=lambda _: ended.set())
        assert await asyncio.to_thread(ended.wait, PATIENCE)
        with pytest.raises(TaskNotFoundError, match=UNKNOWN):
            await manager.get_result(task_id)
        assert manager.get_active_count() == 0
        assert manager.get_stats()["completed"] == 1
    assert f"the store did not accept task {task_id}" in caplog.text


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_a_cancelled_task_does_not_wait_for_its_next_attempt(
    asyncframe: Probe, kind: str
) -> None:
    """Cancelling a task during a retry's delay ends it at once, on a thread as well."""
    manager, clock = asyncframe.manager, asyncframe.clock

    def fail() -> None:
        raise ConnectionError

    async def fail_on_loop() -> None:
        raise ConnectionError

    body: Any = fail if kind == "thread" else fail_on_loop
    task_id = await manager.submit(retry_task(retry_delay=3600)(body))
    await clock.run_for(1)
    assert asyncframe.delays(body) == [3600]
    assert await manager.cancel_task(task_id) is True
    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await asyncframe.completed(task_id)
    assert clock.monotonic() == 1


async def test_a_cancelled_task_does_not_wait_for_its_slot(asyncframe: Probe) -> None:
    """Cancelling a thread task that waits for a throttle's slot ends its wait and the task."""
    clock = asyncframe.clock

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    def slot() -> None:
        """Take the slot."""

    task_ids = [background_task(slot)() for _ in range(2)]
    await clock.run_for(1)
    assert await asyncframe.manager.cancel_task(task_ids[1]) is True
    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await asyncframe.completed(task_ids[1])
    assert clock.monotonic() == 1


async def test_a_wait_that_begins_while_the_framework_stops_ends_at_once() -> None:
    """A throttled call that would wait during a drain raises RateLimitExceededError at once."""

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    async def slot() -> None:
        """Take the slot."""

    go_on, started = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        started.set()
        await go_on.wait()
        await slot()

    async with setup_async_framework(None, graceful_shutdown_timeout=PATIENCE):
        manager = get_task_manager()
        await slot()
        task_id = await manager.submit(body)
        await started.wait()
        asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(RateLimitExceededError, match=LIMITED):
        await manager.get_result(task_id)


def test_a_loop_that_closes_under_a_task_interrupts_it() -> None:
    """A task whose loop is closed without a drain is INTERRUPTED, not RUNNING for ever."""

    async def begin(manager: TaskManager) -> str:
        started = asyncio.Event()

        async def forever() -> None:
            started.set()
            await asyncio.Event().wait()

        task_id = await manager.submit(forever)
        await started.wait()
        return task_id

    with override_framework() as manager:
        loop = asyncio.new_event_loop()
        task_id = loop.run_until_complete(begin(manager))
        leftover = asyncio.all_tasks(loop)
        logging.getLogger("asyncio").disabled = True
        try:
            for one in leftover:
                one.get_coro().close()  # as collection does
            del leftover, one
            loop.close()
        finally:
            logging.getLogger("asyncio").disabled = False
        task = asyncio.run(manager.get_task(task_id))
    assert task is not None
    assert task.status is TaskStatus.INTERRUPTED
    assert task.reason == "its event loop was closed"
