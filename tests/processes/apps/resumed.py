"""A process whose tasks go on from their steps in another one; it is killed or ended in order.

``resumed.py <url> <ledger> <count> [how long half a step takes, in seconds]``. It submits *count*
tasks of each kind, and then runs its own and those of ended processes until its input ends. Its
output is ``accepted <id> <kind>`` for each task once its record is safe, then ``done``. Each body
of a step appends a line to the file *ledger*: its task, its part, and a token of that line alone,
which is also its result.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.steps import sleep, sleep_sync, step
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace

URL, LEDGER, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
PAUSE = float(sys.argv[4]) if len(sys.argv) > 4 else 0.004
NEVER = threading.Event()


def note(part: str) -> str:
    """Append a line, and return its token."""
    task, token = current_task(), uuid.uuid4().hex
    assert task is not None
    note_for(task.task_id, part, token)
    return token


def note_for(task_id: str, part: str, token: str) -> None:
    """Append a line about a task."""
    file = os.open(LEDGER, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{task_id} {part} {token}\n".encode())
    os.close(file)


async def pause() -> None:
    """Wait for a moment."""
    paused = asyncio.Event()
    asyncio.get_running_loop().call_later(PAUSE, paused.set)
    await paused.wait()


@step
async def on_loop(part: str) -> str:
    """Note a line, and take a moment before and after it."""
    await pause()
    token = note(part)
    await pause()
    return token


@step
def on_thread(part: str) -> str:
    """Do the same on a thread."""
    NEVER.wait(PAUSE)
    token = note(part)
    NEVER.wait(PAUSE)
    return token


@background_task(on_restart="resume", name="resumed.fanned")
async def fanned(number: int) -> dict[str, str]:
    """Call a step, sleep, call three beside each other, and one more."""
    found = {"first": await on_loop("first")}
    await sleep(PAUSE)
    parts = ["a", "b", "c"]
    tokens = await asyncio.gather(*(on_loop(one) for one in parts))
    found |= dict(zip(parts, tokens, strict=True))
    return found | {"last": await on_loop("last")}


@background_task(on_restart="resume", name="resumed.chained")
def chained(number: int) -> dict[str, str]:
    """Call steps one after the other on a thread."""
    found = {}
    for part in ("one", "two", "three"):
        found[part] = on_thread(part)
        sleep_sync(PAUSE)
    return found


@background_task(on_restart="requeue", idempotent=True, name="resumed.child")
async def child(number: int) -> None:
    """Take a moment."""
    await pause()


@step
async def submit_in_step(number: int) -> str:
    """Submit a child, and take a moment before and after it."""
    await pause()
    task_id = await get_task_manager().submit(child, (number,))
    await pause()
    return task_id


@background_task(on_restart="resume", name="resumed.parent")
async def parent(number: int) -> list[str]:
    """Submit children that are equal, in each way there is."""
    manager = get_task_manager()
    ids = [str(await manager.submit(child, (number,))) for _ in range(2)]
    ids += [await submit_in_step(number), manager.submit_nowait(child, (number,)), child(number)]
    await sleep(PAUSE)
    ids += await manager.submit_many(child, [number] * 2)
    return [*ids, plain(number)]


@background_task(name="resumed.child_that_ends_with_its_process")
async def plain(number: int) -> None:
    """Take a moment."""
    await pause()


@step
def submit_on_thread(number: int) -> str:
    """Submit a child, and take a moment before and after it."""
    NEVER.wait(PAUSE)
    task_id = child(number)
    NEVER.wait(PAUSE)
    return task_id


@background_task(on_restart="resume", name="resumed.parent_on_a_thread")
def parent_on_a_thread(number: int) -> list[str]:
    """Do the same on a thread."""
    manager = get_task_manager()
    ids = [child(number), manager.submit_nowait(child, (number,)), submit_on_thread(number)]
    sleep_sync(PAUSE)
    return [*ids, child(number)]


@step
async def breaks(part: str) -> str:
    """Submit a child, and fail in a task that goes on from no other one."""
    task = current_task()
    assert task is not None
    await get_task_manager().submit(child, (0,))
    if task.run_again_of is None:
        raise OSError(part)
    return await on_loop(part)


@background_task(on_restart="resume", name="resumed.broken", on_error="silent")
async def broken(number: int) -> dict[str, str]:
    """Call steps, submit a child, and call one that breaks."""
    found = {"first": await on_loop("first"), "second": await on_loop("second")}
    await get_task_manager().submit(child, (number,))
    return found | {"third": await breaks("third"), "last": await on_loop("last")}


async def run_again(number: int, _: Mapping[str, str]) -> None:
    """Submit a task that breaks, and let it go on, as two people at once."""
    manager = get_task_manager()
    task_id = await manager.submit(broken, (number,))
    await manager.wait(task_id)
    await asyncio.gather(manager.run_again(task_id), manager.run_again(task_id))


KINDS = {"fanned": fanned, "chained": chained, "parent": parent, "thread": parent_on_a_thread}


async def serve(
    kinds: Mapping[str, Any], beside: Callable[[int, Mapping[str, str]], Awaitable[None]]
) -> None:
    """Submit, tell what was accepted, and run until the input ends.

    Args:
        kinds: What is submitted.
        beside: Called once for each number, with the ids of what was submitted.
    """
    store = SQLStore(URL, durable=True)
    store._pace = Pace(beat=0.1)
    end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(end.set)

    async def submit(kind: str, number: int) -> str:
        task_id = await get_task_manager().submit(kinds[kind], (number,))
        print("accepted", task_id, kind, flush=True)
        return str(task_id)

    async with setup_async_framework(
        None, store=store, max_workers=2, graceful_shutdown_timeout=0.05
    ):
        threading.Thread(target=read, daemon=True).start()
        submitted = list[Mapping[str, str]]()
        for number in range(COUNT):
            ids = await asyncio.gather(*(submit(kind, number) for kind in kinds))
            submitted.append(dict(zip(kinds, ids, strict=True)))
        calls = (beside(number, ids) for number, ids in enumerate(submitted))
        also = asyncio.gather(*calls, return_exceptions=True)
        print("done", flush=True)
        await end.wait()
    also.cancel()


if __name__ == "__main__":
    asyncio.run(serve(KINDS, run_again))
