"""A process whose tasks may run in another one; it is killed, suspended or ended in order.

``requeued.py <url> <ledger> <count> [how long its tasks wait, in seconds]``. It submits *count*
tasks of each kind, and then runs its own and those of ended processes until its input ends.
Its output is ``accepted <id> <kind>`` for each task once its record is safe, then ``done``.
Each function that starts appends its task's id to the file *ledger*.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

from framework import (
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace

URL, LEDGER, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
PAUSE = float(sys.argv[4]) if len(sys.argv) > 4 else 0.005
NEVER = threading.Event()


def note_start() -> str:
    """Append this task's id to the ledger, in one step."""
    task = current_task()
    assert task is not None
    file = os.open(LEDGER, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{task.task_id}\n".encode())
    os.close(file)
    return task.task_id


@background_task(on_restart="requeue", name="tests.once")
def once(number: int) -> str:
    """Run on a thread, at most once."""
    found = note_start()
    NEVER.wait(PAUSE)
    return found


@background_task(on_restart="requeue", name="tests.on_loop")
async def on_loop(number: int) -> str:
    """Run on the loop, at most once."""
    found = note_start()
    paused = asyncio.Event()
    asyncio.get_running_loop().call_later(PAUSE, paused.set)
    await paused.wait()
    return found


@background_task(on_restart="requeue", idempotent=True, name="tests.again")
def again(number: int) -> str:
    """Run on a thread, perhaps several times."""
    found = note_start()
    NEVER.wait(PAUSE)
    return found


@background_task(on_restart="requeue", max_running=1, name="tests.limited")
def limited(number: int) -> str:
    """Run on a thread, and in one process at a time."""
    found = note_start()
    NEVER.wait(PAUSE)
    return found


@background_task(
    on_restart="requeue",
    unique=lambda number, process: f"{process} {number}",
    name="tests.unique",
)
def unique(number: int, process: int) -> str:
    """Run on a thread, as the only one of its key."""
    found = note_start()
    NEVER.wait(PAUSE)
    return found


@background_task(on_restart="requeue", name="tests.retried")
@retry_task(max_retries=2, retry_delay=0.5, exceptions=ConnectionError)
def retried(number: int) -> str:
    """Run on a thread, at the third attempt."""
    found = note_start()
    task = current_task()
    assert task is not None
    if task.attempts < 3:
        raise ConnectionError("no answer")
    return found


KINDS: dict[str, Any] = {
    "once": once,
    "loop": on_loop,
    "again": again,
    "later": once.options(delay=0.3),
    "limited": limited,
    "unique": unique,
    "retried": retried,
}


async def main() -> None:
    """Submit, tell what was accepted, and run until the input ends."""
    store = SQLStore(URL, durable=True)
    store._pace = Pace(beat=0.1)
    end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(end.set)

    async def submit(kind: str, number: int) -> None:
        args = (number, os.getpid()) if kind == "unique" else (number,)
        task_id = await get_task_manager().submit(KINDS[kind], args)
        print("accepted", task_id, kind, flush=True)

    async with setup_async_framework(
        None, store=store, max_workers=2, graceful_shutdown_timeout=0.05
    ):
        threading.Thread(target=read, daemon=True).start()
        for number in range(COUNT):
            await asyncio.gather(*(submit(kind, number) for kind in KINDS))
        print("done", flush=True)
        await end.wait()


asyncio.run(main())
