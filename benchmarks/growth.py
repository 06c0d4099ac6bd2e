"""How costs grow: with tasks waiting and kept, threads, processes, waiters and event loops.

Every curve is measured in a fresh interpreter per round, all of them once in each round.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import growth_cases, growth_kept, growth_processes
from benchmarks._measure import OURS, child, rotated
from benchmarks._rows import Curve, Flat


@dataclass(frozen=True)
class _Subject:
    """A curve before it is measured; the fields are those of `Curve`."""

    measure: Callable[[Sequence[int]], Coroutine[Any, Any, growth_cases.Costs]]
    title: str
    x_label: str
    xs: Sequence[int]
    note: str
    flat: Sequence[Flat] = ()


_POWERS = tuple(10**power for power in range(2, 7))

_KEPT = _POWERS[1:]


def _flat(*names: str) -> list[Flat]:
    """Return the goal of being flat for series."""
    return [Flat(name) for name in names]


def _kept(kind: str, name: str) -> _Subject:
    """Return the curve of tasks kept in a kind of database."""
    return _Subject(
        partial(growth_kept.kept, kind),
        f"Cost of a call while finished tasks are kept in {name}",
        "tasks kept",
        _KEPT,
        "An earlier process has left the tasks. No cost should grow, except that a start reads "
        "when tasks have ended, and that an old task comes from the database if there are more "
        "than 10,000. submit and run is the time per task in bursts of 100, until the last has "
        "run; the CPU time of this process counts until all of them are written.",
        _flat(
            growth_kept.RUN,
            growth_kept.STORED,
            growth_kept.RECENT,
            growth_kept.ACTIVE,
            growth_kept.PAGE,
            growth_kept.OLD_PAGE,
            growth_kept.CLEANUP,
        ),
    )


def _processes(kind: str, name: str) -> _Subject:
    """Return the curve of processes that share a kind of database."""
    return _Subject(
        partial(growth_processes.processes, kind),
        f"Cost of a task with processes that share {name}",
        "processes",
        (1, 2, 4, 8),
        f"All processes together submit and run {growth_processes.TASKS:,} tasks in bursts of "
        f"{growth_processes.BURST}, until every record is written. CPU time is that of all "
        "processes and of the database's server. It is what can stay flat, because two processes "
        "already use both cores. But each process also reads what the others write, which costs "
        "it some 7 \N{MICRO SIGN}s for each of their tasks. The last line is the delay from the "
        "end of a task until another process that asks for it gets it.",
        _flat(growth_processes.TIME, growth_processes.CPU, growth_processes.SIBLING),
    )


SUBJECTS: Mapping[str, _Subject] = {
    "pending": _Subject(
        growth_cases.pending,
        "Cost of a call while tasks wait for a thread",
        "tasks waiting",
        _POWERS,
        "No cost should grow. run is the time per task in which four threads run all waiting "
        "tasks.",
        _flat("submit", "get_task", "get_stats", "cancel_task", "run"),
    ),
    "retained": _Subject(
        growth_kept.retained,
        "Cost of a call while finished tasks are kept in memory",
        "tasks kept",
        _KEPT,
        "No cost should grow. submit and run is the time per task, in bursts of 100. An old task "
        "costs more with a million: its data lie in memory that no processor cache has.",
        _flat(
            growth_kept.RUN,
            growth_kept.RECENT,
            growth_kept.ACTIVE,
            growth_kept.PAGE,
            growth_kept.OLD_PAGE,
            growth_kept.CLEANUP,
        ),
    ),
    "retained_sqlite": _kept("sqlite", "SQLite"),
    "retained_postgresql": _kept("postgresql", "PostgreSQL"),
    "workers": _Subject(
        growth_cases.workers,
        "Time per task",
        "threads",
        (1, 2, 4, 8, 16, 32, 64),
        f"In bursts of {growth_cases.BURST:,}. More threads cannot speed up tasks that do nothing, "
        f"because only one thread at a time has the GIL. Each of {growth_cases.SLEEPERS} sleeping "
        "tasks should take 1 ms divided by the number of threads.",
        [Flat("no-op", beside=growth_cases.NO_OP_STANDARD), Flat("sleep of 1 ms")],
    ),
    "processes_sqlite": _processes("sqlite", "a SQLite file"),
    "processes_postgresql": _processes("postgresql", "a PostgreSQL"),
    "waiters": _Subject(
        growth_cases.waiters,
        "Cost of get_result for each coroutine that waits",
        "coroutines waiting",
        tuple(10**power for power in range(1, 6)),
        "It includes submitting and running the tasks. The cost falls at first, because the "
        "waiters share the wake-up of the event loop. With many it rises for everybody: Python's "
        "garbage collector looks at all that wait, and with gc.disable() every line is flat. So "
        "ours should not rise beside asyncio's own.",
        [
            Flat(growth_cases.ONE_TASK, beside=growth_cases.EVENT),
            Flat(growth_cases.A_TASK_EACH, beside=growth_cases.EXECUTOR),
        ],
    ),
    "loops": _Subject(
        growth_cases.loops,
        "Time per round trip from event loops in threads of their own",
        "event loops",
        (1, 2, 4, 8),
        "All loops use one framework with four threads. Each loop makes one call after the other.",
        [Flat(OURS, beside=growth_cases.EXECUTOR)],
    ),
}


def curves(rounds: int, keys: Collection[str]) -> Iterator[Curve]:
    """Measure curves.

    Args:
        rounds: How many fresh interpreters for each, from 1 on; medians count.
        keys: Which; empty for all.

    Raises:
        RuntimeError: In the end, if some could not be measured; the others are given before.
    """
    subjects = {key: one for key, one in SUBJECTS.items() if not keys or key in keys}
    found: dict[str, list[growth_cases.Costs]] = {key: [] for key in subjects}
    failed: dict[str, RuntimeError] = {}
    for number in range(rounds):
        for key in rotated(list(subjects), number):
            if key in failed:
                continue
            try:
                found[key].append(child("benchmarks.growth", "--child", key, timeout=600))
            except RuntimeError as error:  # a server that is not installed, above all
                failed[key] = error
    for key, subject in subjects.items():
        if key not in failed:
            yield _curve(key, subject, found[key])
    if failed:
        raise RuntimeError("\n".join(map(str, failed.values())))


def _curve(key: str, subject: _Subject, found: Sequence[growth_cases.Costs]) -> Curve:
    """Return a curve of the medians of all rounds."""
    return Curve(
        key=key,
        title=subject.title,
        x_label=subject.x_label,
        unit="\N{MICRO SIGN}s",
        xs=subject.xs,
        series={name: _medians([costs[name] for costs in found]) for name in found[0]},
        note=subject.note,
        flat=subject.flat,
    )


def _medians(rounds: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the median of every point; None where it was not measured."""
    return [
        statistics.median([cost for cost in costs if cost is not None]) if costs[0] else None
        for costs in zip(*rounds, strict=True)
    ]


if __name__ == "__main__":
    chosen = SUBJECTS[sys.argv[2]]
    growth_cases.finish(asyncio.run(chosen.measure(chosen.xs)))
