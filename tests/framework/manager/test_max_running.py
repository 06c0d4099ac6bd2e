"""Limits on how many tasks of a function, or of a key, run at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from framework import (
    QueueFullError,
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.exceptions import DeadlockError
from framework.protocols import PlaceAnswer, PlaceRequest
from pytest_asyncframe.probe import Probe
from tests.framework.running.messages import DEADLOCK, QUEUE_FULL

pytestmark = pytest.mark.usefixtures("asyncframe")


async def pause(seconds: float) -> None:
    """Sleep on the framework's clock."""
    await get_task_manager().clock.asleep(seconds)


async def test_only_as_many_run(task_manager: TaskManager, asyncframe: Probe) -> None:
    """Tasks over the limit of their key wait, and start in the order of their submission."""
    clock, starts = task_manager.clock, []

    @background_task(max_running=2, key=lambda user, _: user)
    async def work(user: str, number: int) -> None:
        starts.append((clock.monotonic(), user, number))
        await pause(10)

    ids = [work(user, number) for number in range(3) for user in ("ada", "bob")]
    await asyncframe.clock.run_for(5)
    waiting = await task_manager.get_task(ids[-1])
    assert waiting is not None
    assert waiting.status is TaskStatus.PENDING
    assert waiting.reason == "waits for a place: 2 running, max_running=2 for key 'bob'"
    await task_manager.get_result(ids[-1])
    assert starts == [
        *[(0, user, number) for number in range(2) for user in ("ada", "bob")],
        (10, "ada", 2),
        (10, "bob", 2),
    ]


