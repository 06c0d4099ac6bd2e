"""What a task costs that waits for workers over a store: ``python -m benchmarks.backlog``.

A process that only submits hands in all tasks, 100 at a time and durably, while the workers take
them: 1, 2 and 4 of them with 20 places each. Each line gives the CPU time of a task in the workers
together, in the database's server, and in the process that submits it, and how the workers have
shared. Nothing is timed by the wall clock, so other programs may run.

Arguments: how many tasks (2,000 if none is given), and kinds of databases (all if none is given).
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection
from typing import Final

from fastapi import FastAPI

from benchmarks._servers import databases, is_installed, spent
from framework import background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore

MODULE: Final = "benchmarks.backlog"
WORKERS: Final = (1, 2, 4)
PLACES: Final = 20
BURST: Final = 100
KINDS: Final = ("sqlite", "postgresql")


def make_app() -> FastAPI:
    """Return the app of the workers and of the process that submits."""
    store = SQLStore(os.environ["TASKS_URL"], durable=True)
    return FastAPI(lifespan=setup_async_framework(max_workers=0, store=store))


@background_task(on_restart="requeue", name="nothing")
async def nothing() -> None:
    """Do nothing."""


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def submit(tasks: int) -> None:
    """Submit the tasks, and wait until the last one has ended."""
    app = make_app()
    async with app.router.lifespan_context(app):
        manager, begin = get_task_manager(), time.process_time()
        task_ids = []
        for _ in range(0, tasks, BURST):
            task_ids += await asyncio.gather(*(manager.submit(nothing) for _ in range(BURST)))
        say(str((time.process_time() - begin) / len(task_ids)))
        await manager.gather(task_ids, timeout=600)


def started(url: str) -> subprocess.Popen[str]:
    """Return a worker that is ready."""
    options = ["--factory", "--max-workers", str(PLACES)]
    made = subprocess.Popen(
        [sys.executable, "-m", "framework", "worker", f"{MODULE}:make_app", *options],
        env={**os.environ, "TASKS_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    assert "is ready" in made.stdout.readline()
    return made


def measured(kind: str, url: str, servers: Collection[int], tasks: int, count: int) -> str:
    """Return a line about some workers."""
    workers = [started(url) for _ in range(count)]
    before = [spent([one.pid for one in workers]), spent(servers)]
    submitting = subprocess.run(
        [sys.executable, "-m", MODULE, "submit", str(tasks)],
        env={**os.environ, "TASKS_URL": url},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    after = [spent([one.pid for one in workers]), spent(servers)]
    shares = []
    for one in workers:
        one.terminate()
        (done,) = re.findall(r"has stopped: (\d+) completed", one.communicate()[0]) or ["0"]
        shares.append(int(done))
    assert sum(shares) == tasks, f"{sum(shares)} of {tasks} have run"
    works, serves = (1e6 * (end - begin) / tasks for begin, end in zip(before, after, strict=True))
    return (
        f"{kind}, {count} workers: {works:.0f} µs in workers, {serves:.0f} µs in the server, "
        f"{1e6 * float(submitting.stdout):.0f} µs to submit; shares {sorted(shares)}"
    )


def main(arguments: list[str]) -> None:
    """Measure each kind of database with each number of workers."""
    tasks = next((int(one) for one in arguments if one.isdecimal()), 2_000)
    for kind in [one for one in KINDS if one in arguments] or KINDS:
        if not is_installed(kind):
            say(f"{kind}: no program")
            continue
        with databases(kind) as places:
            for count in WORKERS:
                url, servers = next(places)
                say(measured(kind, url, servers, tasks, count))


if __name__ == "__main__":
    if sys.argv[1:2] == ["submit"]:
        asyncio.run(submit(int(sys.argv[2])))
    else:
        main(sys.argv[1:])
