"""What finished tasks cost for as long as they are kept: bytes, and pauses of the collector."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import tracemalloc
from collections.abc import Iterator
from time import perf_counter

from framework import setup_async_framework
from tests.benchmarks import cleanup
from tests.benchmarks._measure import OURS, Samples, child, rotated
from tests.benchmarks._rows import Goal, Row
from tests.benchmarks.keepers import (
    CELERY,
    HUEY,
    KEEPERS,
    PEER_KEEPERS,
    RECORDS,
    TASKIQ,
    WARM_UP,
    keep_records,
    run_tasks,
)

MODULE = "tests.benchmarks.memory"

KEPT = 100_000
"""Finished tasks whose bytes are counted."""

MANY = 1_000_000
"""Finished tasks that a collection of garbage comes upon."""


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure bytes, the pause of a collection, and clean-ups, in fresh interpreters."""
    yield _bytes_row(rounds, peers)
    yield _pause_row(rounds)
    yield from cleanup.rows(rounds)


def _bytes_row(rounds: int, peers: bool) -> Row:
    names = [*KEEPERS, OURS, *(PEER_KEEPERS if peers else ())]
    return Row(
        key="bytes_per_task",
        title=f"memory of a finished task, {KEPT:,} of them kept",
        unit="bytes",
        floor=RECORDS,
        # Two, since the bytes are the same ones each time.
        samples=_in_children("bytes", names, min(rounds, 2)),
        goals=(Goal(RECORDS, 0.65), Goal(CELERY, 0.5), Goal(TASKIQ, 0.16), Goal(HUEY, 1.2)),
        note="Heap memory, with a small number as the result. huey, dramatiq and celery keep "
        "only the result, without timestamps. Their stores were large enough for all tasks.",
    )


def _pause_row(rounds: int) -> Row:
    return Row(
        key="gc_pause",
        title=f"gc.collect() with {MANY:,} finished tasks kept",
        unit="ms",
        floor=RECORDS,
        # Two, since each is the middle of five collections, and takes a while to get there.
        samples=_in_children("pause", [RECORDS, OURS], min(rounds, 2)),
        goals=(Goal(RECORDS, 0.05),),
        note="All threads are stopped for this long. The tasks were really submitted and run.",
    )


def _in_children(what: str, names: list[str], rounds: int) -> dict[str, Samples]:
    samples = {name: Samples() for name in names}
    for number in range(rounds):
        values: dict[str, float] = {
            name: child(MODULE, "--child", what, name, timeout=600)["value"]
            for name in rotated(names, number)
        }
        for name in names:
            samples[name].add(values[name], values[RECORDS])
    return samples


# -- in a child


def _bytes_of(name: str) -> float:
    if name == OURS:
        return asyncio.run(_bytes_of_ours())
    keeper = {**KEEPERS, **PEER_KEEPERS}[name]
    keeper(WARM_UP)
    gc.collect()
    tracemalloc.start()
    kept = keeper(KEPT)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    del kept
    return taken / KEPT


async def _bytes_of_ours() -> float:
    async with setup_async_framework(None, max_finished_tasks=2 * KEPT):
        await run_tasks(WARM_UP)
        gc.collect()
        tracemalloc.start()
        await run_tasks(KEPT)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return taken / KEPT


def _pause_of(name: str) -> float:
    if name == OURS:
        return asyncio.run(_pause_of_ours())
    kept = keep_records(MANY)
    pause = _pause()
    del kept
    return pause


async def _pause_of_ours() -> float:
    async with setup_async_framework(None, max_finished_tasks=2 * MANY):
        await run_tasks(MANY)
        return _pause()


def _pause() -> float:
    """Return the milliseconds that a collection takes which finds nothing to collect."""
    gc.collect()
    pauses = []
    for _ in range(5):
        begin = perf_counter()
        gc.collect()
        pauses.append(perf_counter() - begin)
    return statistics.median(pauses) * 1e3


def main(what: str, name: str) -> None:
    """Measure one thing in this interpreter, and write it down as JSON.

    Args:
        what: ``bytes`` or ``pause``.
        name: Of those who keep the tasks.
    """
    value = _bytes_of(name) if what == "bytes" else _pause_of(name)
    sys.stdout.write(json.dumps({"value": value}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[2:])
