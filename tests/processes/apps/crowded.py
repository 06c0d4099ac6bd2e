"""One of several processes of an app that share a store, of which some are killed or suspended.

``crowded.py <url> <file>``. It takes orders, a line of JSON each, and answers each with a line:

- ``["submit", count]``: submits *count* tasks of each kind; the answer has the kind of each id
  whose submission has returned.
- ``["settle", ids, seconds]``: waits until they have ended, for so long at most.
- ``["look", ids]``: the status of each id, or null for one that it does not know.

Each function appends ``begin <id>`` and ``end <id>`` to *file*, whatever the store says.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Any

from framework import (
    TaskManager,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.exceptions import StoreUnavailableError
from framework.stores.sql import SQLStore

URL, FILE = sys.argv[1:]
PAUSE = 0.3
NEVER = threading.Event()


def note(word: str) -> None:
    """Append to the file, in one step."""
    task = current_task()
    assert task is not None
    file = os.open(FILE, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{word} {task.task_id}\n".encode())
    os.close(file)


def work(number: int) -> int:
    """Take a while on a thread."""
    note("begin")
    NEVER.wait(PAUSE)
    note("end")
    return number


async def work_on_loop(number: int) -> int:
    """Take a while on the loop."""
    note("begin")
    paused = asyncio.Event()
    asyncio.get_running_loop().call_later(PAUSE, paused.set)
    await paused.wait()
    note("end")
    return number


def fail(number: int) -> int:
    """Raise."""
    note("begin")
    raise LookupError(number)


def named(name: str, fn: Any, **options: Any) -> Any:
    """Return a task of a function under a name of its own."""
    return background_task(name=f"tests.{name}", timeout=60, on_error="silent", **options)(fn)


KINDS: dict[str, Any] = {
    "plain": named("plain", work),
    "requeued": named("requeued", work, on_restart="requeue"),
    "on_loop": named("on_loop", work_on_loop, on_restart="requeue"),
    "again": named("again", work, on_restart="requeue", idempotent=True),
    "limited": named("limited", work, on_restart="requeue", max_running=3),
    "failing": named("failing", fail, on_restart="requeue"),
    "retried": named("retried", retry_task(max_retries=1, retry_delay=0.1)(fail)),
}
KINDS["delayed"] = KINDS["requeued"].options(delay=2.0)


async def submit(manager: TaskManager, count: int) -> dict[str, str]:
    """Submit tasks of all kinds; return the kind of each that was accepted."""
    found = {}
    for number in range(count):
        for kind, task in KINDS.items():
            try:
                found[str(await manager.submit(task, (number,)))] = kind
            except StoreUnavailableError:  # it is refused, and never runs
                continue
    return found


async def settle(manager: TaskManager, ids: list[str], seconds: float) -> bool:
    """Wait for the ends of tasks; False if that takes too long."""
    try:
        await manager.gather(ids, timeout=seconds, return_exceptions=True)
    except TimeoutError:
        return False
    return True


async def look(manager: TaskManager, ids: list[str]) -> dict[str, str | None]:
    """Return the status of each task as this process knows it."""
    found = [await manager.get_task(task_id) for task_id in ids]
    return {
        task_id: None if task is None else task.status.value
        for task_id, task in zip(ids, found, strict=True)
    }


ORDERS: dict[str, Any] = {"submit": submit, "settle": settle, "look": look}


async def main() -> None:
    """Take orders until the input ends."""
    store, loop = SQLStore(URL, durable=True), asyncio.get_running_loop()
    async with setup_async_framework(None, store=store, max_workers=8):
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order, *arguments = json.loads(line)
            answer = await ORDERS[order](get_task_manager(), *arguments)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
