"""What becomes of a task whose interceptor acts as if its worker had crashed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from framework import TaskInterruptedError, TaskStatus, async_task, background_task, retry_task
from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.testing import WorkerCrashError, override_framework


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
        with pytest.raises(TaskInterruptedError):
            await (never_begins() if in_place else manager.submit(never_begins, wait=True))
    assert kinds == ["submitted", "started", "interrupted"]


def test_a_crash_on_a_thread() -> None:
    """The task ends INTERRUPTED with the reason, is not retried, and the thread is replaced."""
    interceptor = Crashes()
    with override_framework(interceptor=interceptor) as manager:
        first = thread_name()
        with pytest.raises(TaskInterruptedError):
            manager.wait_result(first)
        task = manager.get_all_tasks()[first]
        second = manager.wait_result(thread_name())
        stats = manager.get_stats()
    assert (task["status"], task["reason"]) == (TaskStatus.INTERRUPTED, "the machine has no memory")
    assert interceptor.attempts == 2
    assert second.endswith("_1")
    assert (stats["interrupted"], stats.get("late_results", 0)) == (1, 0)
