"""One of several processes that submit the same unique task: ``submitting.py <url> <log>``.

For each line of its input, such as ``return 250``, it submits the task so many times at once, with
that `on_duplicate`, and prints the ids that it got, each once. Each run of the task is noted in the
log with its process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore

URL, LOG = sys.argv[1], Path(sys.argv[2])


def note(word: str) -> None:
    """Append a line to the log, at once."""
    task = current_task()
    assert task is not None
    with LOG.open("a") as file:
        file.write(f"{word} {os.getpid()} {task.task_id}\n")


def alone() -> None:
    """Run until the process is killed."""
    note("start")
    threading.Event().wait()


alone.__module__ = "submitting"


async def main() -> None:
    """Submit whenever it is told to."""
    task = background_task(unique=lambda: "key")(alone)
    async with setup_async_framework(None, store=SQLStore(URL)):
        manager = get_task_manager()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            how, count = line.split()
            ids = await asyncio.gather(
                *(manager.submit(task.options(on_duplicate=how)) for _ in range(int(count)))
            )
            print(*set(ids), flush=True)


asyncio.run(main())
