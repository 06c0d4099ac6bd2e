"""How costs grow: with tasks waiting, tasks kept, threads, waiters and event loops.

Every curve is measured in a fresh interpreter per round, all of them once in each round.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks import growth_cases
from tests.benchmarks._measure import OURS, child, rotated
from tests.benchmarks._rows import Curve, Flat


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

_SUBJECTS: Mapping[str, _Subject] = {
    "pending": _Subject(
        growth_cases.pending,
        "Cost of a call while tasks wait for a thread",
        "tasks waiting",
        _POWERS,
        "No cost should grow. run is the time per task in which four threads run all waiting "
        "tasks.",
        [Flat(name) for name in ("submit", "get_task", "get_stats", "cancel_task", "run")],
    ),
    "retained": _Subject(
        growth_cases.retained,
        "Cost of a call while finished tasks are kept",
        "tasks kept",
        _POWERS,
        "No cost should grow. submit and run is the time per task, in bursts of 100.",
    ),
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


def exponent(xs: Sequence[float], ys: Sequence[float | None]) -> float:
    """Return the power of x that y grows by: 0 for not at all, 1 for in proportion.

    It is the slope of the line that fits the logarithms best (least squares).

    Args:
        xs: Above 0, two different ones at least.
        ys: Above 0, one for each of *xs*; None where there is none.
    """
    points = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True) if y is not None]
    slope, _ = statistics.linear_regression(*zip(*points, strict=True))
    return slope


def curves(rounds: int, keys: Collection[str]) -> Iterator[Curve]:
    """Measure curves.

    Args:
        rounds: How many fresh interpreters for each, from 1 on; medians count.
        keys: Which; empty for all.
    """
    subjects = {key: one for key, one in _SUBJECTS.items() if not keys or key in keys}
    found: dict[str, list[growth_cases.Costs]] = {key: [] for key in subjects}
    for number in range(rounds):
        for key in rotated(list(subjects), number):
            found[key].append(child("tests.benchmarks.growth", "--child", key, timeout=600))
    for key, subject in subjects.items():
        yield Curve(
            key=key,
            title=subject.title,
            x_label=subject.x_label,
            unit="\N{MICRO SIGN}s",
            xs=subject.xs,
            series={
                name: _medians([costs[name] for costs in found[key]]) for name in found[key][0]
            },
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
    chosen = _SUBJECTS[sys.argv[2]]
    growth_cases.finish(asyncio.run(chosen.measure(chosen.xs)))
