"""Where the time of a task goes: ``python -m benchmarks.breakdown``.

Each step is made for a batch of tasks on one thread while nothing else runs, and the best of
many batches counts: the least that the step takes. In an app, whose own code keeps ours out
of the caches, each takes two to three times as long.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from time import perf_counter
from typing import Any

from framework import (
    TaskManager,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.core import Core
from framework._records.statuses import COMPLETED
from framework._running.runner import set_current
from framework._tasks.live import LiveTask
from framework._threads.pool_threads import PoolThread

SIZE = 2_000
"""Tasks of a batch."""

ROUNDS = 30

REST = "calls between these, checks, the loop around them"

Steps = dict[str, float]
"""Seconds for one task by what is done; the first is the whole."""


@background_task
def touch() -> None:
    """Do nothing."""


@async_task(timeout=60.0)
async def answer() -> int:
    """Return at once."""
    return 42


def _each(step: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Return the seconds that *step* takes for one of *items*, the loop taken off."""
    begin = perf_counter()
    for _ in items:
        pass
    middle = perf_counter()
    for item in items:
        step(item)
    return (perf_counter() - middle - (middle - begin)) / len(items)


class _Bench:
    """A manager whose pool starts no thread, so that every step can be made by hand."""

    def __init__(self, manager: TaskManager) -> None:
        self._core: Core = manager._core
        self._crew = manager.pool._crew
        self._crew._room = lambda: False  # type: ignore[method-assign]
        self._worker = PoolThread(self._crew, "by hand")
        self._loop = asyncio.get_running_loop()
        self._frame = sys._getframe()
        self._spec = touch.__asyncframe_spec__  # type: ignore[attr-defined]
        touch()
        # The loop has no turn meanwhile, and nothing is to be handed over for that.
        engine: Any = self._core.engine
        self._staging = engine._staged[self._loop]
        self._staging.since = math.inf
        self._taken_back()

    def _taken_back(self) -> list[LiveTask]:
        """Return what was submitted and not handed to the pool yet, and forget it."""
        staging = self._staging
        tasks: list[LiveTask] = [*staging.threads]
        staging.threads.clear()
        self._core.ledger.pending -= len(tasks)
        for task in tasks:
            del task.home.live[task.task_id]
        return tasks

    def submission(self) -> Steps:
        """Measure what a call of a ``@background_task`` on a loop does until it returns."""
        core, frame, spec = self._core, self._frame, self._spec
        made: list[Any] = []
        turns = range(SIZE)
        whole = _each(lambda _: touch(), turns)
        self._taken_back()
        new_id = _each(lambda _: made.append(core.intake.new_id()), turns)
        context = _each(lambda _: made.append(copy_context()), turns)
        made.clear()
        record = _each(
            lambda _: made.append(core.intake._new_task(spec, (), {}, frame)),
            turns,
        )
        accept = _each(core.ledger.add, made)
        launch = _each(core.runner.launch, made)
        self._taken_back()
        return {
            "a call of a background_task": whole,
            "id": new_id,
            "copy of the context": context,
            "record, clocks, frame": record - new_id - context,
            "acceptance under the ledger's lock": accept,
            "hand-over to the loop's next turn": launch,
        }

    def run(self) -> Steps:
        """Measure what a thread does for a queued task that does nothing."""
        core, crew, worker = self._core, self._crew, self._worker
        fn = self._spec.fn

        def step(_: object) -> None:
            item = crew.take(worker)
            assert item is not None
            worker.work(item)

        whole = _each(step, self._queued())
        worker.count()
        tasks = self._queued()
        take = _each(lambda _: crew.take(worker), tasks)
        started = perf_counter()
        start = _each(lambda task: core.ledger.start(task, started), tasks)
        body = _each(
            lambda task: (task.context.run(set_current, task), task.context.run(fn)), tasks
        )
        end = _each(lambda task: core.ledger.end(task, COMPLETED, started), tasks)
        worker.count()
        return {
            "a run of a queued task": whole,
            "off the queue, into the figures": take,
            "start under the ledger's lock": start,
            "the function in its context": body,
            "end under the ledger's lock, keeping the record": end,
        }

    def _queued(self) -> list[LiveTask]:
        for _ in range(SIZE):
            touch()
        tasks = self._taken_back()
        for task in tasks:
            self._core.ledger.add(task)
            task.handler = self._core.runner.runs["thread"]
        self._crew.put_all(tasks)
        return tasks

    def in_place(self) -> Steps:
        """Measure an awaited coroutine that is not suspended."""
        core, frame = self._core, self._frame
        spec = answer.__asyncframe_spec__  # type: ignore[attr-defined]

        def awaited(_: object) -> None:
            try:
                answer().send(None)
            except StopIteration:
                return

        turns = range(SIZE)
        made: list[Any] = []
        whole = _each(awaited, turns)
        record = _each(
            lambda _: made.append(core.intake._new_task(spec, (), {}, frame)),
            turns,
        )
        accept = _each(lambda task: core.ledger.add(task, 1.0), made)
        end = _each(lambda task: core.ledger.end(task, COMPLETED, 2.0), made)
        return {
            "an awaited coroutine that is not suspended": whole,
            "record, id, context, clocks": record,
            "acceptance under the ledger's lock": accept,
            "end under the ledger's lock, keeping the record": end,
        }


def best(rounds: Iterable[Steps]) -> Steps:
    """Return the least of each step, and what is left of the whole."""
    least: Steps = {}
    for steps in rounds:
        for name, seconds in steps.items():
            least[name] = min(seconds, least.get(name, seconds))
    whole, *parts = least.values()
    least[REST] = max(0.0, whole - sum(parts))
    return least


async def measured(rounds: int) -> list[Steps]:
    """Return the steps of a submission, a run and a coroutine."""
    async with setup_async_framework(None):
        bench = _Bench(get_task_manager())
        gc.disable()
        try:
            return [
                best(measure() for _ in range(rounds))
                for measure in (bench.submission, bench.run, bench.in_place)
            ]
        finally:
            gc.enable()


def as_text(found: Iterable[Steps]) -> str:
    """Return a table of nanoseconds and shares."""
    lines = []
    for steps in found:
        whole = next(iter(steps.values()))
        for name, seconds in steps.items():
            indent = "" if seconds is whole else "  "
            lines.append(f"{indent + name:52} {seconds * 1e9:7,.0f} ns {seconds / whole:5.0%}")
        lines.append("")
    return "\n".join(lines)


def main(rounds: int = ROUNDS) -> None:
    """Measure and print."""
    sys.stdout.write(as_text(asyncio.run(measured(rounds))))


if __name__ == "__main__":
    main()
