"""How late the event loop is while many tasks run on threads, and how soon they are done."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from benchmarks._measure import OURS, Samples, child, percentile, rotated
from benchmarks._rows import Goal, Row
from benchmarks.floors import THREADS, Calls, Work
from benchmarks.peers import HUEY, PEERS, RUN_IN_EXECUTOR, STDLIB_PEERS, TASKIQ_SYNC
from framework import background_task, setup_async_framework

FLOOR = RUN_IN_EXECUTOR
ANYIO = "anyio.to_thread"
STARLETTE = "Starlette BackgroundTask"
DEFAULT_INTERVAL = "asyncframe, default interval"
ONE_WORKER = "asyncframe, one worker"
BOTH = "asyncframe, one worker and short interval"

_TASK = 0.005
_STEPS = 200_000
"""How many steps of a loop in Python take about as long."""

_TICK = 0.002
_SWITCH_INTERVAL = 0.0005
_PATIENCE = 120.0

Way = Callable[[Work], AbstractAsyncContextManager[Calls]]


@asynccontextmanager
async def _ours(work: Work, workers: int, interval: float | None) -> AsyncIterator[Calls]:
    if interval is not None:
        sys.setswitchinterval(interval)
    async with setup_async_framework(None, max_workers=workers):
        yield Calls(submit=background_task(work.touch))


_SLEEPING: Mapping[str, Way] = {
    FLOOR: STDLIB_PEERS[FLOOR],
    OURS: partial(_ours, workers=THREADS, interval=None),
    "asyncio.to_thread": STDLIB_PEERS["asyncio.to_thread"],
    **{name: PEERS[name] for name in (ANYIO, STARLETTE, TASKIQ_SYNC, HUEY)},
}
_BUSY: Mapping[str, Way] = {
    FLOOR: STDLIB_PEERS[FLOOR],
    OURS: partial(_ours, workers=THREADS, interval=_SWITCH_INTERVAL),
    DEFAULT_INTERVAL: partial(_ours, workers=THREADS, interval=None),
    ONE_WORKER: partial(_ours, workers=1, interval=None),
    BOTH: partial(_ours, workers=1, interval=_SWITCH_INTERVAL),
    ANYIO: PEERS[ANYIO],
}

_VARIANTS = [DEFAULT_INTERVAL, ONE_WORKER, BOTH]


def _sleep() -> None:
    time.sleep(_TASK)  # noqa: TID251 - a task that blocks its thread is what is measured


def _compute() -> None:
    total = 0
    for step in range(_STEPS):
        total += step


_KINDS: Mapping[str, tuple[Callable[[], None], int, Mapping[str, Way]]] = {
    "sleeping": (_sleep, 1_000, _SLEEPING),
    "busy": (_compute, 200, _BUSY),
}
"""What a task does, how many there are, and the ways to run them."""


# -- one measurement, in an interpreter of its own


class Ticks:
    """Something that is due 2 ms after the last time, on the running loop; first it is now.

    While the loop is held up it falls due every 2 ms all the same and each time counts, as
    the requests of clients that do not wait for each other would.

    Attributes:
        late: By how many seconds each came after its time.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.late: list[float] = []
        self._timer = self._set(self._loop.time())

    def _set(self, due: float) -> asyncio.TimerHandle:
        return self._loop.call_at(due, self._fire, due)

    def _fire(self, due: float) -> None:
        now = self._loop.time()
        while due <= now:
            self.late.append(now - due)
            due += _TICK
        # From now on, since a loop waits for whole milliseconds: on a fixed grid every tick
        # would come up to one of them late, and hide what differs.
        self._timer = self._set(now + _TICK)

    def stop(self) -> None:
        """Let nothing more be due."""
        self._timer.cancel()


