"""Waiting for many tasks: ``gather`` and ``map``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from framework import (
    MapItem,
    QueueFullError,
    TaskNotFoundError,
    TaskTimeoutError,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework._tasks.options import MAP
from framework.exceptions import DeadlockError
from pytest_asyncframe.probe import Probe
from tests.framework.running.messages import QUEUE_FULL, UNKNOWN

pytestmark = pytest.mark.asyncframe(mode="virtual")


async def asleep(seconds: float) -> float:
    """Return *seconds* after so many."""
    await asyncio.sleep(seconds)  # noqa: TID251  # virtual time
    return seconds


async def fail_after(seconds: float) -> float:
    """Raise after *seconds*."""
    await asyncio.sleep(seconds)  # noqa: TID251  # virtual time
    raise LookupError(f"after {seconds:g} s")


# -- gather


async def test_gather_returns_results_in_the_order_of_the_ids(asyncframe: Probe) -> None:
    """The results are in the order of the ids, after the time of the longest task."""
    async with setup_async_framework():
        manager, began = get_task_manager(), asyncframe.clock.monotonic()
        ids = [await manager.submit(asleep, (seconds,)) for seconds in (3.0, 1.0, 2.0)]
        assert await manager.gather(ids) == [3.0, 1.0, 2.0]
        assert asyncframe.clock.monotonic() - began == 3.0
        assert await manager.gather([ids[1], ids[1]]) == [1.0, 1.0]
        assert await manager.gather(iter(())) == []


async def test_gather_raises_the_first_error_at_once(asyncframe: Probe) -> None:
    """The error that comes first is raised when it comes, and the other task goes on."""
    async with setup_async_framework():
        manager, began = get_task_manager(), asyncframe.clock.monotonic()
        slow = await manager.submit(asleep, (5.0,))
        failing = await manager.submit(fail_after, (1.0,))
        with pytest.raises(LookupError, match=r"^after 1 s$"):
            await manager.gather([slow, failing])
        assert asyncframe.clock.monotonic() - began == 1.0
        assert await manager.get_result(slow) == 5.0


async def test_gather_returns_errors_in_place_of_results(asyncframe: Probe) -> None:
    """With return_exceptions all tasks are awaited, and an error stands where it belongs."""
    async with setup_async_framework():
        manager = get_task_manager()
        ids = [
            await manager.submit(fail_after, (2.0,)),
            await manager.submit(asleep, (1.0,)),
            await manager.submit(asleep, (9.0,), timeout=3.0),
        ]
        first, second, third = await manager.gather(ids, return_exceptions=True)
        assert isinstance(first, LookupError)
        assert second == 1.0
        assert isinstance(third, TaskTimeoutError)


async def test_gather_stops_waiting_after_its_timeout(asyncframe: Probe) -> None:
    """After the timeout of the wait a plain TimeoutError is raised, and the task goes on."""
    async with setup_async_framework():
        manager, began = get_task_manager(), asyncframe.clock.monotonic()
        ids = [await manager.submit(asleep, (seconds,)) for seconds in (1.0, 9.0)]
        with pytest.raises(
            TimeoutError, match=r"^task \w+ \(\S+\) is running after 2 s of waiting; it goes on$"
        ):
            await manager.gather(ids, timeout=2.0)
        assert asyncframe.clock.monotonic() - began == 2.0
        assert await manager.gather(ids) == [1.0, 9.0]


async def test_gather_refuses_what_are_no_ids(asyncframe: Probe) -> None:
    """A single id, a number and an unknown id are refused, each with its own error."""
    expected = "task_ids must be a list of task ids or another iterable of them, not 'abc'"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        await asyncframe.manager.gather("abc")
    with pytest.raises(TypeError, match=r"^return_exceptions must be True or False, not 1$"):
        await asyncframe.manager.gather([], return_exceptions=1)  # type: ignore[call-overload]
    with pytest.raises(TaskNotFoundError, match=UNKNOWN):
        await asyncframe.manager.gather(["unknown"])


async def test_a_task_that_gathers_itself_is_told(asyncframe: Probe) -> None:
    """A task that waits for itself among others gets a DeadlockError and does not hang."""

    async def wait_for_all() -> None:
        task = current_task()
        assert task is not None
        await get_task_manager().gather([task.task_id])

    async with setup_async_framework():
        task_id = await get_task_manager().submit(wait_for_all)
        with pytest.raises(
            DeadlockError,
            match=r"^deadlock: \S+wait_for_all waits for \S+wait_for_all; wait with a "
            r"timeout, or return the task id and let the caller wait$",
        ):
            await get_task_manager().get_result(task_id)


# -- map


async def test_map_runs_a_few_at_a_time(asyncframe: Probe) -> None:
    """Six tasks of a second each, two at a time, take three seconds."""
    async with setup_async_framework():
        manager, began = get_task_manager(), asyncframe.clock.monotonic()
        assert await manager.map(asleep, [1.0] * 6, max_running=2) == [1.0] * 6
        assert asyncframe.clock.monotonic() - began == 3.0


async def test_map_hands_out_items_as_their_tasks_end(asyncframe: Probe) -> None:
    """Items come in the order in which their tasks end, with result, place and progress."""
    async with setup_async_framework():
        run = get_task_manager().map(asleep, [3.0, 1.0, 2.0], max_running=3)
        seen = [(one.item, one.number, one.result(), run.ended, run.progress) async for one in run]
    assert seen == [(1.0, 1, 1.0, 1, 1 / 3), (2.0, 2, 2.0, 2, 2 / 3), (3.0, 0, 3.0, 3, 1.0)]
    assert (run.total, run.submitted, run.failed) == (3, 3, 0)


async def test_map_goes_on_after_a_failure(asyncframe: Probe) -> None:
    """An iteration gets the failed item like the others, and counts it."""
    async with setup_async_framework():
        run = get_task_manager().map(fail_or_sleep, [1.0, -2.0, 3.0], max_running=1)
        ended: list[MapItem[float, float]] = [one async for one in run]
        assert [one.task.status.value for one in ended] == ["completed", "failed", "completed"]
        with pytest.raises(LookupError, match=r"^after 2 s$"):
            ended[1].result()
    assert (run.ended, run.failed) == (3, 1)


async def fail_or_sleep(seconds: float) -> float:
    """Return *seconds* after so many, or fail if they are negative."""
    return await (fail_after(-seconds) if seconds < 0 else asleep(seconds))


async def test_an_awaited_map_raises_the_first_error_and_submits_no_more(
    asyncframe: Probe,
) -> None:
    """After the first error no item is taken any more."""
    left = iter([-1.0, 2.0, 3.0, 4.0])
    async with setup_async_framework():
        run = get_task_manager().map(fail_or_sleep, left, max_running=1)
        with pytest.raises(LookupError, match=r"^after 1 s$"):
            await run
        await asyncframe.settled()
    # The second was submitted as soon as the first had ended.
    assert list(left) == [3.0, 4.0]


async def test_map_takes_items_only_when_it_may_submit_them(asyncframe: Probe) -> None:
    """Of a generator without an end only as many items are taken as have tasks."""
    taken: list[int] = []

    def numbers() -> Iterator[float]:
        while True:
            taken.append(len(taken))
            yield 1.0

    async with setup_async_framework():
        run = get_task_manager().map(asleep, numbers(), max_running=3)
        assert taken == []
        async for _ in run:
            if run.ended == 4:
                break
        assert run.total is None
        assert run.progress is None
        await asyncframe.settled()
    assert run.submitted == len(taken) == 9


async def test_map_takes_items_from_an_async_generator(asyncframe: Probe) -> None:
    """Items may come from an async generator, which is suspended between them."""

    async def numbers() -> AsyncIterator[float]:
        for number in (2.0, 1.0):
            yield await asleep(number)

    async with setup_async_framework():
        run = get_task_manager().map(asleep, numbers(), max_running=1)
        assert await run == [2.0, 1.0]
    assert (run.total, run.submitted) == (2, 2)


async def test_map_hands_out_while_its_source_is_silent(asyncframe: Probe) -> None:
    """Items are handed out when their tasks have ended, however long the next one takes to come."""
    events: list[tuple[float, object]] = []
    now = asyncframe.clock.monotonic

    async def source() -> AsyncIterator[float]:
        try:
            for pause, seconds in ((0.0, 1.0), (0.0, 2.0), (60.0, 1.0), (0.0, 1.0), (1.0, 5.0)):
                await asyncio.sleep(pause)  # noqa: TID251  # virtual time
                events.append((now(), "taken"))
                yield seconds
            await asyncio.Event().wait()
        finally:
            events.append((now(), "closed"))

    async with setup_async_framework():
        items = get_task_manager().map(asleep, source(), max_running=2)

        async def take() -> None:
            async for one in items:
                events.append((now(), one.number))
                if one.number == 2:
                    # Who takes its time holds up nobody.
                    await asyncio.sleep(10)  # noqa: TID251  # virtual time

        with pytest.raises(TimeoutError, match=r"^$"):
            await asyncio.wait_for(take(), 100)
    assert events == [
        (0.0, "taken"), (0.0, "taken"), (1.0, 0), (2.0, 1), (61.0, "taken"), (61.0, "taken"),
        (62.0, 2), (63.0, "taken"), (72.0, 3), (72.0, 4), (100.0, "closed"),
    ]  # fmt: skip
    assert (items.submitted, items.ended, items.total) == (5, 5, None)


async def test_map_waits_for_room_in_a_full_queue(asyncframe: Probe) -> None:
    """A queue that is shorter than max_running does not end the map."""
    async with setup_async_framework(max_workers=1, queue_size=2):
        run = get_task_manager().map(str, range(20), max_running=50)
        assert await run == [str(number) for number in range(20)]


async def test_map_raises_if_a_queue_is_full_of_others(asyncframe: Probe) -> None:
    """If the queue has no room for the first item, nobody would make any: it is refused."""
    async with setup_async_framework(queue_size=1):
        manager = get_task_manager()
        other = await manager.submit(asleep, (1.0,), delay=1.0)
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            await manager.map(str, range(3))
        assert await manager.get_result(other) == 1.0


async def test_an_error_of_the_items_comes_after_those_that_ended(asyncframe: Probe) -> None:
    """An error of the items themselves is raised once the tasks before it are handed out."""
    async with setup_async_framework():
        run = get_task_manager().map(abs, refuse_third(), max_running=1)
        seen: list[int] = []

        async def collect() -> None:
            async for one in run:
                seen.append(one.result())  # noqa: PERF401  # those before the error count

        with pytest.raises(LookupError, match=r"^no third item$"):
            await collect()
        assert seen == [1, 2]


def refuse_third() -> Iterator[int]:
    """Yield two numbers and fail."""
    yield from (1, 2)
    raise LookupError("no third item")


async def test_map_takes_decorated_functions_and_options(asyncframe: Probe) -> None:
    """A decorated function keeps its name, and the options apply to each task."""

    @background_task(name="double")
    def double(number: int) -> int:
        return 2 * number

    @async_task
    async def triple(number: int) -> int:
        return 3 * number

    async with setup_async_framework():
        manager = get_task_manager()
        run = manager.map(double, [1, 2], description="of many", priority="low")
        assert sorted(
            [(one.task.name, one.task.description, one.result()) async for one in run]
        ) == [
            ("double", "of many", 2),
            ("double", "of many", 4),
        ]
        assert await manager.map(triple, [1, 2]) == [3, 6]


async def test_the_origin_of_a_mapped_task_is_the_call_of_map(asyncframe: Probe) -> None:
    """A task of a map bears the line where ``map`` was called, not where it is iterated."""
    async with setup_async_framework():
        run = get_task_manager().map(fail_or_sleep, [-1.0])
        (ended,) = [one async for one in run]
        assert isinstance(ended.task.error, LookupError)
    assert ended.task.origin is not None
    assert ended.task.origin.endswith("in test_the_origin_of_a_mapped_task_is_the_call_of_map")


async def test_a_map_is_used_once(asyncframe: Probe) -> None:
    """A second iteration is refused, since the items are gone."""
    async with setup_async_framework():
        run = get_task_manager().map(str, [1])
        assert await run == ["1"]
        expected = "this map was used before: its items are gone; call manager.map() again"
        with pytest.raises(RuntimeError, match=f"^{re.escape(expected)}$"):
            await run


MAP_REFUSALS: tuple[tuple[tuple[Any, ...], dict[str, Any], str], ...] = (
    ((str, 5), {}, "items must be iterable, not 5"),
    ((str, []), {"max_running": 0}, "max_running must be a whole number of at least 1, not 0"),
    (("str", []), {}, "map needs a function or another callable, not 'str'"),
    (
        (str, []),
        {"task_id": "x"},
        (
            f"map() got an unexpected keyword argument 'task_id'; its options are "
            f"{', '.join(MAP.options)}; each item is one argument"
        ),
    ),
)


def test_map_refuses_bad_arguments_at_the_call(asyncframe: Probe) -> None:
    """A bad argument of map is refused by the call itself, naming what is allowed."""
    for arguments, options, error in MAP_REFUSALS:
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(error)}$"):
            asyncframe.manager.map(*arguments, **options)


async def test_map_submits_what_came_before_an_error_of_its_items(asyncframe: Probe) -> None:
    """An error of the items is raised after those that came before it have ended."""

    def items() -> Iterator[float]:
        yield 1.0
        yield 2.0
        raise LookupError("no more")

    async with setup_async_framework():
        run = get_task_manager().map(asleep, items(), max_running=5)
        with pytest.raises(LookupError, match=r"^no more$"):
            await run

        assert (run.submitted, run.ended, run.failed) == (2, 2, 0)


# -- submit_many


@background_task(on_restart="requeue", name="tests.gathering_kept")
async def kept(number: int) -> int:
    """Return a number that other processes can be given."""
    return number


async def test_submit_many_returns_ids_in_the_order_of_the_items(asyncframe: Probe) -> None:
    """Each item gets a task, whose id stands where the item stood; options apply to all."""
    async with setup_async_framework():
        manager = get_task_manager()
        ids = await manager.submit_many(asleep, (one for one in (3.0, 1.0, 2.0)), timeout=2.5)

        assert await manager.gather(ids[1:]) == [1.0, 2.0]
        with pytest.raises(TaskTimeoutError, match=r"^"):
            await manager.get_result(ids[0])
        assert await manager.submit_many(asleep, []) == []


@pytest.mark.asyncframe(lost_failures="off")
async def test_submit_many_submits_all_or_none(asyncframe: Probe) -> None:
    """If an item does not fit, or the queue has not room for all, none is submitted."""
    async with setup_async_framework(queue_size=3):
        manager = get_task_manager()
        with pytest.raises(QueueFullError, match=r"^the task queue is full"):
            await manager.submit_many(asleep, [1.0] * 4)
        with pytest.raises(TypeError, match=r"^"):
            await manager.submit_many(kept, [1, 2, object()])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^items must be iterable, not 5"):
            await manager.submit_many(asleep, 5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"^submit_many\(\) got an unexpected keyword"):
            await manager.submit_many(asleep, [1.0], wait=True)  # type: ignore[call-overload]
        assert manager.get_stats()["submitted"] == 0

        assert await manager.gather(await manager.submit_many(kept, [1, 2, 3])) == [1, 2, 3]
