"""Submitting, completing and awaiting tasks of four threads, beside the standard pool.

Every subject runs in a fresh interpreter per round, right after the floor; ours and what
needs no installing does so three times there, alternating with the floor.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from benchmarks._measure import OURS, Samples, child, percentile, rotated
from benchmarks._rows import Goal, Row
from benchmarks.floors import (
    FLOORS,
    L0,
    SKETCH,
    STDLIB,
    THREADS,
    Calls,
    Subject,
    Work,
    stdlib,
)
from benchmarks.peers import (
    AIOJOBS,
    CREATE_TASK,
    HUEY,
    PEERS,
    RUN_IN_EXECUTOR,
    STDLIB_PEERS,
    TASKIQ_ASYNC,
    TASKIQ_POLL,
    TASKIQ_SYNC,
)
from framework import async_task, background_task, get_task_manager, setup_async_framework

SINK = "sink"
NO_SINK = "asyncframe, no sink"

_UNIT = "\N{MICRO SIGN}s"
_PASSES = 3
_IDLE_SAMPLES = 200
_BURSTS = 3
_SUBMITTERS = 8

Figures = dict[str, float]
"""Microseconds by the key of a row."""


# -- the rows


@dataclass(frozen=True)
class _Plan:
    """A row before it is measured."""

    key: str
    title: str
    goals: tuple[Goal, ...]
    note: str = ""


_UNTRACKED = (
    "asyncio.to_thread, anyio, create_task and aiojobs give no id and keep no status. The last "
    "two run the function on the event loop."
)

_PLANS = (
    _Plan(
        "submit_idle",
        "Submit a task to an idle pool: until the call returns",
        (
            Goal(STDLIB, 0.38),
            Goal(AIOJOBS, 0.65, from_313=0.90),
            Goal(TASKIQ_ASYNC, 0.18),
        ),
        _UNTRACKED,
    ),
    _Plan(
        "submit_burst",
        "Submit a task in a burst of 10,000: until the call returns",
        (
            Goal(STDLIB, 0.25),
            Goal(L0, 7),
            Goal(CREATE_TASK, 0.40),
            Goal(TASKIQ_SYNC, 0.08),
        ),
        f"{_UNTRACKED} Bursts are 2,000 for Starlette, 1,500 for celery, and 1,000 for "
        "APScheduler and pydocket.",
    ),
    _Plan(
        "time_per_task",
        "Run a burst of 10,000 tasks: from the first call until the last has run, per task",
        (
            Goal(STDLIB, 0.72),
            Goal(HUEY, 0.10),
            Goal(CREATE_TASK, 0.40),
        ),
        "Bursts as above. huey is the fastest peer that keeps results.",
    ),
    _Plan(
        "round_trip_p50",
        "Call a function in a thread and await its result, one at a time: median",
        (
            Goal(STDLIB, 1.0),
            Goal(TASKIQ_SYNC, 0.06),
            Goal(TASKIQ_POLL, 0.001),
        ),
        "The floor is asyncio.wrap_future(pool.submit()), as in loop.run_in_executor. "
        "create_task, aiojobs, pydocket and taskiq's async function use no thread.",
    ),
    _Plan(
        "round_trip_p99",
        "The same: 99th percentile",
        (Goal(STDLIB, 1.0),),
        "Omitted for cases with fewer than 100 round trips.",
    ),
    _Plan(
        "round_trip_8_p50",
        "The same with 8 at a time: median",
        (
            Goal(STDLIB, 0.75),
            Goal(TASKIQ_SYNC, 0.06),
            Goal(RUN_IN_EXECUTOR, 0.5),
        ),
    ),
    _Plan(
        "round_trip_8_rate",
        "The same with 8 at a time: time per round trip",
        (Goal(STDLIB, 0.75),),
    ),
)

_SINK_PLANS = (
    _Plan(
        "submit_burst",
        "Submit a task in a burst of 10,000, final states logged: until the call returns",
        (Goal(NO_SINK, 1.5),),
        "The logger asyncframe is at DEBUG, and its handler formats every record.",
    ),
    _Plan(
        "time_per_task",
        "Run a burst of 10,000 tasks, final states logged: per task",
        (),
        "As above. Each record is formatted on the thread that ran the task.",
    ),
)


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure groups A and B of the goals, and submission with a logging sink.

    Args:
        rounds: Fresh interpreters per subject, from 1 on.
        peers: Whether to measure peers that have to be installed.
    """
    subjects = {OURS: ours, **FLOORS, **STDLIB_PEERS, **(PEERS if peers else {})}
    del subjects[STDLIB]  # measured beside every other
    samples = _Samples()
    names = list(subjects)
    for number in range(rounds):
        for name in rotated(names, number):
            _run(name, samples, must=name == OURS or name in FLOORS)
        _run(SINK, samples, must=True)
    for plan in _PLANS:
        measured = samples.of(plan.key, STDLIB, list(subjects))
        yield Row(
            plan.key, plan.title, _UNIT, STDLIB, measured, plan.goals, (L0, SKETCH), plan.note
        )
    for key, plan in zip(("sink_submit", "sink_time_per_task"), _SINK_PLANS, strict=True):
        measured = samples.of(plan.key, NO_SINK, [SINK])
        yield Row(key, plan.title, _UNIT, NO_SINK, measured, plan.goals, note=plan.note)