async def _queue(calls: Calls, count: int, *, beside: bool) -> list[asyncio.Task[object]]:
    """Submit *count* tasks, with *beside* each from a coroutine task of its own."""
    assert calls.submit is not None
    if beside:
        return [asyncio.create_task(calls.submit()) for _ in range(count)]
    for _ in range(count):
        submitted = calls.submit()
        if calls.awaited:
            await submitted
    return []


async def _lag(name: str, kind: str) -> dict[str, float]:
    """Queue the tasks of a kind and return figures in ms, taken until all have run."""
    body, count, ways = _KINDS[kind]
    work = Work()
    touch = work.touch

    def task() -> None:
        body()
        touch()

    work.touch = task
    work.expect(count)
    async with ways[name](work) as calls:
        ticks = Ticks()
        begin = time.perf_counter()
        # A request ends with its task, so they are made beside each other.
        requests = await _queue(calls, count, beside=name == STARLETTE)
        await work.wait(_PATIENCE)
        spent = time.perf_counter() - begin
        ticks.stop()
        await asyncio.gather(*requests)
    work.verify()
    return {
        "p99": percentile(ticks.late, 0.99) * 1e3,
        "max": max(ticks.late) * 1e3,
        "drain": spent * 1e3,
    }


# -- rows


def _measure(kind: str, rounds: int, *, peers: bool) -> dict[str, dict[str, Samples]]:
    """Return samples in ms by figure and name, each beside the floor of the same round."""
    names = [name for name in _KINDS[kind][2] if peers or name not in PEERS]
    samples: dict[str, dict[str, Samples]] = {}
    for number in range(rounds):
        found = {
            name: child("benchmarks.lag", "--child", name, kind) for name in rotated(names, number)
        }
        for figure, floor in found[FLOOR].items():
            of_figure = samples.setdefault(figure, {name: Samples() for name in names})
            for name in names:
                of_figure[name].add(found[name][figure], floor)
    return samples


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure how late the loop is beside sleeping and beside busy tasks.

    Args:
        rounds: How many fresh interpreters for each way, from 1 on.
        peers: Whether to measure peers.
    """
    sleeping = _measure("sleeping", rounds, peers=peers)
    yield Row(
        key="lag_sleeping_p99",
        title="Lag of the loop while 1,000 tasks sleep 5 ms each in 4 threads: 99th percentile",
        unit="ms",
        floor=FLOOR,
        samples=sleeping["p99"],
        goals=[Goal(FLOOR, 1.1), Goal(ANYIO, 0.2), Goal(STARLETTE, 0.03)],
        note="How late a callback runs that is due every 2 ms. The event loop counts in whole "
        "milliseconds.",
    )
    yield Row(
        key="lag_sleeping_max",
        title="The same: maximum",
        unit="ms",
        floor=FLOOR,
        samples=sleeping["max"],
        goals=[Goal(FLOOR, 0.5)],
        note="Mostly the time to submit all tasks at once, which happens on the event loop.",
    )
    busy = _measure("busy", rounds, peers=peers)
    note = (
        f"asyncframe with sys.setswitchinterval({_SWITCH_INTERVAL}), which affects the whole "
        f"process, so the app has to set it. A task is a Python loop of {_STEPS:,} steps, which "
        "takes about 5 ms on its own."
    )
    yield Row(
        key="lag_busy_p99",
        title="Lag of the loop while 200 tasks compute for 5 ms each in 4 threads: 99th percentile",
        unit="ms",
        floor=FLOOR,
        samples=busy["p99"],
        goals=[Goal(FLOOR, 0.12), Goal(ANYIO, 1.0)],
        unranked=_VARIANTS,
        note=note,
    )
    yield Row(
        key="busy_drain",
        title="The same: time until all have run",
        unit="ms",
        floor=FLOOR,
        samples=busy["drain"],
        goals=[Goal(ANYIO, 0.5)],
        unranked=_VARIANTS,
        note=f"{note} Only one thread computes at a time, so for every case this is the work "
        "itself.",
    )


if __name__ == "__main__":
    _, subject, tasks = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(_lag(subject, tasks))) + "\n")
