"""What a sleep costs in virtual time: in a test with the probe, on trio, on looptime.

Everyone has a fresh interpreter for each measurement, since looptime replaces parts of
asyncio. Ours is measured in pytest, with all that a test has: see `sleeping`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import selectors
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

from benchmarks._measure import OURS, ROOT, Samples, child, rotated
from benchmarks._rows import Goal, Row
from benchmarks.coroutines import MICROSECONDS

MODULE = "benchmarks.sleeps"
TEST = str(Path(__file__).with_name("sleeping.py"))

SKETCH = "selector that moves time"
TRIO = "trio, MockClock"
LOOPTIME = "looptime"

SLEEPS = 20_000
"""How many are timed at once, those of all tasks together."""

MANY = 100
"""Tasks that sleep side by side."""

PYTEST = (
    *("pytest", "--quiet", "--import-mode=importlib", "--noconftest", "--disable-plugin-autoload"),
    *("-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"),
    *("-p", "asyncio", "-o", "asyncio_mode=auto"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)
"""Runs pytest with pytest-asyncio, and with nothing else that is installed or configured."""

Durations: TypeAlias = Sequence[Sequence[float]]
"""How many seconds each task sleeps, one time after the other."""


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure the sleeps of one task and of many, in fresh interpreters."""
    names = [SKETCH, OURS, *((TRIO, LOOPTIME) if peers else ())]
    note = (
        "Ours is a complete test with the probe: it counts threads, moves datetime.now(), and "
        "records every sleep for the timeline. The others are only an event loop. The floor is "
        "asyncio's loop with a selector of ten lines, which watches no files and no threads."
    )
    yield Row(
        key="virtual_sleep",
        title="Virtual sleep of one second, one task",
        unit=MICROSECONDS,
        floor=SKETCH,
        samples=_samples(names, 1, rounds),
        goals=(Goal(SKETCH, 3.5), Goal(TRIO, 0.7), Goal(LOOPTIME, 0.1)),
        note=note,
    )
    yield Row(
        key="virtual_sleep_100",
        title=f"Virtual sleep, {MANY} tasks that sleep for different times",
        unit=MICROSECONDS,
        floor=SKETCH,
        samples=_samples(names, MANY, rounds),
        goals=(Goal(SKETCH, 2.5), Goal(TRIO, 0.5)),
        note=note,
    )


def _samples(names: Sequence[str], tasks: int, rounds: int) -> dict[str, Samples]:
    samples = {name: Samples() for name in names}
    for number in range(rounds):
        values = {name: _value(name, tasks) for name in rotated(names, number)}
        for name in names:
            samples[name].add(values[name], values[SKETCH])
    return samples


def _value(name: str, tasks: int) -> float:
    if name == OURS:
        test = f"{TEST}::test_sleeps[{tasks}]"
        answer = child(*PYTEST, "--capture=no", "-p", "asyncframe", test)
    else:
        answer = child(MODULE, "--child", name, str(tasks))
    return float(answer["value"])


# -- in a fresh interpreter


def durations(tasks: int, sleeps: int) -> Durations:
    """Return how long *tasks* tasks sleep, *sleeps* times together; one alone: a second."""
    if tasks == 1:
        return [[1.0] * sleeps]
    return [
        # In steps of a millisecond, which tasks and turns go through in different orders.
        [0.5 + (number * 7_919 + turn * 104_729) % 1_000 / 1_000 for turn in range(sleeps // tasks)]
        for number in range(tasks)
    ]


def report(value: float) -> None:
    """Write down for the parent what was measured."""
    sys.stdout.write(f"\n{json.dumps({'value': value})}\n")


async def on_asyncio(tasks: int) -> float:
    """Return the microseconds of a sleep on the running loop."""

    async def sleep(times: Sequence[float]) -> None:
        for seconds in times:
            await asyncio.sleep(seconds)  # noqa: TID251 - on virtual time it is what is measured

    async def together(times: Durations) -> None:
        await asyncio.gather(*map(sleep, times))

    return await _microseconds(together, asyncio.get_running_loop().time, tasks)


async def on_trio(tasks: int) -> float:
    """Return the microseconds of a sleep in the running trio."""
    trio: Any = import_module("trio")

    async def sleep(times: Sequence[float]) -> None:
        for seconds in times:
            await trio.sleep(seconds)

    async def together(times: Durations) -> None:
        async with trio.open_nursery() as nursery:
            for one in times:
                nursery.start_soon(sleep, one)

    return await _microseconds(together, trio.current_time, tasks)


async def _microseconds(
    together: Callable[[Durations], Awaitable[None]], now: Callable[[], float], tasks: int
) -> float:
    await together(durations(tasks, SLEEPS // 10))
    times = durations(tasks, SLEEPS)
    gc.collect()
    virtual, begin = now(), perf_counter()
    await together(times)
    spent, passed = perf_counter() - begin, now() - virtual
    if abs(passed - max(map(sum, times))) > 0.01:
        raise RuntimeError(f"{passed:g} s have passed in place of {max(map(sum, times)):g} s")
    return spent / SLEEPS * 1e6


class JumpingSelector(selectors.DefaultSelector):
    """Moves time where others wait; it looks at no file.

    Attributes:
        now: Seconds of virtual time.
    """

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let *timeout* seconds pass at once; None is refused, since they would never."""
        if timeout is None:
            raise RuntimeError("nothing will ever happen")
        self.now += timeout
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on the time of a `JumpingSelector`."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the seconds of virtual time."""
        return self._jumping.now


def _on_loop(loop: asyncio.AbstractEventLoop, tasks: int) -> float:
    try:
        return loop.run_until_complete(on_asyncio(tasks))
    finally:
        loop.close()


def _of_looptime(tasks: int) -> float:
    loop: asyncio.AbstractEventLoop = import_module("looptime").new_event_loop()
    return _on_loop(loop, tasks)


def _of_trio(tasks: int) -> float:
    clock = import_module("trio.testing").MockClock(autojump_threshold=0)
    spent: float = import_module("trio").run(partial(on_trio, tasks), clock=clock)
    return spent


_WAYS: dict[str, Callable[[int], float]] = {
    SKETCH: lambda tasks: _on_loop(JumpingLoop(), tasks),
    TRIO: _of_trio,
    LOOPTIME: _of_looptime,
}


def main(name: str, tasks: str) -> None:
    """Measure one way in this interpreter, and write it down.

    Args:
        name: Of the way.
        tasks: How many sleep.
    """
    report(_WAYS[name](int(tasks)))


if __name__ == "__main__":
    main(*sys.argv[2:])
