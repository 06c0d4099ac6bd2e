"""What is said of a task that runs, but waits: for its next attempt, or for a throttle's slot."""

from __future__ import annotations

from typing import Any

import pytest

from framework import background_task, current_task, get_task_manager, retry_task, throttled_task
from framework.protocols import TaskEvent
from pytest_asyncframe.probe import Probe
from tests.words import timeless

EVERY_KIND = pytest.mark.parametrize("kind", ["thread", "loop"])


def failing_twice(kind: str, seen: list[tuple[str, str | None]]) -> Any:
    """Return a background task that notes its reason, and succeeds at its third attempt."""

    def note() -> None:
        task = current_task()
        assert task is not None
        seen.append((task.reason, task.last_error))
        if task.attempts < 3:
            raise ConnectionError(f"smtp is down\n{task.attempts}")

    async def note_async() -> None:
        note()

    retry = retry_task(max_retries=4, retry_delay=1.2, backoff=2.0)
    return background_task(retry(note if kind == "thread" else note_async))


async def told(task_id: str) -> tuple[object, object, object, object]:
    """Return what a task says of its state."""
    task = await get_task_manager().get_task(task_id)
    assert task is not None
    shown = task.to_dict()
    return shown["status"], timeless(shown["reason"]), task.last_error, shown["attempts"]


@EVERY_KIND
async def test_a_task_between_two_attempts(asyncframe: Probe, kind: str) -> None:
    """While a retry waits, the reason says which attempt failed and when the next is due."""
    seen: list[tuple[str, str | None]] = []
    task_id = failing_twice(kind, seen)()
    await asyncframe.clock.run_for(0.5)
    error = "ConnectionError: smtp is down\n"
    told_now = "attempt 1 of 5 failed with ConnectionError; the next at T, in 0.7 s"
    assert await told(task_id) == ("running", told_now, f"{error}1", 1)
    await asyncframe.clock.run_for(1.0)
    told_now = "attempt 2 of 5 failed with ConnectionError; the next at T, in 2.1 s"
    assert await told(task_id) == ("running", told_now, f"{error}2", 2)
    await asyncframe.completed(task_id)
    assert await told(task_id) == ("completed", "", None, 3)
    assert seen == [("", None)] * 3


@EVERY_KIND
async def test_a_task_that_waits_for_a_slot(asyncframe: Probe, kind: str) -> None:
    """While a throttle's slot is awaited, the reason names the function; then it is gone."""
    seen: list[str] = []

    def send() -> None:
        task = current_task()
        assert task is not None
        seen.append(task.reason)

    async def send_async() -> None:
        send()

    throttle = throttled_task(rate_limit=1, time_window=10.0, when_limited="wait")
    function = send if kind == "thread" else send_async
    task = background_task(throttle(function))
    first, second = task(), task()
    await asyncframe.clock.run_for(1.0)
    name = f"{__name__}.{function.__qualname__}"
    assert await told(first) == ("completed", "", None, 1)
    slot = f"throttle {name} 1/10 s is full; next slot in 9 s"
    assert await told(second) == ("running", slot, None, 1)
    await asyncframe.completed(second)
    assert await told(second) == ("completed", "", None, 1)
    assert seen == ["", ""]


async def test_those_that_wait_before_are_counted(asyncframe: Probe) -> None:
    """Each of several tasks that wait for a throttle says when its own slot is free."""

    @background_task
    @throttled_task(rate_limit=2, time_window=10.0, when_limited="wait")
    async def send() -> None:
        """Take a slot."""

    task_ids = [send() for _ in range(7)]
    await asyncframe.clock.run_for(1.0)
    reasons = [str((await told(task_id))[1]) for task_id in task_ids]
    slots = [reason.partition("next slot in ")[2] for reason in reasons]
    assert slots == ["", "", "9 s", "9 s", "19 s", "19 s", "29 s"]
    await asyncframe.clock.run_for(28.0)
    assert str((await told(task_ids[-1]))[1]).endswith("; next slot in 1 s")
    await asyncframe.completed(task_ids[-1])
    assert asyncframe.clock.monotonic() == 30.0


@EVERY_KIND
async def test_a_final_reason_is_not_overwritten(asyncframe: Probe, kind: str) -> None:
    """A task that runs past its limit between attempts says so, and keeps the last error."""
    seen: list[tuple[str, str | None]] = []
    asyncframe.expect_failure(
        failing := failing_twice(kind, seen).options(timeout=0.5), TimeoutError
    )
    task_id = failing()
    await asyncframe.completed(task_id, check=False)
    error = "ConnectionError: smtp is down\n1"
    assert await told(task_id) == ("timeout", "it ran past its time limit", error, 1)


async def test_the_reason_is_there_before_the_event(asyncframe: Probe) -> None:
    """When a sink gets the event of a retry, the task's reason is already set."""
    found: list[str] = []

    def look(event: TaskEvent) -> None:
        shown = asyncframe.manager.get_all_tasks()[event.task_id or ""]
        found.append(timeless(shown["reason"]))

    asyncframe.manager.subscribe(look, kinds={"retrying"})
    await asyncframe.completed(failing_twice("thread", [])())
    assert found == [
        "attempt 1 of 5 failed with ConnectionError; the next at T, in 1.2 s",
        "attempt 2 of 5 failed with ConnectionError; the next at T, in 2.4 s",
    ]
