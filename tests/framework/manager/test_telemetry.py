"""Telemetry: what is attached to a manager, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework import TaskManager, background_task, get_task_manager, setup_async_framework
from framework.protocols import TaskEvent
from pytest_asyncframe.clock import VirtualClock


class Recorded:
    """Notes what it is attached to, the kinds of events, and when it is detached."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.managers: list[TaskManager] = []

    def attach(self, manager: TaskManager) -> Callable[[], None]:
        """Subscribe to all events."""
        self.managers.append(manager)
        unsubscribe = manager.subscribe(lambda event: self.heard.append(event.kind))

        def detach() -> None:
            unsubscribe()
            self.heard.append("detached")

        return detach


async def test_it_hears_all_tasks_of_an_app() -> None:
    """It hears of the tasks that a drain cancels, and is detached after that."""
    telemetry = Recorded()
    lifespan = setup_async_framework(
        None, telemetry=[telemetry], max_workers=1, graceful_shutdown_timeout=0
    )
    async with lifespan:
        manager = get_task_manager()
        await manager.submit(int, delay=3_600)
    assert telemetry.managers == [manager]
    assert telemetry.heard == ["submitted", "cancelled", "detached"]


async def test_without_telemetry() -> None:
    """Without it nothing listens, so that no task makes an event."""
    async with setup_async_framework(None):
        assert get_task_manager()._core.ledger.sinks == {}


async def test_one_that_fails_ends_the_others() -> None:
    """If one cannot be attached, those before it are detached, and the framework is closed."""

    class Broken:
        """Cannot be attached."""

        def attach(self, manager: TaskManager) -> Callable[[], None]:
            """Raise an error."""
            raise LookupError("no registry")

    telemetry = Recorded()
    with pytest.raises(LookupError, match=r"^no registry$"):
        async with setup_async_framework(None, telemetry=[telemetry, Broken()]):
            raise AssertionError("the framework must not start")
    assert telemetry.heard == ["detached"]


def test_it_can_be_subscribed(task_manager: TaskManager) -> None:
    """`subscribe` attaches an object that is no function but can be attached."""
    telemetry = Recorded()
    detach = task_manager.subscribe(telemetry)
    assert telemetry.managers == [task_manager]
    detach()
    assert telemetry.heard == ["detached"]


async def test_the_end_of_a_task_tells_its_times(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """It has the seconds in the queue, without the task's delay, and those of the run."""
    events: list[TaskEvent] = []
    task_manager.subscribe(events.append)

    @background_task
    async def sleep() -> None:
        await task_clock.asleep(3.0)

    task_id = sleep.options(delay=5.0)()
    await task_clock.run_for(10.0)
    await task_manager.get_result(task_id)
    assert [(one.kind, one.wait_time, one.duration) for one in events] == [
        ("submitted", None, None),
        ("started", None, None),
        ("completed", 0.0, 3.0),
    ]


async def test_a_task_that_never_started_has_no_times(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """The end of a task that was cancelled in time has neither."""
    events: list[TaskEvent] = []
    task_manager.subscribe(events.append, kinds={"cancelled"})
    assert await task_manager.cancel_task(await task_manager.submit(int, delay=5.0))
    assert [(one.wait_time, one.duration) for one in events] == [(None, None)]
