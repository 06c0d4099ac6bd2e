"""Seeded chaos: many threads do everything at once, and the ledger must match."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from framework import (
    QueueFullError,
    TaskCancelledError,
    TaskFailedError,
    TaskManager,
    TaskNotFoundError,
    TaskTimeoutError,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.protocols import TaskEvent
from tests.patience import PATIENCE

pytestmark = pytest.mark.extended("time")

SEEDS = [*range(5), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(5, 20))]
THREADS = 16
OPERATIONS = 150
WORKERS = 4
SWITCH_INTERVAL = 1e-5

FINAL = {"completed", "failed", "timed_out", "cancelled", "interrupted"}
ENDS = ("completed", "failed", "timeout", "cancelled", "interrupted")

EXPECTED = (KeyError, TaskCancelledError, TaskFailedError, TaskNotFoundError, TaskTimeoutError)
"""What a result may raise here; anything else fails the test."""


class Log:
    """Counts what the sink hears, for each task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.submitted: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.ends: dict[str, list[str]] = {}

    def __call__(self, event: TaskEvent) -> None:
        """Hear one event."""
        assert event.task_id is not None
        with self._lock:
            if event.kind == "submitted":
                self.submitted[event.task_id] += 1
            elif event.kind == "started":
                self.started[event.task_id] += 1
            elif event.kind in FINAL:
                self.ends.setdefault(event.task_id, []).append(event.kind)


def require_adding_up(stats: dict[str, int]) -> None:
    """See that the counters add up, and that none is negative."""
    parts = [stats[name] for name in ("pending", "running", *ENDS)]
    assert min(parts) >= 0, stats
    assert stats["submitted"] == sum(parts), stats


# -- what tasks do


def compute(number: int) -> int:
    """Return a number."""
    return number * 2


async def compute_on_loop(number: int) -> int:
    """Return a number, after a turn of the loop."""
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    return number * 2


def fail(number: int) -> None:
    """Raise an error."""
    raise KeyError(number)


async def fail_on_loop(number: int) -> None:
    """Raise an error on the loop."""
    raise KeyError(number)


def leave(number: int) -> None:
    """Try to end the process."""
    sys.exit(number)


async def leave_on_loop(number: int) -> None:
    """Try to end the loop."""
    sys.exit(number)


