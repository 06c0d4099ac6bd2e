"""What exploration costs: a run of a small test, a point, and a switch of threads at one."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import process_time

from benchmarks._measure import OURS, Case, interleave
from benchmarks._rows import Goal, Row
from benchmarks.coroutines import MICROSECONDS
from benchmarks.tests import MILLISECONDS, time_tests
from pytest_asyncframe._turns.sequencer import Sequencer

RUNS = 300
"""Runs of one explored test."""

POINTS = 5_000
"""Points that each of two threads reaches."""

_TWO_TASKS = """
import pytest
from framework import background_task, current_task

@background_task
def work():
    current_task().report_progress(0.5)

@pytest.mark.interleave(seeds={runs}, policy="random", level="framework")
def test_two_tasks(asyncframe):
    work()
    work()
    asyncframe.run_until_idle()
"""

_REQUESTS = """
import asyncio
import pytest
from fastapi import FastAPI
from framework import background_task, current_task, setup_async_framework

app = FastAPI()
setup_async_framework(app)

@background_task
def work():
    current_task().report_progress(0.5)

@app.post("/work")
async def submit():
    return {{"task_id": work()}}

@pytest.mark.interleave(seeds={runs}, policy="random", level="framework")
async def test_requests(asyncframe):
    async with asyncframe.client(app) as client:
        answers = await asyncio.gather(*(client.post("/work") for _ in range({requests})))
        for answer in answers:
            await asyncframe.completed(answer)
"""


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure whole runs, and single points, on one processor."""
    with _on_one_processor():
        yield from _rows(rounds)


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """Keep this process and those that it starts on one processor, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _rows(rounds: int) -> Iterator[Row]:
    source = partial(_REQUESTS.format, requests=1)
    yield _run_row("explored_tasks", "two tasks, no HTTP", _TWO_TASKS.format, 300, rounds)
    yield _run_row("explored_request", "one request, one task", source, 100, rounds)
    source = partial(_REQUESTS.format, requests=3)
    yield _run_row("explored_requests", "three requests, three tasks", source, 60, rounds)
    yield _point_row("point", "A point at which nobody else is chosen", 0, 6.0, rounds)
    yield _point_row("switch", "A point at which another thread is chosen", 1, 15.0, rounds)


def _run_row(key: str, what: str, source: object, rate: int, rounds: int) -> Row:
    """Return what one run of an explored test takes, beside what it may take.

    Args:
        key: See `Row`.
        what: What the test does.
        source: Returns the test, given how many *runs* it has.
        rate: How many runs a second are the goal.
        rounds: How many rounds to measure.
    """
    assert callable(source)
    allowed = f"{rate} runs a second"
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for runs in (1, RUNS + 1):
            files[runs] = Path(folder) / f"test_{runs}_runs.py"
            files[runs].write_text(source(runs=runs), encoding="utf-8")
        cases: Mapping[str, Case] = {
            allowed: lambda: 1e3 / rate,
            OURS: lambda: (_time(files[RUNS + 1]) - _time(files[1])) / RUNS,
        }
        samples = interleave(cases, allowed, rounds)
    return Row(
        key=key,
        title=f"Run of an explored test: {what}",
        unit=MILLISECONDS,
        floor=allowed,
        samples=samples,
        goals=(Goal(allowed, 1.0),),
        note=f"A test with {RUNS + 1} runs minus the same test with one, divided by {RUNS}. Each "
        "run is a whole test of its own, with its fixtures, its app and its framework.",
    )


def _time(file: Path) -> float:
    return time_tests(["-p", "asyncframe", str(file)], 1)


class _Always:
    """Chooses the same option at each point."""

    takes_time = False

    def __init__(self, index: int) -> None:
        self._index = index

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        return self._index

    def pass_time(self, pending: object, served: object) -> None:
        return None


def _point_row(key: str, title: str, index: int, limit: float, rounds: int) -> Row:
    allowed = f"{limit:g} µs"
    cases: Mapping[str, Case] = {allowed: lambda: limit, OURS: partial(time_points, index)}
    return Row(
        key=key,
        title=title,
        unit=MICROSECONDS,
        floor=allowed,
        samples=interleave(cases, allowed, rounds),
        goals=(Goal(allowed, 1.0),),
        note="Time of the processor, with two threads that could both go on. All rows here are "
        "of one processor: with a second one, a switch also wakes that up.",
    )


def time_points(index: int) -> float:
    """Return the microseconds of a processor that a point takes.

    Args:
        index: What is chosen at each of them: 0 for the thread itself, 1 for the other one.
    """
    sequencer = Sequencer(one_at_a_time=True, chooser=_Always(index))
    with sequencer.working() as first:
        sequencer.first = first
        arrival = sequencer.expect("other")

        def run() -> None:
            with sequencer.working(arrival):
                for _ in range(POINTS):
                    sequencer.point("line", "")

        other = threading.Thread(target=run)
        begin = process_time()
        other.start()
        for _ in range(POINTS):
            sequencer.point("line", "")
        spent = process_time() - begin
        with sequencer.away():
            other.join()
    # With switches both threads have reached theirs in turn; without, only this one has.
    return spent / (POINTS * (1 + index)) * 1e6
