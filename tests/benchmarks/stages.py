"""What a task costs at each stage of growth: ``python -m tests.benchmarks.stages``.

One process with tasks in memory; one machine, whose processes share SQLite or PostgreSQL;
Celery workers on one Redis. Each stage runs the same tasks, which do nothing, with no HTTP
around them, and prints for each task: the submitting loop's time, the processor time of
all processes together, and how many end in a second. Needs Debian's ``redis-server`` and
``postgresql``, and the extras ``sql`` and ``celery``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from framework import background_task, get_task_manager, setup_async_framework
from tests.processes.servers import PostgresServer, RedisServer

ROOT = Path(__file__).resolve().parents[2]

BURST = 100
"""Tasks that are submitted in one go; the loop has a turn after each burst."""

LIMIT = 60.0
"""Limit in seconds of each task."""


@background_task(timeout=LIMIT)
def nothing(number: int) -> int:
    """Do nothing."""
    return number


@dataclass
class Figures:
    """What one process that submits has measured.

    Attributes:
        seconds: From the first submission until every task has ended and is written.
        submitting: Seconds that the submissions alone took.
        lags: Delays of the event loop in seconds, sorted.
        round_trip: Median seconds from a submission to its result, one at a time.
    """

    seconds: float
    submitting: float
    lags: list[float]
    round_trip: float


async def submit_all(many: int, rate: float | None, **parts: Any) -> Figures:
    """Submit so many tasks and wait for them all.

    Args:
        many: How many.
        rate: Tasks per second; None for as many as go.
        parts: Store and engine, as `setup_async_framework` takes them.
    """
    async with setup_async_framework(None, queue_size=many, max_workers=4, **parts) as _:
        manager = get_task_manager()
        trips = []
        for number in range(100):
            before = perf_counter()
            await manager.get_result(nothing(number))
            trips.append(perf_counter() - before)
        left, done = many, asyncio.Event()
        loop = asyncio.get_running_loop()

        def ended(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                loop.call_soon_threadsafe(done.set)

        manager.subscribe(ended, kinds=["completed", "failed", "timed_out"])
        lags: list[float] = []
        watching = asyncio.ensure_future(watch(lags))
        submitting, begun = 0.0, perf_counter()
        burst = BURST if rate is None else max(1, round(rate / 100))
        for start in range(0, many, burst):
            before = perf_counter()
            for number in range(start, min(start + burst, many)):
                nothing(number)
            submitting += perf_counter() - before
            due = 0.0 if rate is None else begun + (start + burst) / rate - perf_counter()
            await asyncio.sleep(max(0.0, due))  # noqa: TID251  # the load's own pace
        await done.wait()
        watching.cancel()
    # A store has written everything by now.
    seconds = perf_counter() - begun
    return Figures(seconds, submitting, sorted(lags), sorted(trips)[len(trips) // 2])


async def watch(lags: list[float]) -> None:
    """Note how late the loop is, each time that it should wake after a millisecond."""
    while True:
        before = perf_counter()
        await asyncio.sleep(0.001)  # noqa: TID251  # what is late is measured
        lags.append(max(0.0, perf_counter() - before - 0.001))


def parts_of(stage: str, url: str) -> dict[str, Any]:
    """Return store and engine of a stage."""
    if stage == "memory":
        return {}
    if stage == "celery":
        os.environ["STAGES_BROKER"] = url
        return {"engine": import_module("tests.benchmarks.stages_celery").engine}
    from framework.stores.sql import SQLStore

    return {"store": SQLStore(url)}


def child(stage: str, url: str, many: int, rate: float | None) -> None:
    """Be one process that submits: wait for a line, run, print figures as JSON."""
    parts = parts_of(stage, url)
    say("ready")
    sys.stdin.readline()
    figures = asyncio.run(submit_all(many, rate, **parts))
    say(json.dumps(vars(figures)))


# -- the parent


def command(stage: str, url: str, many: int, rate: float | None) -> list[str]:
    """Return the command line of one process that submits."""
    words = ["--child", stage, "--url", url, "--many", str(many)]
    if rate is not None:
        words += ["--rate", str(rate)]
    # Not as a script: the module would be there twice, once under the name that workers know.
    return [sys.executable, "-c", "from tests.benchmarks.stages import main; main()", *words]


def spent(processes: list[psutil.Process]) -> float:
    """Return the processor seconds that processes and their children, ended ones too, took."""
    total = 0.0
    for one in processes:
        for process in (one, *one.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
            total += times.children_user + times.children_system
    return total


def measure(
    stage: str, url: str, many: int, processes: int, servers: list[int], rate: float | None = None
) -> None:
    """Run a stage with so many submitting processes and print its row."""
    children = [
        subprocess.Popen(
            command(stage, url, many // processes, rate),
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(processes)
    ]  # fmt: skip
    for one in children:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    watched = [psutil.Process(pid) for pid in servers]
    before = spent(watched) + spent([psutil.Process(one.pid) for one in children])
    for one in children:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    found = []
    for one in children:
        assert one.stdout is not None
        found.append(Figures(**json.loads(one.stdout.readline())))
    # A child that has printed its figures does nothing more but end.
    usage = spent(watched)
    for one in children:
        _, _, its = os.wait4(one.pid, 0)
        usage += its.ru_utime + its.ru_stime
    lags = sorted(lag for one in found for lag in one.lags)
    row = (
        f"{stage:9} {processes} proc  {many / max(one.seconds for one in found):8,.0f} tasks/s"
        f"  submit {1e6 * sum(one.submitting for one in found) / many:6.1f} us"
        f"  processor {1e6 * (usage - before) / many:7.0f} us"
        f"  round trip {1e3 * found[0].round_trip:6.2f} ms"
        f"  loop lag p50 {1e3 * lags[len(lags) // 2]:.2f}"
        f" p99 {1e3 * lags[len(lags) * 99 // 100]:.2f} max {1e3 * lags[-1]:.1f} ms"
    )
    say(row + (f"  at {rate:,.0f}/s" if rate else ""))


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def celery_worker(url: str, children: int) -> Iterator[int]:
    """Run a Celery worker with so many pool processes; yield its process id."""
    words = ["-A", "tests.benchmarks.stages_celery:celery_app", "worker", "-P", "prefork"]
    words += ["-c", str(children), "--without-gossip", "--without-mingle", "-l", "WARNING"]
    reads, writes = os.pipe()
    environment = os.environ | {"STAGES_BROKER": url, "STAGES_READY": str(writes)}
    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "celery", "-q", *words],
        cwd=ROOT, env=environment, pass_fds=(writes,),
    )  # fmt: skip
    os.close(writes)
    try:
        assert os.read(reads, 1), "the worker did not start"
        yield worker.pid
    finally:
        worker.terminate()
        worker.wait(30)
        os.close(reads)


def main() -> None:
    """Measure the stages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--many", type=int, default=40_000, help="tasks in each row")
    parser.add_argument("--rate", type=float, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="memory,sqlite,postgres,celery")
    given = parser.parse_args()
    if given.child is not None:
        child(given.child, given.url, given.many, given.rate)
        return
    only, many = given.only.split(","), given.many
    rows: dict[str, Callable[[int], None]] = {
        "memory": memory, "sqlite": sqlite, "postgres": postgres, "celery": celery,
    }  # fmt: skip
    for name in only:
        rows[name](many)