@dataclass
class _Samples:
    """What the children gave: by subject, figures of the floor and of the subject."""

    pairs: dict[str, list[tuple[Figures, Figures]]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    def of(self, key: str, floor: str, names: list[str]) -> dict[str, Samples]:
        """Return the samples of one row; those of the floor are from beside ours."""
        measured: dict[str, Samples] = {floor: Samples()}
        for name in names:
            for beside, figures in self.pairs.get(name, ()):
                if key not in figures:
                    continue
                shown = OURS if name == SINK else name
                measured.setdefault(shown, Samples()).add(figures[key], beside[key])
                if shown == OURS:
                    measured[floor].add(beside[key], beside[key])
        return measured


def _run(name: str, samples: _Samples, *, must: bool) -> None:
    if name in samples.missing:
        return
    try:
        answer = child("benchmarks.submission", "--child", name)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        if must:
            raise
        sys.stderr.write(f"{name} failed and is left out of this round: {error}\n")
        return
    if "missing" in answer:
        if must:
            raise RuntimeError(f"{name} cannot be imported: {answer['missing']}")
        sys.stderr.write(f"{name} cannot be imported and is left out: {answer['missing']}\n")
        samples.missing.add(name)
        return
    samples.pairs.setdefault(name, []).extend(answer["pairs"])


# -- ours


@asynccontextmanager
async def ours(work: Work) -> AsyncIterator[Calls]:
    """The framework, with the defaults for whatever is kept."""
    async with setup_async_framework(None, max_workers=THREADS, queue_size=20_000):
        manager = get_task_manager()

        def check(ids: list[str]) -> None:
            if len(ids) != len({*ids} & {*manager.get_all_tasks()}):
                raise RuntimeError("ids are shared, or tasks are not kept")

        yield Calls(
            submit=background_task(work.touch),
            round_trip=async_task(work.answer),
            check=check,
        )
    stats = manager.get_stats()
    if stats["completed"] != stats["submitted"]:
        raise RuntimeError(f"not every task was completed: {stats}")


@asynccontextmanager
async def ours_logged(work: Work) -> AsyncIterator[Calls]:
    """The framework with every final state logged."""
    logger, handler = logging.getLogger("asyncframe"), _Formatting()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # what the program logs to is not measured
    logger.addHandler(handler)
    try:
        async with ours(work) as calls:
            manager = get_task_manager()
            yield calls
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    submitted = manager.get_stats()["submitted"]
    if handler.formatted != submitted:
        raise RuntimeError(f"{submitted} tasks, but {handler.formatted} log records")


class _Formatting(logging.Handler):
    """Formats every record as a file's handler would, and drops the text."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(task_id)s] %(message)s")
        )
        self.formatted = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Format *record*; called with the handler's lock held."""
        self.formatted += self.format(record).endswith("completed")


# -- in the fresh interpreter


async def measure(subject: Subject, *, round_trips: bool = True) -> Figures:
    """Return the figures of *subject*, in microseconds by the key of a row."""
    work = Work()
    figures: Figures = {}
    async with subject(work) as calls:
        if calls.submit is not None:
            figures |= await _submission(work, calls)
        if round_trips and calls.round_trip is not None:
            figures |= await _round_trips(calls.round_trip, calls.round_trips)
    work.verify()
    return {key: value * 1e6 for key, value in figures.items()}


async def _submission(work: Work, calls: Calls) -> Figures:
    for _ in range(30):
        await _burst(work, calls, 1)
    gc.collect()
    idle = [(await _burst(work, calls, 1))[0] for _ in range(_IDLE_SAMPLES)]
    await _burst(work, calls, calls.burst // 10)
    bursts = []
    for _ in range(_BURSTS):
        gc.collect()
        await _pause(0.02)
        bursts.append(await _burst(work, calls, calls.burst))
    return {
        "submit_idle": statistics.median(idle),
        "submit_burst": statistics.median(submitting for submitting, _ in bursts),
        "time_per_task": statistics.median(running for _, running in bursts),
    }


async def _burst(work: Work, calls: Calls, size: int) -> tuple[float, float]:
    """Return seconds per task until all are submitted, and until all have run."""
    submit = calls.submit
    assert submit is not None
    work.expect(size)
    start = perf_counter()
    # What the call returns is kept, whoever it is: ids, futures, handles.
    if calls.awaited:
        handles = [await submit() for _ in range(size)]
    else:
        handles = [submit() for _ in range(size)]
    submitted = perf_counter()
    await work.wait()
    ended = perf_counter()
    if calls.check is not None and size == calls.burst:
        calls.check(handles)
    return (submitted - start) / size, (ended - start) / size


async def _round_trips(call: Callable[[], Awaitable[int]], count: int) -> Figures:
    answers: list[int] = []

    async def one_by_one(times: int) -> list[float]:
        values = []
        for _ in range(times):
            start = perf_counter()
            answer = await call()
            values.append(perf_counter() - start)
            answers.append(answer)
        return values

    await one_by_one(max(3, count // 20))
    gc.collect()
    alone = await one_by_one(count)
    figures = {"round_trip_p50": statistics.median(alone)}
    if count >= 100:  # the 99th percentile of fewer is the greatest of them
        figures["round_trip_p99"] = percentile(alone, 0.99)
    gc.collect()
    start = perf_counter()
    each = [one_by_one(max(3, count // 4)) for _ in range(_SUBMITTERS)]
    together = [value for values in await asyncio.gather(*each) for value in values]
    figures["round_trip_8_rate"] = (perf_counter() - start) / len(together)
    figures["round_trip_8_p50"] = statistics.median(together)
    if sorted(answers) != list(range(len(answers))):
        raise RuntimeError("answers are missing or came twice")
    return figures


def _pause(seconds: float) -> asyncio.Future[None]:
    """Return a future that is done in so many seconds, for threads to come to rest."""
    loop = asyncio.get_running_loop()
    rest = loop.create_future()
    loop.call_later(seconds, rest.set_result, None)
    return rest


def _answer(name: str) -> dict[str, Any]:
    """Return what the child *name* is to print."""
    table: Mapping[str, Subject] = {OURS: ours, **FLOORS, **STDLIB_PEERS, **PEERS}
    floor, subject = (ours, ours_logged) if name == SINK else (stdlib, table[name])
    # What a peer leaves in the interpreter is not to slow down a floor after it.
    passes = 1 if name in PEERS else _PASSES

    def figures(of: Subject) -> Figures:
        return asyncio.run(measure(of, round_trips=name != SINK))

    try:
        figures(floor)  # the first of an interpreter is slower than those after it
        return {"pairs": [(figures(floor), figures(subject)) for _ in range(passes)]}
    except ImportError as error:
        return {"missing": str(error)}


def _child(name: str) -> None:
    code = 0
    try:
        sys.stdout.write(json.dumps(_answer(name)) + "\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Peers leave threads behind that would keep the interpreter from ending.
    os._exit(code)


if __name__ == "__main__":
    _child(sys.argv[sys.argv.index("--child") + 1])
