"""Processes that share one database: what a task costs all of them together.

`processes` starts them and tells them by lines what to do; each is this module as a program.
What counts is taken from the database in the end: every task once, all of them final.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from benchmarks._measure import ROOT, percentile
from benchmarks._servers import databases, spent
from framework import (
    TaskManager,
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.stores.sql import SQLStore

TASKS = 16_000
"""How many tasks the processes run together at each point."""

BURST = 100
"""Tasks that are submitted in one go; the loop has a turn after each burst."""

WARM = 200
"""Tasks of each process before any are counted."""

READS = 5
"""How often a point waits for a sibling to see a task."""

TIME = "time"
CPU = "CPU time"
CALL = "submitting call"
SIBLING = "until a sibling reads it"


@background_task
def _number(number: int) -> int:
    return number


# -- one of the processes


async def _member(url: str) -> None:
    """Do what each line of stdin says, and answer with a line of JSON."""
    loop = asyncio.get_running_loop()
    async with setup_async_framework(
        None, store=SQLStore(url), queue_size=TASKS, max_finished_tasks=10 * TASKS
    ):
        manager = get_task_manager()
        _say("ready")
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, *arguments = json.loads(line)
            _say(await ORDERS[name](manager, *arguments))


async def _run(manager: TaskManager, first: int, many: int) -> dict[str, float]:
    """Run tasks with the numbers from *first* on until the last one is in the database."""
    begin, calling = time.perf_counter(), 0.0
    ids = []
    for start in range(first, first + many, BURST):
        before = time.perf_counter()
        ids += [_number(number) for number in range(start, min(start + BURST, first + many))]
        calling += time.perf_counter() - before
        await asyncio.sleep(0)  # noqa: TID251 - other requests get their turn
    for task_id in ids:
        await manager.get_result(task_id)
    await written(manager)
    return {"begin": begin, "end": time.perf_counter(), "calling": calling}


async def written(manager: TaskManager) -> None:
    """Suspend until a store has written everything."""
    while manager.get_stats()["store_backlog"]:  # noqa: ASYNC110 - nothing tells of its end
        await asyncio.sleep(0.01)  # noqa: TID251 - as above


async def _spent(_: TaskManager) -> float:
    """Return the processor seconds of this process."""
    return time.process_time()


async def _end_one(manager: TaskManager, number: int) -> tuple[str, float]:
    """Run one task; return its id and when it had ended."""
    task_id = _number(number)
    await manager.get_result(task_id)
    return task_id, time.perf_counter()


async def _see(manager: TaskManager, task_id: str) -> float:
    """Return when a task of another process can be read as final."""
    while True:
        task = await manager.get_task(task_id)
        if task is not None and task.status is TaskStatus.COMPLETED:
            return time.perf_counter()
        await asyncio.sleep(0.002)  # noqa: TID251 - as a caller that polls would


ORDERS: Mapping[str, Callable[..., Awaitable[Any]]] = {
    "run": _run,
    "spent": _spent,
    "end one": _end_one,
    "see": _see,
}


def _say(answer: Any) -> None:  # whatever JSON has
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


# -- all of them


class _Members:
    """Processes that share a database, from `start` to `close`."""

    def __init__(self, url: str, many: int) -> None:
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, url]
        self._all = [
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(many)
        ]
        for one in self._all:
            _answer(one)

    def __len__(self) -> int:
        return len(self._all)

    def ask(self, at: int, *order: object) -> Any:
        """Let one of them do something, and return its answer."""
        _tell(self._all[at], order)
        return _answer(self._all[at])

    def ask_all(self, orders: Sequence[Sequence[object]]) -> list[Any]:
        """Let each do something at the same time, and return their answers."""
        for one, order in zip(self._all, orders, strict=True):
            _tell(one, order)
        return [_answer(one) for one in self._all]

    def close(self) -> None:
        """Let all end in order.

        Raises:
            RuntimeError: If one of them fails.
        """
        for one in self._all:
            assert one.stdin is not None
            one.stdin.close()
        statuses = [one.wait(60) for one in self._all]
        for one in self._all:
            assert one.stdout is not None
            one.stdout.close()
        if any(statuses):
            raise RuntimeError(f"processes have ended with {statuses}")


def _tell(one: subprocess.Popen[str], order: Sequence[object]) -> None:
    assert one.stdin is not None
    one.stdin.write(json.dumps(order) + "\n")
    one.stdin.flush()


def _answer(one: subprocess.Popen[str]) -> Any:
    assert one.stdout is not None
    line = one.stdout.readline()
    if not line:
        raise RuntimeError("a process has ended early; what it wrote is above")
    return json.loads(line)


def point(
    url: str, many: int, servers: Sequence[int], tasks: int = TASKS
) -> dict[str, float | None]:
    """Return the microseconds of each series with some processes.

    Args:
        url: An empty database.
        many: How many processes share it, 1 or more; *tasks* is a multiple of it.
        servers: Process ids of the database's server.
        tasks: How many they run together.

    Raises:
        RuntimeError: If not each task is in the database once, and COMPLETED.
    """
    with closing(_Members(url, many)) as members:
        members.ask_all([("run", tasks + WARM * at, WARM) for at in range(many)])
        share = tasks // many
        before = spent(servers) + sum(members.ask_all([("spent",)] * many))
        found = members.ask_all([("run", share * at, share) for at in range(many)])
        usage = spent(servers) + sum(members.ask_all([("spent",)] * many)) - before
        first = tasks + WARM * many
        waits = [_wait(members, first + read) for read in range(READS if many > 1 else 0)]
    check(url, first + len(waits))
    wall = max(one["end"] for one in found) - min(one["begin"] for one in found)
    return {
        TIME: wall / tasks * 1e6,
        CPU: usage / tasks * 1e6,
        CALL: sum(one["calling"] for one in found) / tasks * 1e6,
        SIBLING: percentile(waits, 0.5) * 1e6 if waits else None,
    }


def _wait(members: _Members, number: int) -> float:
    """Return the seconds from the end of a task until another process can read it."""
    task_id, ended = members.ask(0, "end one", number)
    seen = members.ask(1 + number % (len(members) - 1), "see", task_id)
    return float(seen - ended)


def check(url: str, many: int) -> None:
    """Check that the tasks with the numbers below *many* are there, each once.

    Raises:
        RuntimeError: If one is missing, is not COMPLETED, or is there twice.
    """
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT status, result FROM asyncframe_tasks")).all()
    engine.dispose()
    expected = [(TaskStatus.COMPLETED.value, str(number)) for number in range(many)]
    if sorted(rows, key=lambda row: int(row[1] or -1)) != expected:
        raise RuntimeError(f"{len(rows)} tasks in the database are not the {many} expected")


async def processes(kind: str, points: Sequence[int]) -> dict[str, list[float | None]]:
    """Measure tasks of more and more processes that share one database."""
    costs: dict[str, list[float | None]] = {}
    with databases(kind) as urls:
        for many in points:
            url, servers = next(urls)
            for name, cost in point(url, many, servers).items():
                costs.setdefault(name, []).append(cost)
    return costs


if __name__ == "__main__":
    asyncio.run(_member(sys.argv[1]))