def give_way(number: int) -> int:
    """Stop if that is asked for."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5)
    task.check_cancelled()
    return number


async def hang_on_loop(number: int) -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


def nest(number: int) -> int:
    """Submit and wait inside a task, three deep."""
    if number <= 0:
        return 0
    manager = get_task_manager()
    return 1 + int(manager.wait_result(manager.submit_nowait(nest, (number - 1,))))


BODIES: tuple[Callable[[int], Any], ...] = (
    compute, compute_on_loop, fail, fail_on_loop, leave, leave_on_loop, give_way,
)  # fmt: skip


# -- what threads do


class Chaos:
    """One run: threads with random operations, each drawn from the seed."""

    def __init__(self, manager: TaskManager, seed: int) -> None:
        self.manager = manager
        self.seed = seed
        self.ids: list[str] = []
        self.hanging: list[str] = []
        self.failures: list[BaseException] = []
        self._start = threading.Barrier(THREADS, timeout=PATIENCE)

    def run(self, index: int) -> None:
        """Do everything that thread number *index* does."""
        rng = random.Random(f"{self.seed}/{index}")
        try:
            self._start.wait()
            with asyncio.Runner() as runner:
                for _ in range(OPERATIONS):
                    runner.run(self._operate(rng))
        except BaseException as error:
            self.failures.append(error)

    async def _operate(self, rng: random.Random) -> None:
        operations = (self._submit, self._nest, self._cancel, self._get, self._clean, self._look)
        (operation,) = rng.choices(operations, weights=(8, 2, 4, 4, 1, 2))
        await operation(rng)

    def _any_id(self, rng: random.Random) -> str:
        ids = self.ids
        return ids[rng.randrange(len(ids))] if ids else "none"

    async def _submit(self, rng: random.Random) -> None:
        number = rng.randrange(100)
        with contextlib.suppress(QueueFullError):
            if rng.random() < 0.1:
                # Known as hanging first, since nobody may wait for one.
                task_id = self.manager.submit_nowait(
                    hang_on_loop, (number,), timeout=rng.choice((None, 0.001))
                )
                self.hanging.append(task_id)
                self.ids.append(task_id)
                return
            body = rng.choice(BODIES)
            delay, limit = rng.choice((0, 0, 0, 0.001)), rng.choice((None, None, 0.0005))
            task_id = self.manager.submit_nowait(body, (number,), delay=delay, timeout=limit)
            self.ids.append(task_id)
            if rng.random() < 0.5:
                await self._result(task_id)

    async def _nest(self, rng: random.Random) -> None:
        with contextlib.suppress(QueueFullError):
            task_id = self.manager.submit_nowait(nest, (3,))
            self.ids.append(task_id)
            await self._result(task_id)

    async def _result(self, task_id: str) -> None:
        with contextlib.suppress(*EXPECTED, QueueFullError):
            await self.manager.get_result(task_id)

    async def _cancel(self, rng: random.Random) -> None:
        await self.manager.cancel_task(self._any_id(rng))

    async def _get(self, rng: random.Random) -> None:
        task_id = self._any_id(rng)
        if task_id not in self.hanging:
            await self._result(task_id)
        task = await self.manager.get_task(task_id)
        assert task is None or task.task_id == task_id

    async def _clean(self, rng: random.Random) -> None:
        assert self.manager.cleanup_completed_tasks(0) >= 0

    async def _look(self, rng: random.Random) -> None:
        require_adding_up(self.manager.get_stats())
        for task_id, shown in self.manager.get_active_tasks().items():
            assert shown["task_id"] == task_id
            assert shown["status"] in ("pending", "running")


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Have the interpreter switch threads a hundred times as often as it does.

    Not under a tracer, such as that of coverage: a thread of Python 3.11 that starts while another
    one does ends with "Cannot install a trace function".
    """
    before = sys.getswitchinterval()
    if threading.gettrace() is None:
        sys.setswitchinterval(SWITCH_INTERVAL)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", SEEDS)
async def test_chaos(seed: int, hasty_switches: None) -> None:
    """Whatever 16 threads do, every accepted task ends exactly once and the counters add up."""
    log = Log()
    async with setup_async_framework(
        None, max_workers=WORKERS, queue_size=60, max_finished_tasks=100
    ):
        manager = get_task_manager()
        manager.subscribe(log)
        chaos = Chaos(manager, seed)
        threads = [threading.Thread(target=chaos.run, args=(index,)) for index in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        for task_id in chaos.hanging:
            await manager.cancel_task(task_id)
        pool = manager.pool
    assert chaos.failures == []

    stats = manager.get_stats()
    require_adding_up(stats)
    assert (stats["pending"], stats["running"]) == (0, 0)
    assert set(chaos.ids) <= set(log.submitted)
    assert stats["submitted"] == len(log.submitted)
    assert set(log.submitted.values()) == {1}
    assert set(log.started.values()) == {1}
    assert set(log.ends) == set(log.submitted)
    assert {len(kinds) for kinds in log.ends.values()} == {1}

    by_kind = Counter(kinds[0] for kinds in log.ends.values())
    assert {"completed", "failed", "cancelled"} <= set(by_kind)
    assert {name: stats[name] for name in ENDS} == {
        name: by_kind["timed_out" if name == "timeout" else name] for name in ENDS
    }
    figures = pool.get_stats()
    assert (figures["busy"], figures["queued"], figures["abandoned"]) == (0, 0, 0)
    assert figures["submitted"] == sum(
        figures[name] for name in ("completed", "failed", "cancelled", "timed_out")
    )