async def test_tasks_that_wait_for_a_place_take_no_thread(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """With every thread's worth of tasks waiting for a place, another function still runs."""
    clock = task_manager.clock

    @background_task(max_running=1)
    def work() -> None:
        clock.sleep(10)

    ids = [work() for _ in range(50)]
    assert await task_manager.submit(int, wait=True) == 0
    assert clock.monotonic() < 10
    for task_id in ids:
        await task_manager.cancel_task(task_id)
    await task_manager.get_result(ids[0])


@pytest.mark.parametrize("end", ["completed", "failed", "timeout", "cancelled"])
async def test_a_place_is_given_back(
    task_manager: TaskManager, asyncframe: Probe, end: str
) -> None:
    """Whatever a task's end, the next one starts."""

    @background_task(max_running=1, timeout=5)
    async def work(how: str) -> None:
        if how == "failed":
            raise ValueError
        await pause(0 if how == "completed" else 10)

    first, second = work(end), work("completed")
    await asyncframe.clock.run_for(1)
    if end == "cancelled":
        await task_manager.cancel_task(first)
    await task_manager.get_result(second)
    task = await task_manager.get_task(first)
    assert task is not None
    assert task.status == end
    assert task.error is not None or end == "completed"


async def test_a_place_is_kept_while_the_thread_of_a_late_task_runs(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """A task is TIMEOUT at its limit, but the next one starts only when its function returns."""
    clock, starts = task_manager.clock, []

    @background_task(max_running=1, timeout=5)
    def work(seconds: float) -> None:
        starts.append(clock.monotonic())
        clock.sleep(seconds)

    late, last = work(30), work(0)
    await task_manager.get_result(last)
    assert starts == [0, 30]
    task = await task_manager.get_task(late)
    assert task is not None
    assert task.error is not None


async def test_a_waiting_task_that_is_cancelled_takes_no_place(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """The one behind a cancelled task gets the next place."""
    starts = []

    @background_task(max_running=1)
    async def work(number: int) -> None:
        starts.append(number)
        await pause(10)

    _, second, third = (work(number) for number in range(3))
    await asyncframe.clock.run_for(1)
    assert await task_manager.cancel_task(second)
    await task_manager.get_result(third)
    assert starts == [0, 2]


async def test_a_delay_is_over_before_a_place_is_asked_for(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """A delayed task neither takes a place nor a place in the line."""
    clock, starts = task_manager.clock, []

    @background_task(max_running=1)
    async def work(number: int) -> None:
        starts.append((clock.monotonic(), number))
        await pause(10)

    ids = [work.options(delay=5)(0), work(1), work(2)]
    for task_id in ids:
        await task_manager.get_result(task_id)
    assert starts == [(0, 1), (10, 2), (20, 0)]


async def test_a_retry_keeps_its_place(task_manager: TaskManager, asyncframe: Probe) -> None:
    """A task that waits for its next attempt is still running."""
    clock, starts = task_manager.clock, []

    @background_task(max_running=1)
    @retry_task(max_retries=1, retry_delay=10)
    async def work(number: int) -> None:
        starts.append((clock.monotonic(), number))
        if len(starts) == 1:
            raise ValueError

    ids = [work(0), work(1)]
    for task_id in ids:
        await task_manager.get_result(task_id)
    assert starts == [(0, 0), (10, 0), (10, 1)]


async def test_a_higher_priority_gets_the_next_place(task_manager: TaskManager) -> None:
    """Of those that wait, the one with the highest priority comes next."""
    starts = []

    @background_task(max_running=1)
    async def work(name: str) -> None:
        starts.append(name)
        await pause(1)

    names = [("a", "normal"), ("b", "low"), ("c", "normal"), ("d", "high")]
    ids = [await task_manager.submit(work, (name,), priority=level) for name, level in names]  # type: ignore[call-overload]  # one of the literals
    for task_id in ids:
        await task_manager.get_result(task_id)
    assert starts == ["a", "d", "c", "b"]


async def test_awaited_tasks_are_limited(task_manager: TaskManager) -> None:
    """Calls of an `async_task` wait for their places, too."""
    running, most = 0, 0

    @async_task(max_running=2)
    async def load() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await pause(1)
        running -= 1

    await asyncio.gather(*(load() for _ in range(7)))
    assert most == 2


async def test_a_task_that_waits_for_its_own_place_is_told(task_manager: TaskManager) -> None:
    """A task that waits for one of its key, whose only place it has, would wait for ever."""

    @background_task(max_running=1)
    async def on_loop(number: int) -> int:
        if number == 0:
            return 0
        return 1 + await task_manager.submit(on_loop, (number - 1,), wait=True)

    @background_task(max_running=1)
    def on_thread(number: int) -> int:
        return 0 if number == 0 else 1 + task_manager.wait_result(on_thread(number - 1))

    for task in (on_loop, on_thread):
        with pytest.raises(DeadlockError, match=DEADLOCK):
            await task_manager.get_result(task(1))
        for task_id in task_manager.get_active_tasks():
            await task_manager.get_result(task_id)


async def test_a_place_goes_on_after_a_deadlock_is_seen(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """A delayed task that its waiter keeps from its place fails, and the waiter hears of it."""

    @background_task(max_running=1)
    async def work(number: int) -> int:
        if number == 0:
            return 0
        inner: int = await task_manager.submit(work, (0,), delay=5, wait=True)
        return inner

    with pytest.raises(DeadlockError, match=DEADLOCK):
        await task_manager.get_result(work(1))


async def test_waiting_tasks_count_as_queued(asyncframe: Probe) -> None:
    """`queue_size` bounds the tasks that wait for a place like all others that wait."""
    async with setup_async_framework(None, queue_size=3):

        @background_task(max_running=1)
        async def work() -> None:
            await pause(10)

        work()
        await asyncframe.clock.run_for(1)
        ids = [work() for _ in range(3)]
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            work()
        for task_id in ids:
            await get_task_manager().get_result(task_id)


async def test_a_shutdown_runs_what_has_time(asyncframe: Probe) -> None:
    """Tasks that wait for a place get it while the app stops, within the grace period."""
    ran = []

    @background_task(max_running=1)
    async def work(number: int) -> None:
        ran.append(number)
        await pause(10)

    async with setup_async_framework(None, graceful_shutdown_timeout=60):
        for number in range(5):
            work(number)
    assert ran == [0, 1, 2, 3, 4]


def test_a_limit_under_threads(task_manager: TaskManager) -> None:
    """Threads that submit at the same time do not start more than the limit."""
    lock, running, most = threading.Lock(), 0, 0
    clock = task_manager.clock

    @background_task(max_running=3)
    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        clock.sleep(1)
        with lock:
            running -= 1

    for task_id in [work() for _ in range(20)]:
        task_manager.wait_result(task_id)
    assert most == 3


async def test_an_answer_that_comes_too_late(
    task_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that has got its place, or was cancelled, is not told that it waits."""
    lines, told = task_manager._core.places.lines, []
    real_join = lines.join

    def join(request: PlaceRequest, tell: Callable[[PlaceAnswer], object]) -> None:
        told.append(tell)
        real_join(request, tell)

    monkeypatch.setattr(lines, "join", join)

    @background_task(max_running=1)
    async def work() -> None:
        await pause(10)

    runs, waits = work(), work()
    assert await task_manager.cancel_task(waits) is True
    for tell in told:
        tell(PlaceAnswer(False, ("another",)))
    found = [await task_manager.get_task(one) for one in (runs, waits)]
    assert [task.reason for task in found if task] == [
        "queued; it starts when its event loop turns",
        "it was cancelled before it started",
    ]
    await task_manager.get_result(runs)


async def test_a_task_that_is_given_away(task_manager: TaskManager) -> None:
    """A task that another process is to run waits here for no place any more."""

    @background_task(max_running=1)
    async def work() -> None:
        await pause(10)

    runs, gone, waits = work(), work(), work()
    places = task_manager._core.places
    places.give_away(places._tasks[gone])
    await task_manager.get_result(waits)
    assert task_manager.clock.monotonic() == 20
    task = await task_manager.get_task(gone)
    assert task is not None
    assert task.status is TaskStatus.PENDING
    await task_manager.cancel_task(gone)
    await task_manager.get_result(runs)
