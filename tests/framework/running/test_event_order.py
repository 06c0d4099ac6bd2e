"""The order in which sinks get one task's events, whichever threads they happen on."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from framework import TaskManager, background_task, retry_task
from framework._records.statuses import INTERRUPTED
from framework.protocols import TaskEvent
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.framework.pools import clock_apart
from tests.patience import PATIENCE


@pytest.fixture
def clock() -> VirtualClock:
    """Give a clock that fires on the thread that advances it, while others work."""
    return clock_apart()


@pytest.fixture
def manager(clock: VirtualClock) -> Iterator[TaskManager]:
    """Give a manager on the production pool."""
    with override_framework(clock=clock) as manager:
        yield manager


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Give a thread that has nothing to do with the framework."""
    with ThreadPoolExecutor(1) as threads:
        yield threads


class HeldUp:
    """Two sinks: the first blocks at one kind of event, the second notes what it gets.

    So another thread may emit the next event before this one has reached the second sink.
    """

    def __init__(self, manager: TaskManager, kind: str) -> None:
        self.heard: list[str] = []
        self.ended = threading.Event()
        self._kind = kind
        self._arrived = threading.Event()
        self._go_on = threading.Event()
        manager.subscribe(self._hold)
        manager.subscribe(self._note)

    def _hold(self, event: TaskEvent) -> None:
        if event.kind == self._kind:
            self._arrived.set()
            assert self._go_on.wait(PATIENCE)

    def _note(self, event: TaskEvent) -> None:
        self.heard.append(event.kind)

    def meanwhile(self, call: Callable[[], object]) -> None:
        """Make *call* while the first sink blocks, and then release it."""
        assert self._arrived.wait(PATIENCE)
        try:
            call()
        finally:
            self._go_on.set()


def until_ended(manager: TaskManager, kind: str) -> threading.Event:
    """Return an event that is set once *kind* has reached every sink subscribed so far."""
    told = threading.Event()
    manager.subscribe(lambda _: told.set(), kinds={kind})
    return told


def test_a_task_ends_while_its_start_is_told(manager: TaskManager, clock: VirtualClock) -> None:
    """The event of a limit that passes while "started" is delivered comes after it."""
    # 1 the thread gives the start to the first sink, 2 the limit ends the task on another
    # thread and emits that, 3 the thread gives the start to the second sink.
    sinks, late = HeldUp(manager, "started"), until_ended(manager, "late_result")
    manager.submit_nowait(int, timeout=1.0)
    # The limit begins to count once the start is delivered, so the test ends the task itself.
    (task,) = manager._core.ledger.unfinished()
    error = TimeoutError()
    sinks.meanwhile(lambda: manager._core.endings.end(task, INTERRUPTED, error, body_ended=False))
    assert late.wait(PATIENCE)
    assert sinks.heard == ["submitted", "started", "interrupted", "late_result"]


def test_a_task_is_cancelled_while_its_submission_is_told(
    manager: TaskManager, aside: ThreadPoolExecutor
) -> None:
    """The event of a cancellation while "submitted" is delivered comes after it."""
    sinks, told = HeldUp(manager, "submitted"), until_ended(manager, "cancelled")
    submitting: Future[str] = aside.submit(manager.submit_nowait, int)

    def cancel() -> None:
        (task,) = manager._core.ledger.unfinished()
        assert asyncio.run(manager.cancel_task(task.task_id))

    sinks.meanwhile(cancel)
    assert submitting.result(PATIENCE)
    assert told.wait(PATIENCE)
    assert sinks.heard == ["submitted", "cancelled"]


def failing(timeout: float, jitter: float = 0.0) -> Callable[[], str]:
    """Return a background task that fails, and is tried again after a minute."""

    def fail() -> None:
        raise LookupError

    retry = retry_task(max_retries=1, retry_delay=60.0, jitter=jitter, exceptions=LookupError)
    return background_task(timeout=timeout)(retry(fail))


def test_a_limit_passes_while_a_retry_is_told(manager: TaskManager, clock: VirtualClock) -> None:
    """The event of a limit that passes while "retrying" is delivered comes after it."""
    sinks, late = HeldUp(manager, "retrying"), until_ended(manager, "late_result")
    failing(timeout=1.0)()
    sinks.meanwhile(lambda: clock.advance(1.0))
    assert late.wait(PATIENCE)
    assert sinks.heard == ["submitted", "started", "retrying", "timed_out", "late_result"]


class _Late(random.Random):
    """Draws the jitter only after the limit has passed."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(0)
        self._clock = clock

    def uniform(self, a: float, b: float) -> float:
        """Let time pass."""
        self._clock.advance(1.0)
        return a


def test_a_limit_passes_before_a_retry_is_told(clock: VirtualClock) -> None:
    """No "retrying" event follows once a limit has ended the task."""
    # 1 the attempt fails, 2 the limit ends the task, 3 the retry is about to be emitted.
    with override_framework(clock=clock, rng=_Late(clock)) as manager:
        heard: list[str] = []
        manager.subscribe(lambda event: heard.append(event.kind))
        late = until_ended(manager, "late_result")
        failing(timeout=1.0, jitter=0.5)()
        assert late.wait(PATIENCE)
    assert heard == ["submitted", "started", "timed_out", "late_result"]


def test_a_task_is_forgotten_while_its_end_is_told(manager: TaskManager) -> None:
    """The "evicted" event of a task removed while "completed" is delivered comes after it."""
    sinks, told = HeldUp(manager, "completed"), until_ended(manager, "evicted")
    manager.submit_nowait(int)
    sinks.meanwhile(lambda: manager.cleanup_completed_tasks(0))
    assert told.wait(PATIENCE)
    assert sinks.heard == ["submitted", "started", "completed", "evicted"]


def test_a_sink_that_ends_the_task_it_hears_of(manager: TaskManager) -> None:
    """If a sink cancels the task of an event, the other sinks get that event first."""
    heard: list[tuple[str, object]] = []

    def cancel(event: TaskEvent) -> None:
        asyncio.run(manager.cancel_task(event.task_id or ""))

    manager.subscribe(cancel, kinds={"submitted"})
    manager.subscribe(lambda event: heard.append((event.kind, event.status)))
    manager.submit_nowait(int)
    assert heard == [("submitted", "pending"), ("cancelled", "cancelled")]


def test_events_have_the_status_of_their_moment(manager: TaskManager) -> None:
    """An event that is delivered late has the status and attempt of when it happened."""
    statuses: list[tuple[str, object, int]] = []
    sinks, told = HeldUp(manager, "submitted"), until_ended(manager, "interrupted")
    manager.subscribe(lambda event: statuses.append((event.kind, event.status, event.attempt)))
    with ThreadPoolExecutor(1) as aside:
        aside.submit(manager.submit_nowait, int)

        def run_and_end() -> None:
            (task,) = manager._core.ledger.unfinished()
            core = manager._core
            assert core.runner.start(task) is not None
            core.endings.end(task, INTERRUPTED, TimeoutError(), body_ended=False)

        sinks.meanwhile(run_and_end)
        assert told.wait(PATIENCE)
    assert statuses == [
        ("submitted", "pending", 0),
        ("started", "running", 1),
        ("interrupted", "interrupted", 1),
    ]
