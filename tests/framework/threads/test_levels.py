"""Priorities: which of several waiting tasks starts first, and that none waits for ever."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._tasks.options import NORMAL, PRIORITIES
from framework._threads.pool_threads import PoolThread
from framework._threads.queue.item_queue import ItemQueue
from framework._threads.queue.levels import PATIENCE, LevelQueue
from framework.testing import override_framework
from pytest_asyncframe.executor import DeterministicExecutor
from tests.framework.pools import start_stuck
from tests.patience import PATIENCE as LONG

Priority = Literal["high", "normal", "low"]

LETTERS: dict[str, Priority] = {"h": "high", "n": "normal", "l": "low"}


NOBODY: Any = None
"""The crew of a thread that is never started."""


def queue_order(queue: LevelQueue) -> list[Any]:
    """Take everything from a queue, and return it in that order."""
    return [queue.popleft() for _ in range(len(queue))]


class Waiting:
    """Something that waits at a level."""

    def __init__(self, level: int) -> None:
        self.level = level


@given(
    st.lists(st.integers(0, 2), max_size=80),
    st.integers(0, 40),
    st.lists(st.integers(0, 2), min_size=1, max_size=80),
)
def test_a_place_that_is_told_is_the_one_it_gets(
    before: list[int], started: int, after: list[int]
) -> None:
    """Whatever has started before, each item starts in the place that was told for it."""
    queue = LevelQueue(deque())
    queue.extend(map(Waiting, before))
    for _ in range(min(started, len(queue))):
        queue.popleft()
    queue.extend(map(Waiting, after))
    levels = queue.copies()
    waiting = [len(level) for level in levels]
    told = {
        item: queue.ranking.place(number, ahead, waiting)
        for number, level in enumerate(levels)
        for ahead, item in enumerate(level)
    }
    # Each third item is picked elsewhere; `take` and `pick_first` do the same with the others.
    for taken_elsewhere in ((), [*told][::3]):
        order: list[list[Any]] = []
        for way in ("take", "pick_first"):
            items, thread = ItemQueue(threading.RLock()), PoolThread(NOBODY, "by hand")
            items.items, items.closed = deepcopy(queue, {id(item): item for item in told}), True
            items.waiting.update(told)
            for item in taken_elsewhere:
                assert items.pick(item)
            order.append([])
            while (item := items.take(thread) if way == "take" else items.pick_first()) is not None:
                order[-1].append(item)
                assert thread.stack == ([item] if way == "take" else [])
                thread.stack.clear()
            assert (len(items.items), items.waiting) == (0, set())
        assert order[0] == order[1]
        assert {*order[0]} == {*told} - {*taken_elsewhere}
    assert [told[item] for item in queue_order(queue)] == [*range(1, len(told) + 1)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutorEnhanced]:
    """Give a production pool of one thread."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        yield pool


@pytest.fixture
def manager(pool: ThreadPoolExecutorEnhanced) -> Iterator[TaskManager]:
    """Give a manager on the production pool of one thread, in real time."""
    with override_framework(pool=pool) as manager:
        yield manager


def started_order(manager: TaskManager, pool: ThreadPoolExecutorEnhanced, queued: str) -> str:
    """Return the order in which tasks start that are queued behind a busy thread.

    Args:
        manager: Submits them.
        pool: The pool, of one thread.
        queued: The first letter of the priority of each, in the order of their submission.
    """
    stuck, _ = start_stuck(pool)
    ran: list[str] = []
    ids = [
        manager.submit_nowait(ran.append, (letter,), priority=LETTERS[letter]) for letter in queued
    ]
    stuck.gate.set()
    for task_id in ids:
        manager.wait_result(task_id, LONG)
    return "".join(ran)


# -- the production pool


def test_waiting_tasks_start_by_priority_and_then_by_age(
    manager: TaskManager, pool: ThreadPoolExecutorEnhanced
) -> None:
    """Behind a busy thread high ones start first, then normal ones, then low ones."""
    assert started_order(manager, pool, "lnhlnh") == "hhnnll"


def test_a_low_task_is_the_eleventh_behind_many_of_high_priority(
    manager: TaskManager, pool: ThreadPoolExecutorEnhanced
) -> None:
    """Of one low and 30 high tasks, the low one starts after ten of the others."""
    assert started_order(manager, pool, "l" + "h" * 30) == "h" * 10 + "l" + "h" * 20


def test_two_lower_levels_both_get_their_turn(
    manager: TaskManager, pool: ThreadPoolExecutorEnhanced
) -> None:
    """Beside 30 high tasks, a normal and a low one start after ten, one after the other."""
    assert started_order(manager, pool, "ln" + "h" * 30) == "h" * 10 + "ln" + "h" * 20


def test_a_parked_thread_finds_the_first_task_with_a_priority(manager: TaskManager) -> None:
    """Idle threads run a high task, and normal ones after it, and wait in between."""
    for priority in (None, "high", None, "low"):
        options: Any = {} if priority is None else {"priority": priority}
        task_id = manager.submit_nowait(threading.get_ident, **options)
        assert manager.wait_result(task_id, LONG) != threading.get_ident()


