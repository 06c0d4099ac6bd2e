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

from benchmarks import cleanup
from benchmarks._measure import OURS, Samples, child, rotated
from benchmarks._rows import Goal, Row
from benchmarks.keepers import (
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
from framework import setup_async_framework

MODULE = "benchmarks.memory"

KEPT = 100_000
"""Finished tasks whose bytes are counted."""

MANY = 1_000_000
"""Finished tasks that a collection of garbage comes upon."""


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure bytes, the pause of a collection, and clean-ups, in fresh interpreters."""
    # Two rounds, since bytes are the same ones each time, and a pause is the middle of five.
    few = min(rounds, 2)
    yield _bytes_row(few, peers)
    for way, title in _OTHER_WAYS.items():
        yield Row(
            key=f"bytes_{way}",
            title=f"the same, {title}",
            unit="bytes",
            floor=RECORDS,
            samples=_in_children("bytes", [RECORDS, OURS], few, way),
            goals=(Goal(RECORDS, 0.55),),
        )
    yield _pause_row(few)
    for way, title in _OTHER_WAYS.items():
        yield Row(
            key=f"gc_pause_{way}",
            title=f"gc.collect() with as many, {title}",
            unit="ms",
            floor=RECORDS,
            samples=_in_children("pause", [RECORDS, OURS], few, way),
            goals=(Goal(RECORDS, 0.06),),
        )
    yield from cleanup.rows(rounds)


_OTHER_WAYS = {
    "undecorated": "submitted without a decorator",
    "options": "submitted with `.options()`",
}
"""Ways of `keepers.WAYS` that have rows, with their titles."""

_TEXTS = ("a description each", "an id each")
"""Ways that need more, since each task has a text of its own."""


def _bytes_row(rounds: int, peers: bool) -> Row:
    names = [*KEEPERS, OURS, *(PEER_KEEPERS if peers else ())]
    samples = _in_children("bytes", names, rounds)
    floor = samples[RECORDS].values
    for way in _TEXTS:
        taken = child(MODULE, "--child", "bytes", OURS, way, timeout=600)["value"]
        samples[f"{OURS}, {way}"] = Samples([taken] * len(floor), floor)
    return Row(
        key="bytes_per_task",
        title=f"memory of a finished task, {KEPT:,} of them kept",
        unit="bytes",
        floor=RECORDS,
        samples=samples,
        goals=(Goal(RECORDS, 0.55), Goal(CELERY, 0.5), Goal(TASKIQ, 0.16), Goal(HUEY, 1.2)),
        unranked=[f"{OURS}, {way}" for way in _TEXTS],
        note="Heap memory, with a small number as the result. huey, dramatiq and celery keep "
        "only the result, without timestamps. Their stores were large enough for all tasks. An "
        "id or a description of its own adds its text.",
    )


def _pause_row(rounds: int) -> Row:
    return Row(
        key="gc_pause",
        title=f"gc.collect() with {MANY:,} finished tasks kept",
        unit="ms",
        floor=RECORDS,
        samples=_in_children("pause", [RECORDS, OURS], rounds),
        goals=(Goal(RECORDS, 0.06),),
        note="All threads are stopped for this long. The tasks were really submitted and run.",
    )


def _in_children(
    what: str, names: list[str], rounds: int, way: str = "decorated"
) -> dict[str, Samples]:
    samples = {name: Samples() for name in names}
    for number in range(rounds):
        values: dict[str, float] = {
            name: child(MODULE, "--child", what, name, way, timeout=600)["value"]
            for name in rotated(names, number)
        }
        for name in names:
            samples[name].add(values[name], values[RECORDS])
    return samples


# -- in a child


def _bytes_of(name: str, way: str) -> float:
    if name == OURS:
        return asyncio.run(_bytes_of_ours(way))
    keeper = {**KEEPERS, **PEER_KEEPERS}[name]
    keeper(WARM_UP)
    gc.collect()
    tracemalloc.start()
    kept = keeper(KEPT)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    del kept
    return taken / KEPT


async def _bytes_of_ours(way: str) -> float:
    async with setup_async_framework(None, max_finished_tasks=2 * KEPT):
        await run_tasks(WARM_UP, way)
        gc.collect()
        tracemalloc.start()
        await run_tasks(KEPT, way)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return taken / KEPT


def _pause_of(name: str, way: str) -> float:
    if name == OURS:
        return asyncio.run(_pause_of_ours(way))
    kept = keep_records(MANY)
    pause = _pause()
    del kept
    return pause


async def _pause_of_ours(way: str) -> float:
    async with setup_async_framework(None, max_finished_tasks=2 * MANY):
        await run_tasks(MANY, way)
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


def main(what: str, name: str, way: str) -> None:
    """Measure one thing in this interpreter, and write it down as JSON.

    Args:
        what: ``bytes`` or ``pause``.
        name: Of those who keep the tasks.
        way: How ours are submitted, by its name in `keepers.WAYS`.
    """
    value = _bytes_of(name, way) if what == "bytes" else _pause_of(name, way)
    sys.stdout.write(json.dumps({"value": value}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[2:])
