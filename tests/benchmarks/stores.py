"""What a store costs that several processes share: on the loop, in a call, and behind it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from framework import background_task, get_task_manager, setup_async_framework
from framework.protocols import TaskStore
from tests.benchmarks._measure import OURS, Samples, child, percentile
from tests.benchmarks._rows import Goal, Row
from tests.benchmarks.lag import Ticks

MEMORY = "tasks in memory"
GOAL = "5,000 tasks/s"

_RATE = 1_000
_SECONDS = 4.0
_BURST = 20_000
_GOAL_US = 200.0


@background_task
def _task() -> int:
    return 1


# -- one measurement, in an interpreter of its own


async def _lag() -> dict[str, float]:
    """Submit tasks at an even rate; return how late the loop was, and what a call took."""
    await get_task_manager().get_result(_task())
    ticks = Ticks()
    begin, submitted, spent = time.perf_counter(), 0, 0.0
    while submitted < _RATE * _SECONDS:
        due = int((time.perf_counter() - begin) * _RATE)
        started = time.perf_counter()
        for _ in range(due - submitted):
            _task()
        spent += time.perf_counter() - started
        submitted = max(submitted, due)
        await asyncio.sleep(0.001)  # noqa: TID251 - an even rate is what is measured
    ticks.stop()
    return {"lag": percentile(ticks.late, 0.99) * 1e3, "submit": spent / submitted * 1e6}


async def _written() -> dict[str, float]:
    """Submit many tasks in one go; return what each takes until it is kept, in µs."""
    manager = get_task_manager()
    await manager.get_result(_task())
    begin = time.perf_counter()
    for number in range(_BURST):
        _task()
        if number % 100 == 0:
            await asyncio.sleep(0)  # noqa: TID251 - other requests get their turn
    figures = manager.get_stats()
    while figures["completed"] <= _BURST or figures.get("store_backlog"):
        await asyncio.sleep(0.002)  # noqa: TID251 - nothing tells when a store has written all
        figures = manager.get_stats()
    return {"written": (time.perf_counter() - begin) / _BURST * 1e6}


async def _measured(store: TaskStore | None) -> dict[str, float]:
    async with setup_async_framework(None, store=store, queue_size=_BURST):
        return await _lag() | await _written()


def _child(name: str) -> dict[str, float]:
    if name == MEMORY:
        return asyncio.run(_measured(None))
    from framework.stores.sql import SQLStore

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measured(SQLStore(f"sqlite:///{Path(folder) / 'tasks.db'}")))


# -- rows


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure tasks in SQLite beside the same in memory.

    Args:
        rounds: How many fresh interpreters for each, from 1 on.
        peers: Not looked at; there are none.
    """
    samples: dict[str, dict[str, Samples]] = {}
    for number in range(rounds):
        names = (MEMORY, OURS) if number % 2 else (OURS, MEMORY)
        found = {name: child("tests.benchmarks.stores", "--child", name) for name in names}
        for figure, floor in found[MEMORY].items():
            of_figure = samples.setdefault(figure, {MEMORY: Samples(), OURS: Samples()})
            for name in names:
                of_figure[name].add(found[name][figure], floor)
    yield Row(
        key="store_lag_p99",
        title="Lag of the loop with 1,000 submissions per second kept in SQLite: 99th percentile",
        unit="ms",
        floor=MEMORY,
        samples=samples["lag"],
        goals=[Goal(MEMORY, 2.0)],
        note="By how much something comes late that is due every 2 ms.",
    )
    yield Row(
        key="store_submit",
        title="A submitting call at that rate, kept in SQLite",
        unit="µs",
        floor=MEMORY,
        samples=samples["submit"],
        goals=[Goal(MEMORY, 2.0)],
        note="Nothing is written in the call: the record is put where the store's own thread "
        "finds it.",
    )
    written = Samples()
    for value in samples["written"][OURS].values:
        written.add(value, _GOAL_US)
    floor = Samples([_GOAL_US] * rounds, [_GOAL_US] * rounds)
    yield Row(
        key="store_written",
        title="20,000 tasks in one go, until all are finished and written to SQLite: each",
        unit="µs",
        floor=GOAL,
        samples={GOAL: floor, OURS: written},
        goals=[Goal(GOAL, 1.0)],
        note="Accepted, run on a thread, ended, and committed.",
    )


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[2])))  # noqa: T201  # what `child` reads
