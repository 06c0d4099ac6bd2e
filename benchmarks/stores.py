"""What a store costs that several processes share: on the loop, in a call, and behind it.

Ours is SQLite as it is by default; PostgreSQL, and both with ``durable``, are beside it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator

from benchmarks._measure import OURS, Samples, child, percentile, rotated
from benchmarks._rows import Goal, Row
from benchmarks._servers import databases, is_installed
from benchmarks.lag import Ticks
from framework import background_task, get_task_manager, setup_async_framework
from framework.protocols import TaskStore
from framework.stores.sql import SQLStore

MEMORY = "tasks in memory"
DURABLE = "SQLite, durable"
POSTGRESQL = "PostgreSQL"
DURABLE_POSTGRESQL = "PostgreSQL, durable"
GOAL = "5,000 tasks/s"
REQUEUE_GOAL = "1,000 tasks/s"

CASES = {
    MEMORY: None,
    OURS: ("sqlite", False),
    DURABLE: ("sqlite", True),
    POSTGRESQL: ("postgresql", False),
    DURABLE_POSTGRESQL: ("postgresql", True),
}
"""Kind of database, and whether the store is durable; None for none."""

_RATE = 1_000
_SECONDS = 2.0
_BURSTS = 100
_TRIPS = 200
_MANY = 20_000
_GOAL_US = 200.0
_REQUEUED = 2_000
_REQUEUED_US = 1_000.0


@background_task
def _task() -> int:
    return 1


_requeued_task = _task.options(on_restart="requeue")


# -- one measurement, in an interpreter of its own


async def _lag() -> dict[str, float]:
    """Submit tasks at an even rate; return how late the loop was, and what a call took."""
    await get_task_manager().get_result(_task())
    ticks = Ticks()
    begin, submitted, spent = time.perf_counter(), 0, 0.0
    every = int(_RATE * _SECONDS)
    while submitted < every:
        # Whoever has stood still for long has no more to make up for than is left.
        due = min(int((time.perf_counter() - begin) * _RATE), every)
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
    before = manager.get_stats()["completed"]
    begin = time.perf_counter()
    for number in range(_MANY):
        _task()
        if number % 100 == 0:
            await asyncio.sleep(0)  # noqa: TID251 - other requests get their turn
    figures = manager.get_stats()
    while figures["completed"] < before + _MANY or figures.get("store_backlog"):
        await asyncio.sleep(0.002)  # noqa: TID251 - nothing tells when a store has written all
        figures = manager.get_stats()
    return {"written": (time.perf_counter() - begin) / _MANY * 1e6}


async def _bursts() -> dict[str, float]:
    """Submit and run tasks in bursts of 100; return what each takes, in µs."""
    manager, costs = get_task_manager(), []
    for _ in range(_BURSTS):
        begin = time.perf_counter()
        ids = [_task() for _ in range(100)]
        results = [await manager.get_result(task_id) for task_id in ids]
        costs.append((time.perf_counter() - begin) / len(ids) * 1e6)
        if results != [1] * len(ids):
            raise RuntimeError(f"the results of a burst are {results}")
    return {"run": statistics.median(costs)}


async def _accepted() -> dict[str, float]:
    """Submit tasks one at a time with ``await submit``; return what each takes, in µs."""
    manager, costs = get_task_manager(), []
    for _ in range(_TRIPS):
        begin = time.perf_counter()
        task_id = await manager.submit(_task)
        costs.append((time.perf_counter() - begin) * 1e6)
        await manager.get_result(task_id)
    return {"accepted": statistics.median(costs)}


async def _requeued() -> dict[str, float]:
    """Submit tasks that others may run in one go; return what each takes until its end, in µs."""
    manager = get_task_manager()
    begin = time.perf_counter()
    ids = [_requeued_task() for _ in range(_REQUEUED)]
    for task_id in ids:
        await manager.get_result(task_id)
    return {"requeued": (time.perf_counter() - begin) / _REQUEUED * 1e6}


async def _figures(store: TaskStore | None) -> dict[str, float]:
    async with setup_async_framework(None, store=store, queue_size=_MANY):
        return (
            await _lag()
            | await _bursts()
            | await _accepted()
            | await _requeued()
            | await _written()
        )


def measured(name: str) -> dict[str, float]:
    """Return the figures of a case, in the unit of its row."""
    case = CASES[name]
    if case is None:
        return asyncio.run(_figures(None))
    kind, durable = case
    with databases(kind) as urls:
        url, _ = next(urls)
        return asyncio.run(_figures(SQLStore(url, durable=durable)))


# -- rows


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure tasks in a database beside the same in memory; in those that are installed.

    Args:
        rounds: How many fresh interpreters for each, from 1 on.
        peers: Not looked at; there are none.
    """
    samples: dict[str, dict[str, Samples]] = {}
    cases = [name for name, case in CASES.items() if case is None or is_installed(case[0])]
    for number in range(rounds):
        names = rotated(cases, number)
        found = {name: child("benchmarks.stores", "--child", name) for name in names}
        for figure, floor in found[MEMORY].items():
            of_figure = samples.setdefault(figure, {name: Samples() for name in cases})
            for name, case in of_figure.items():
                case.add(found[name][figure], floor)
    yield _row("store_lag_p99", samples["lag"], 2.0)
    yield _row("store_submit", samples["submit"], 2.0)
    yield _row("store_run", samples["run"], 2.0)
    yield _row("store_accepted", samples["accepted"], 2.0)
    written = {GOAL: Samples([_GOAL_US] * rounds, [_GOAL_US] * rounds)}
    for name, case in samples["written"].items():
        written[name] = Samples(case.values, [_GOAL_US] * rounds)
    yield _row("store_written", written, 1.0, floor=GOAL)
    requeued = {REQUEUE_GOAL: Samples([_REQUEUED_US] * rounds, [_REQUEUED_US] * rounds)}
    for name, case in samples["requeued"].items():
        requeued[name] = Samples(case.values, [_REQUEUED_US] * rounds)
    yield _row("store_requeued", requeued, 1.0, floor=REQUEUE_GOAL)


