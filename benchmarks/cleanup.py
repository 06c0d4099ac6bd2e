"""What it costs to let the expired ones of many finished tasks go."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from time import perf_counter

from benchmarks._measure import OURS, Case, Samples, child, interleave
from benchmarks._rows import Goal, Row
from benchmarks.coroutines import MICROSECONDS, FrameworkLoop, require
from benchmarks.keepers import Record, run_tasks
from framework import get_task_manager
from pytest_asyncframe.clock import VirtualClock

MODULE = "benchmarks.cleanup"

FEW, MANY = 10_000, 1_000_000
"""How many finished tasks there are."""

EXPIRED = 100
"""How many of them have expired, and are removed."""

DEQUE = "deque + dict"
SCAN = "scan of a dict"
AT_FEW = f"asyncframe, {FEW:,} kept"


def rows(rounds: int) -> Iterator[Row]:
    """Measure clean-ups in one fresh interpreter."""
    found = child(MODULE, "--child", str(rounds), timeout=600)
    times: dict[str, list[float]] = found["times"]

    def samples(names: Mapping[str, str], floor: str) -> dict[str, Samples]:
        return {name: Samples(times[key], times[floor]) for name, key in names.items()}

    yield Row(
        key="cleanup",
        title=f"clean-up that removes {EXPIRED} of {MANY:,} finished tasks",
        unit=MICROSECONDS,
        floor=DEQUE,
        samples=samples({DEQUE: DEQUE, SCAN: SCAN, OURS: OURS}, DEQUE),
        goals=(Goal(DEQUE, 1.1), Goal(SCAN, 1 / 300)),
        unranked=(SCAN,),
        note="A full garbage collection comes first, so that nothing is in the CPU caches. The "
        "deque and the dict hold only times. They count nothing, emit no events and do not look "
        "for unread failures.",
    )
    yield Row(
        key="cleanup_growth",
        title=f"clean-up that removes {EXPIRED} of {MANY:,}, beside one of {FEW:,}",
        unit=MICROSECONDS,
        floor=AT_FEW,
        samples=samples({AT_FEW: AT_FEW, OURS: OURS}, AT_FEW),
        goals=(Goal(AT_FEW, 4.0),),
        note=f"The {FEW:,} stay in the CPU caches.",
    )


# -- in the child


class ByScan:
    """Records in a dict, all of which are looked at to find the expired ones.

    It begins with *count* of them, `EXPIRED` from each second.
    """

    def __init__(self, count: int) -> None:
        self._known: dict[str, Record] = {}
        self._age = count // EXPIRED
        self._second = 0
        for _ in range(self._age):
            self.add()

    def add(self) -> None:
        """Let a second pass and `EXPIRED` more tasks end."""
        self._second += 1
        for task_id in _ids(self._second):
            ended = float(self._second)
            self._known[task_id] = Record(task_id, "body", 2, 0, ended, ended, ended)

    def clean(self) -> int:
        """Remove what was there before the last `add` and is the oldest; return how many."""
        bound = self._second - self._age
        known = self._known
        expired = [task_id for task_id, record in known.items() if record.ended <= bound]
        for task_id in expired:
            del known[task_id]
        return len(expired)


class ByDeque:
    """Times in a dict, and in a deque in the order in which they ended; as `ByScan`."""

    def __init__(self, count: int) -> None:
        self._known: dict[str, float] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._age = count // EXPIRED
        self._second = 0
        for _ in range(self._age):
            self.add()

    def add(self) -> None:
        """Let a second pass and `EXPIRED` more tasks end."""
        self._second += 1
        for task_id in _ids(self._second):
            self._known[task_id] = ended = float(self._second)
            self._ended.append((ended, task_id))

    def clean(self) -> int:
        """Remove the oldest tasks; return how many."""
        bound = self._second - self._age
        known, ended = self._known, self._ended
        before = len(ended)
        while ended and ended[0][0] <= bound:
            del known[ended.popleft()[1]]
        return before - len(ended)


class Ours:
    """Tasks that have really run, on a clock that `add` moves; as `ByScan`."""

    def __init__(self, count: int, ending: ExitStack) -> None:
        self._clock = VirtualClock()
        self._loop = ending.enter_context(
            FrameworkLoop(
                clock=self._clock,
                max_finished_tasks=2 * count,
                result_ttl=math.inf,
                cleanup_interval=math.inf,
            )
        )
        self._manager = self._loop.call(get_task_manager)
        self._age = count // EXPIRED
        for _ in range(self._age):
            self.add()

    def add(self) -> None:
        """Let a second pass and `EXPIRED` more tasks end."""
        self._clock.advance(1.0)
        self._loop.run(run_tasks(EXPIRED))

    def clean(self) -> int:
        """Remove the oldest tasks; return how many."""
        return self._manager.cleanup_completed_tasks(self._age)


def _ids(second: int) -> list[str]:
    return [f"{number:024x}" for number in range(second * EXPIRED, (second + 1) * EXPIRED)]


def _cleanups(rounds: int) -> dict[str, list[float]]:
    with ExitStack() as ending:
        kept: dict[str, ByScan | ByDeque | Ours] = {
            DEQUE: ByDeque(MANY),
            SCAN: ByScan(MANY),
            OURS: Ours(MANY, ending),
            AT_FEW: Ours(FEW, ending),
        }
        # Several in a row of the few, which then stay in the processor's caches as if
        # there were no others.
        cases = {name: _case(tasks, 5 if name == AT_FEW else 1) for name, tasks in kept.items()}
        samples = interleave(cases, DEQUE, rounds)
    return {name: its.values for name, its in samples.items()}


def _case(tasks: ByScan | ByDeque | Ours, repeats: int) -> Case:
    def measure() -> float:
        times = []
        for _ in range(repeats):
            tasks.add()
            begin = perf_counter()
            removed = tasks.clean()
            times.append(perf_counter() - begin)
            require(removed, EXPIRED)
        return statistics.median(times) * 1e6

    return measure


def main(rounds: str) -> None:
    """Measure clean-ups in this interpreter, and write the times down as JSON."""
    sys.stdout.write(json.dumps({"times": _cleanups(int(rounds))}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[2:])