def memory(many: int) -> None:
    """One process, nothing shared."""
    measure("memory", "", many, 1, [])
    measure("memory", "", 5_000, 1, [], 1_000.0)
    measure("memory", "", 1_000, 1, [], 100.0)


def sqlite(many: int) -> None:
    """Processes of one machine that share a file."""
    for processes in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            measure("sqlite", f"sqlite:///{folder}/tasks.db", many, processes, [])
    with tempfile.TemporaryDirectory() as folder:
        measure("sqlite", f"sqlite:///{folder}/tasks.db", 5_000, 1, [], 1_000.0)


def postgres(many: int) -> None:
    """Processes that share a server."""
    with closing(PostgresServer()) as server:
        server.start()
        for processes in (1, 2, 4):
            with server.database() as name:
                measure("postgres", server.url(name), many, processes, [server.pid])
        with server.database() as name:
            measure("postgres", server.url(name), 5_000, 1, [server.pid], 1_000.0)


def celery(many: int) -> None:
    """Workers of one Redis."""
    for children in (1, 2, 4):
        with closing(RedisServer()) as server:
            server.start()
            with celery_worker(server.url, children) as pid:
                say(f"celery, a worker with {children} processes")
                measure("celery", server.url, min(many, 2_000), 1, [server.pid, pid])
                measure("celery", server.url, 1_000, 1, [server.pid, pid], 100.0)


if __name__ == "__main__":
    main()
