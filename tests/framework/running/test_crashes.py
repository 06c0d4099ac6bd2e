"""What becomes of a task whose interceptor acts as if its worker had crashed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from framework import (
    TaskInterruptedError,
    TaskStatus,
    async_task,
    background_task,
    current_task,
    retry_task,
    throttled_task,
)
from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.testing import WorkerCrashError, override_framework
from tests.framework.running.messages import INTERRUPTED


class Crashes(Interceptor):
    """Crashes the first attempt that it sees."""

    def __init__(self) -> None:
        self.attempts = 0

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Raise in the first attempt."""
        self.attempts += 1
        if self.attempts == 1:
            raise WorkerCrashError("the machine has no memory")
        return call()


@background_task
@retry_task(max_retries=3, retry_delay=0, exceptions=BaseException)
def thread_name() -> str:
    """Say where it runs."""
    return threading.current_thread().name


@async_task
async def never_begins() -> None:
    """Fail if it is called."""
    raise AssertionError


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_crash_of_a_coroutine(in_place: bool) -> None:
    """A coroutine whose worker crashes ends INTERRUPTED, and its awaiter is told so."""
    kinds: list[str] = []

    def note(event: TaskEvent) -> None:
        kinds.append(event.kind)

    with override_framework(interceptor=Crashes()) as manager:
        manager.subscribe(note)
        with pytest.raises(TaskInterruptedError, match=INTERRUPTED):
            await (never_begins() if in_place else manager.submit(never_begins, wait=True))
    assert kinds == ["submitted", "started", "interrupted"]


def test_a_crash_on_a_thread() -> None:
    """The task ends INTERRUPTED with the reason, is not retried, and the thread is replaced."""
    interceptor = Crashes()
    with override_framework(interceptor=interceptor) as manager:
        first = thread_name()
        with pytest.raises(TaskInterruptedError, match=INTERRUPTED):
            manager.wait_result(first)
        task = manager.get_all_tasks()[first]
        second = manager.wait_result(thread_name())
        stats = manager.get_stats()
    assert (task["status"], task["reason"]) == (TaskStatus.INTERRUPTED, "the machine has no memory")
    assert interceptor.attempts == 2
    assert second.endswith("_1")
    assert (stats["interrupted"], stats.get("late_results", 0)) == (1, 0)


class CrashesAfter(Interceptor):
    """Crashes a task when a certain event has happened to it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.heard: list[str] = []

    def after_event(self, record: TaskRecord, kind: str) -> None:
        """Raise after the event."""
        self.heard.append(kind)
        if kind == self.kind:
            raise WorkerCrashError("its worker crashed")


@throttled_task(rate_limit=1, time_window=3_600, when_limited="wait")
def slot() -> None:
    """Take the only slot of the hour."""


@throttled_task(rate_limit=1, time_window=3_600, when_limited="wait")
async def async_slot() -> None:
    """Take the only slot of the hour."""


@retry_task(retry_delay=3_600)
def fails() -> None:
    """Fail."""
    raise LookupError


@retry_task(retry_delay=3_600)
async def async_fails() -> None:
    """Fail."""
    raise LookupError


def reports() -> None:
    """Report progress, and never come to the next line."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5)
    raise AssertionError


async def async_reports() -> None:
    """Report progress, and never come to the next line."""
    reports()


@pytest.mark.parametrize(
    ("kind", "bodies"),
    [
        ("progress", (reports,)),
        ("progress", (async_reports,)),
        ("retrying", (fails,)),
        ("retrying", (async_fails,)),
        ("throttled", (slot, slot)),
        ("throttled", (async_slot, async_slot)),
    ],
)
async def test_an_event_after_which_the_worker_crashes(
    kind: str, bodies: tuple[Callable[[], Any], ...]
) -> None:
    """What an interceptor raises after an event is raised inside the task, which waits no more."""
    interceptor = CrashesAfter(kind)
    with override_framework(interceptor=interceptor) as manager:
        *before, last = bodies
        for body in before:
            await manager.get_result(await manager.submit(body))
        with pytest.raises(TaskInterruptedError, match=INTERRUPTED):
            await manager.get_result(await manager.submit(last))
        stats = manager.get_stats()
    assert interceptor.heard == [kind]
    assert stats["interrupted"] == 1


async def test_events_outside_a_task_are_not_heard() -> None:
    """An interceptor hears of no event that belongs to no task."""
    interceptor = CrashesAfter("retrying")
    never: list[str] = []
    with override_framework(interceptor=interceptor):
        await retry_task(max_retries=1, retry_delay=0)(_once(never))()
    assert (never, interceptor.heard) == (["called", "called"], [])


def _once(calls: list[str]) -> Callable[[], Any]:
    """Return a coroutine function that fails the first time."""

    async def fail_once() -> None:
        calls.append("called")
        if len(calls) == 1:
            raise LookupError

    return fail_once
