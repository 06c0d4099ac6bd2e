"""Tracers: sinks that carry something from the submission of a task to its function."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar

import pytest

from framework import (
    TaskManager,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.protocols import TaskEvent, TaskRecord, TaskTracer
from pytest_asyncframe.faults import FaultPlan
from pytest_asyncframe.probe import Probe

CALLER: ContextVar[str] = ContextVar("caller", default="nobody")
PLACE: ContextVar[str] = ContextVar("place", default="nowhere")


class Carrier(TaskTracer):
    """Carries who submitted a task to where it runs."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.started: list[Mapping[str, str] | None] = []

    def __call__(self, event: TaskEvent) -> None:
        """Note the event."""
        self.kinds.append(event.kind)

    def submitted(self, record: TaskRecord) -> Mapping[str, str]:
        """Carry the caller."""
        return {"caller": CALLER.get()}

    def starting(self, record: TaskRecord, carried: Mapping[str, str] | None) -> None:
        """Set the place."""
        self.started.append(carried)
        PLACE.set("nobody" if carried is None else carried["caller"])


class Failing(Carrier):
    """Raises an error in each method."""

    def submitted(self, record: TaskRecord) -> Mapping[str, str]:
        """Raise an error."""
        raise RuntimeError("submitted")

    def starting(self, record: TaskRecord, carried: Mapping[str, str] | None) -> None:
        """Raise another error."""
        raise RuntimeError("starting")


@background_task
def on_a_thread() -> str:
    """Return the place."""
    return PLACE.get()


@background_task
async def on_the_loop() -> str:
    """Return the place."""
    return PLACE.get()


@async_task
async def where_awaited() -> str:
    """Return the place."""
    return PLACE.get()


@pytest.mark.parametrize("task", [on_a_thread, on_the_loop])
async def test_what_is_carried_is_set_in_the_function(task_manager: TaskManager, task) -> None:
    """A function sees what its tracer set, which came from the code that submitted it."""
    task_manager.subscribe(Carrier())
    CALLER.set("a request")

    assert await task_manager.get_result(task()) == "a request"
    assert PLACE.get() == "nowhere"


async def test_in_place_nothing_is_submitted(task_manager: TaskManager) -> None:
    """A task that runs where it is awaited starts without anything carried."""
    tracer = Carrier()
    task_manager.subscribe(tracer)

    assert await where_awaited() == "nobody"
    assert tracer.started == [None]
    assert PLACE.get() == "nowhere"


async def test_retries_start_once(task_manager: TaskManager) -> None:
    """A tracer is asked once for a task, however many attempts its function makes."""
    tracer = Carrier()
    task_manager.subscribe(tracer)
    errors = [OSError(), OSError()]

    @background_task
    @retry_task(max_retries=2, retry_delay=0.0)
    async def flaky() -> str:
        if errors:
            raise errors.pop()
        return PLACE.get()

    assert await task_manager.get_result(flaky()) == "nobody"
    assert tracer.started == [{"caller": "nobody"}]


async def test_a_tracer_may_ask_for_few_events() -> None:
    """A tracer is asked about each task, whichever kinds of events it has subscribed to."""
    tracer = Carrier()
    # Without the fixture, whose own sinks ask for all events.
    async with setup_async_framework(None):
        manager = get_task_manager()
        manager.subscribe(tracer, kinds=["completed"])
        assert await manager.get_result(on_a_thread()) == "nobody"

    assert tracer.kinds == ["completed"]


async def test_a_second_delivery_starts_nothing(
    asyncframe: Probe, task_faults: FaultPlan, caplog: pytest.LogCaptureFixture
) -> None:
    """A tracer is asked once for a task that a fault delivers twice, as the first still runs."""
    tracer = Carrier()
    asyncframe.manager.subscribe(tracer)
    task_faults.deliver_twice(on_the_loop)

    assert await asyncframe.manager.get_result(on_the_loop()) == "nobody"
    await asyncframe.settled()
    assert tracer.started == [{"caller": "nobody"}]
    assert caplog.records == []


async def test_unsubscribed(task_manager: TaskManager) -> None:
    """A tracer that was unsubscribed is asked no more."""
    task_manager.subscribe(Carrier())()

    assert await task_manager.get_result(on_a_thread()) == "nowhere"


async def test_an_error_of_a_tracer_is_logged(
    task_manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A tracer that raises keeps no task from running, and its errors are logged."""
    task_manager.subscribe(Failing())

    with caplog.at_level(logging.ERROR, "asyncframe"):
        assert await task_manager.get_result(on_a_thread()) == "nowhere"
    assert [record.exc_text.splitlines()[-1] for record in caplog.records if record.exc_text] == [
        "RuntimeError: submitted",
        "RuntimeError: starting",
    ]