_TITLES = {
    "store_lag_p99": "Lag of the loop with 1,000 submissions per second: 99th percentile",
    "store_submit": "A submitting call at that rate",
    "store_run": "Submit and run a burst of 100 tasks: each",
    "store_accepted": "await submit(...), one at a time: until it returns, median",
    "store_written": "20,000 tasks in one go, until all are finished and written: each",
    "store_requeued": '2,000 tasks with on_restart="requeue" in one go, until all have ended: each',
}

_NOTES = {
    "store_lag_p99": "By how much something comes late that is due every 2 ms.",
    "store_submit": (
        "Nothing is written in the call: the record is put where the store's own thread finds it."
    ),
    "store_run": "Until the last result; meanwhile the store's thread writes the bursts before.",
    "store_accepted": (
        "With a durable store it returns when the record is on the disk, and a store collects "
        "records for 2 ms first. Many at a time share one write."
    ),
    "store_written": "Accepted, run on a thread, ended, and committed.",
    "store_requeued": (
        "Each start is committed before the function runs: a thread waits for that, and the starts "
        "of all threads share one commit. In memory there is nothing to wait for."
    ),
}


def _row(key: str, samples: dict[str, Samples], at_most: float, *, floor: str = MEMORY) -> Row:
    return Row(
        key=key,
        title=_TITLES[key],
        unit="ms" if key == "store_lag_p99" else "µs",
        floor=floor,
        samples=samples,
        goals=[Goal(floor, at_most)],
        unranked=[name for name in samples if name not in (OURS, floor)],
        note=_NOTES[key],
    )


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[2])))  # noqa: T201  # what `child` reads