def test_calls_of_the_bare_pool_are_normal(
    manager: TaskManager, pool: ThreadPoolExecutorEnhanced
) -> None:
    """A call of ``pool.submit`` starts after a waiting high task and before a low one."""
    stuck, _ = start_stuck(pool)
    ran: list[str] = []
    low = manager.submit_nowait(ran.append, ("low",), priority="low")
    bare = pool.submit(ran.append, "bare")
    manager.submit_nowait(ran.append, ("high",), priority="high")
    stuck.gate.set()
    bare.result(LONG)
    manager.wait_result(low, LONG)
    assert ran == ["high", "bare", "low"]


def test_cancelled_tasks_of_each_level_leave_the_queue(
    manager: TaskManager, pool: ThreadPoolExecutorEnhanced
) -> None:
    """A waiting high or low task that is cancelled never starts, and the others do."""
    stuck, _ = start_stuck(pool)
    ran: list[str] = []
    high = manager.submit_nowait(ran.append, ("high",), priority="high")
    low = manager.submit_nowait(ran.append, ("low",), priority="low")
    other = manager.submit_nowait(ran.append, ("other",), priority="low")
    assert asyncio.run(manager.cancel_task(high))
    assert asyncio.run(manager.cancel_task(low))
    assert pool.get_stats()["queued"] == 1
    stuck.gate.set()
    manager.wait_result(other, LONG)
    assert ran == ["other"]


def test_a_shutdown_cancels_the_queue_of_every_level(pool: ThreadPoolExecutorEnhanced) -> None:
    """``shutdown(cancel_futures=True)`` leaves no task of any priority in the queue."""
    with override_framework(pool=pool) as manager:
        stuck, _ = start_stuck(pool)
        ids = [manager.submit_nowait(threading.get_ident, priority=one) for one in LETTERS.values()]
        pool.shutdown(wait=False, cancel_futures=True)
        assert {manager.get_all_tasks()[str(one)]["status"] for one in ids} == {"cancelled"}
        stuck.gate.set()


def test_an_unknown_priority_is_refused_at_decoration() -> None:
    """A priority that does not exist is a ValueError that lists those that do."""
    expected = "priority must be 'high' or 'normal' or 'low', not 'urgent'"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        background_task(priority="urgent")  # type: ignore[call-overload]  # what is tested


# -- the rule

levels = st.lists(st.sampled_from(range(len(PRIORITIES))), max_size=60)


class _Queued:
    """An item with a level."""

    def __init__(self, level: int) -> None:
        self.level = level


@given(levels, levels)
def test_no_waiting_level_is_passed_too_often(before: list[int], between: list[int]) -> None:
    """While a level waits, at most ten starts of higher levels come before its next start.

    A normal item may also wait for two low ones, whose turn has come.
    """
    queue = LevelQueue(deque())
    queue.extend(_Queued(level) for level in before)
    arriving = deque(between)
    passed = [0] * len(PRIORITIES)
    started = 0
    while queue:
        waiting = [one.level for one in queue.copy()]
        chosen = queue.popleft().level
        started += 1
        for level in set(waiting) - {chosen}:
            passed[level] += chosen < level
            assert passed[level] <= PATIENCE + (level == NORMAL)
        passed[chosen] = 0
        if arriving:
            queue.extend([_Queued(arriving.popleft())])
    assert started == len(before) + min(len(between), started)


@given(levels)
def test_each_level_stays_in_order(given_levels: list[int]) -> None:
    """Items of one level leave the queue in the order in which they were added."""
    queue = LevelQueue(deque())
    items = [_Queued(level) for level in given_levels]
    queue.extend(items)
    left = [queue.popleft() for _ in range(len(queue))]
    for level in range(len(PRIORITIES)):
        assert [one for one in left if one.level == level] == [
            one for one in items if one.level == level
        ]
    with pytest.raises(IndexError, match=r"^the queue is empty$"):
        queue.popleft()


# -- in tests


def test_run_next_follows_priorities(
    task_manager: TaskManager, task_executor: DeterministicExecutor
) -> None:
    """``run_next`` runs the task that a pool would start next; ``pending`` stays by age."""
    ids = [
        task_manager.submit_nowait(threading.get_ident, priority=LETTERS[letter])
        for letter in "lnh"
    ]
    assert task_executor.pending == tuple(ids)
    assert task_executor.drain() == [ids[2], ids[1], ids[0]]


@pytest.mark.parametrize("mode", ["auto", "virtual", "seeded"])
def test_every_mode_starts_waiting_tasks_by_priority(mode: str, pytester: pytest.Pytester) -> None:
    """With one thread, tasks that are submitted together start by their priority in each mode."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(
        f"""
        import pytest
        from framework import setup_async_framework

        @pytest.mark.asyncframe(mode={mode!r})
        async def test_order(asyncframe):
            ran = []
            async with setup_async_framework(max_workers=1):
                for priority in ("low", "normal", "high"):
                    await asyncframe.manager.submit(ran.append, (priority,), priority=priority)
                await asyncframe.settled()
            assert ran == ["high", "normal", "low"]
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


async def test_async_tasks_start_in_order_whatever_their_priority() -> None:
    """``async def`` tasks never wait for a thread, so they start as they were submitted."""
    ran: list[str] = []

    async def note(priority: Priority) -> None:
        ran.append(priority)

    async with setup_async_framework():
        manager = get_task_manager()
        ids = [
            await manager.submit(note, (one,), priority=one) for one in reversed(LETTERS.values())
        ]
        for task_id in ids:
            await manager.get_result(task_id, LONG)
    assert ran == ["low", "normal", "high"]
