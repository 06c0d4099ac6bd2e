"""What a task costs that waits in a queue for a worker: ``python -m benchmarks.queues``.

asyncframe beside pgqueuer, procrastinate and Celery, one after the other, round by round. Those
with a database are on one PostgreSQL, which waits for the disk; Celery is on a Redis that does the
same. So each submission is on disk when it returns. Workers have 20 places, and tasks count their
runs and do nothing else.

``backlog``: the workers stand still while all tasks are submitted, 100 at a time, and go on then.
``one by one``: a process submits one task after the other while the workers run them.

Each line gives the middle of the rounds, and the least and the greatest: the CPU time of a task in
the workers together, in the server, and in the process that submits. The start of processes does
not count, and nothing is timed by the wall clock. A task that runs twice or never is an error.

Install the peers into an environment of their own::

    python -m venv queues
    queues/bin/pip install -r benchmarks/requirements-queues.txt -e .
    queues/bin/python -m benchmarks.queues

Arguments: how many tasks (2,000 if none is given), names of queues (all if none is given), and
``rounds=3``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from typing import Any, Final, NamedTuple

from benchmarks._measure import rotated
from benchmarks._servers import Place, databases, spent
from benchmarks.queueing import _marks
from tests.processes.servers import RedisServer

MODULE: Final = "benchmarks.queues"
QUEUES: Final = ("ours", "pgqueuer", "procrastinate", "celery")
CASES: Final = ("backlog", "one by one")
WORKERS: Final = (1, 4)
BURST: Final = 100
WARM: Final = 20
_PATIENCE: Final = 300.0


class Costs(NamedTuple):
    """CPU time of a task, in microseconds."""

    workers: float
    server: float
    submits: float


def main(arguments: Sequence[str]) -> None:
    """Measure all queues in all cases, and print a line for each."""
    tasks = next((int(one) for one in arguments if one.isdecimal()), 2_000)
    rounds = next((int(one[7:]) for one in arguments if one.startswith("rounds=")), 3)
    queues = [one for one in QUEUES if one in arguments] or QUEUES
    with ExitStack() as stack:
        places = {
            "postgresql": stack.enter_context(databases("postgresql")),
            "redis": stack.enter_context(_redis()),
        }
        for case in CASES:
            for count in WORKERS:
                found: dict[str, list[Costs]] = {queue: [] for queue in queues}
                for number in range(rounds):
                    for queue in rotated(queues, number):
                        place = next(places["redis" if queue == "celery" else "postgresql"])
                        found[queue].append(measured(queue, place, case, count, tasks))
                _say(case, count, found)


@contextmanager
def _redis() -> Iterator[Iterator[Place]]:
    """Yield databases of a Redis that writes each command to the disk."""
    with ExitStack() as stack:

        def places() -> Iterator[Place]:
            while True:
                server = stack.enter_context(closing(RedisServer("--appendfsync", "always")))
                server.start()
                yield server.url, [server.pid]

        yield places()


def _say(case: str, count: int, found: Mapping[str, Sequence[Costs]]) -> None:
    for queue, costs in found.items():
        parts = [
            f"{statistics.median(some):.0f} µs ({min(some):.0f} to {max(some):.0f}) {where}"
            for some, where in zip(
                zip(*costs, strict=True), ("in workers", "in the server", "to submit"), strict=True
            )
        ]
        sys.stdout.write(f"{case}, {count} workers, {queue}: {', '.join(parts)}\n")
    sys.stdout.flush()


def measured(queue: str, place: Place, case: str, count: int, tasks: int) -> Costs:
    """Return what a task costs in an empty database.

    Raises:
        RuntimeError: If a task has run twice, or never.
    """
    url, servers = place
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(WARM + tasks))
        file.flush()
        # For this process too, which submits.
        os.environ.update({_marks.URL: url, _marks.MARKS: file.name})
        _marks.marks.cache_clear()
        way = import_module(f"benchmarks.queueing.{queue}")
        way.prepare()
        with _working(queue, count) as workers:
            pids = [one.pid for one in workers]
            costs = asyncio.run(_measured(way, case, workers, [pids, servers], tasks))
        runs = set(bytes(_marks.marks()))
    if runs != {1}:
        raise RuntimeError(f"tasks of {queue} have run so often: {sorted(runs)}")
    return costs


@contextmanager
def _working(queue: str, count: int) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """Run workers that are ready, and end them."""
    command = [sys.executable, "-W", "ignore", "-m", MODULE, "work", queue]
    with ExitStack() as stack:
        workers = []
        for _ in range(count):
            made = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.enter_context(made)
            stack.callback(made.terminate)
            workers.append(made)
        for made in workers:
            assert made.stdout is not None
            if not any(_marks.READY in line for line in made.stdout):
                raise RuntimeError(f"a worker of {queue} has not started")
        yield workers


async def _measured(
    way: Any,  # Any: a module of `queueing`
    case: str,
    workers: Sequence[subprocess.Popen[str]],
    processes: Sequence[Sequence[int]],
    tasks: int,
) -> Costs:
    numbers = range(WARM, WARM + tasks)
    async with way.submitting() as submit:
        for number in range(WARM):
            await submit.one(number)
        await _all_ended(way, WARM)
        before, began = [spent(some) for some in processes], time.process_time()
        if case == "backlog":
            for worker in workers:
                worker.send_signal(signal.SIGSTOP)
            for at in range(0, tasks, BURST):
                await submit.many(numbers[at : at + BURST])
            submitted, before = time.process_time(), [spent(some) for some in processes]
            for worker in workers:
                worker.send_signal(signal.SIGCONT)
        else:
            for number in numbers:
                await submit.one(number)
            submitted = time.process_time()
        await _all_ended(way, WARM + tasks)
        worked, served = (
            spent(some) - earlier for some, earlier in zip(processes, before, strict=True)
        )
    works, serves, submits = (1e6 * one / tasks for one in (worked, served, submitted - began))
    return Costs(works, serves, submits)


async def _all_ended(way: Any, tasks: int) -> None:
    """Wait until so many tasks have run, and none is left that is not acknowledged."""
    async with asyncio.timeout(_PATIENCE):
        # Nothing tells of the end in all queues.
        while 0 in _marks.marks()[:tasks] or await asyncio.to_thread(way.left):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # noqa: TID251 - as above


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        import_module(f"benchmarks.queueing.{sys.argv[2]}").work()
    else:
        main(sys.argv[1:])
