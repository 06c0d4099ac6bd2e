"""A process whose tasks wait for others, of its own and of other processes; it is killed or ended.

``chained.py <url> <ledger> <count>``. It submits *count* times five tasks that wait for each other,
and a sixth that waits for one of any process, and then runs its own and those of ended processes
until its input ends. Its output is ``accepted <id> <kind>`` for each task once its record is safe,
then ``done``. Each body appends two lines to the file *ledger*: ``begin`` or ``end``, and its task.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

from framework import TaskId, background_task, current_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace

URL, LEDGER, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
PAUSE = 0.004
NEVER = threading.Event()


def note(word: str) -> None:
    """Append a line."""
    task = current_task()
    assert task is not None
    file = os.open(LEDGER, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{word} {task.task_id}\n".encode())
    os.close(file)


@background_task(on_restart="requeue", idempotent=True, name="tests.link", on_error="silent")
def link(fails: bool) -> None:
    """Take a moment."""
    note("begin")
    NEVER.wait(PAUSE)
    note("end")
    if fails:
        raise ValueError


@background_task(on_restart="requeue", idempotent=True, name="tests.async_link")
async def async_link(fails: bool) -> None:
    """Do the same on the loop."""
    note("begin")
    await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(NEVER.wait, PAUSE))])
    note("end")


async def submit(kind: str, fn: Any, *after: str, fails: bool = False, run: bool = False) -> str:
    """Submit a task, and tell what was accepted."""
    on_failure = "run" if run else "cancel"
    options: Any = {"after": after, "after_failure": on_failure} if after else {}
    task_id: TaskId[None] = await get_task_manager().submit(fn, (fails,), **options)
    print("accepted", task_id, kind, flush=True)
    return task_id


def any_of(rng: random.Random) -> list[str]:
    """Return one of the tasks that have begun in any process; none at first."""
    file = Path(LEDGER)
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [line.split()[1] for line in rng.sample(lines, min(1, len(lines)))]


async def submit_links(number: int) -> None:
    """Submit tasks that wait for each other."""
    first = await submit("completed", link)
    second = await submit("completed", async_link, first)
    bad = await submit("failed", link, first, fails=True)
    lost = await submit("cancelled", link, second, bad)
    last = await submit("completed", async_link, lost, second, run=True)
    for other in any_of(random.Random(number)):
        await submit("completed", link, other, last, run=True)


async def main() -> None:
    """Submit, tell what was accepted, and run until the input ends."""
    store = SQLStore(URL, durable=True)
    store._pace = Pace(beat=0.1)
    end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(end.set)

    async with setup_async_framework(
        None, store=store, max_workers=2, graceful_shutdown_timeout=0.05
    ):
        threading.Thread(target=read, daemon=True).start()
        for number in range(COUNT):
            await submit_links(number)
        print("done", flush=True)
        await end.wait()


if __name__ == "__main__":
    asyncio.run(main())
