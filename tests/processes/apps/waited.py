"""A process whose tasks wait: they sleep, receive messages, and await the results of children.

Called and told as `resumed.py`. What waits for longer than `LONG` leaves its process. Beside the
lines of the bodies, the file has one for each message whose sending has returned: the task, its
number as the part, and its value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from framework import background_task, get_task_manager
from framework._manager import resting
from framework.steps import Message, _sleeps, sleep, sleep_sync, step
from tests.processes.apps.resumed import (
    NEVER,
    PAUSE,
    note_for,
    on_loop,
    on_thread,
    pause,
    serve,
)

LONG = 0.3
"""Seconds of a wait for which a task leaves, in place of a minute."""

APPROVAL = Message("approval", str)
MESSAGES = ("sent-0", "sent-1", "sent-2")
"""The keys of the messages that a task gets."""


def value_of(task_id: str, key: str) -> str:
    """Return what is sent to a task."""
    return f"{task_id} {key}"


@background_task(on_restart="resume", name="waited.sleeps")
async def sleeps(number: int) -> dict[str, str]:
    """Sleep for a moment, and for long, and for long beside a step."""
    found = {"first": await on_loop("first")}
    await sleep(PAUSE)
    found["second"] = await on_loop("second")
    await sleep(2 * LONG)
    async with asyncio.TaskGroup() as group:
        third = group.create_task(on_loop("third"))
        await sleep(2 * LONG)
    return found | {"third": third.result(), "last": await on_loop("last")}


@background_task(on_restart="resume", name="waited.sleeps_on_a_thread")
def sleeps_on_a_thread(number: int) -> dict[str, str]:
    """Sleep on a thread."""
    found = {"first": on_thread("first")}
    sleep_sync(2 * LONG)
    return found | {"last": on_thread("last")}


@background_task(on_restart="resume", name="waited.receives")
async def receives(number: int) -> dict[str, str]:
    """Receive messages between steps."""
    found = {"first": await on_loop("first")}
    for _ in MESSAGES:
        value = await APPROVAL.receive()
        found[value.split()[1]] = await on_loop(value.split()[1])
    return found


@background_task(on_restart="resume", name="waited.receives_on_a_thread")
def receives_on_a_thread(number: int) -> dict[str, str]:
    """Receive messages on a thread."""
    found = {"first": on_thread("first")}
    for _ in MESSAGES:
        value = APPROVAL.receive_sync()
        found[value.split()[1]] = on_thread(value.split()[1])
    return found


@background_task(on_restart="resume", name="waited.child")
async def child(number: int) -> str:
    """Call two steps, with a long sleep between them."""
    await on_loop("begins")
    await sleep(LONG * (1 + number % 3))
    return await on_loop("ends")


@background_task(on_restart="resume", name="waited.failing_child", on_error="silent")
async def failing_child(number: int) -> str:
    """Call a step, and fail."""
    raise LookupError(await on_loop("fails"))


@step
async def submit_in_step(number: int) -> str:
    """Submit a child, and take a moment before and after it."""
    await pause()
    task_id = await get_task_manager().submit(child, (number,))
    await pause()
    return task_id


@background_task(on_restart="resume", name="waited.awaits")
async def awaits(number: int) -> dict[str, str]:
    """Submit children, and wait for their results side by side, and for an error."""
    manager = get_task_manager()
    ids = [str(await manager.submit(child, (number,))) for _ in range(2)]
    ids.append(await submit_in_step(number))
    failing = await manager.submit(failing_child, (number,))
    tokens = await asyncio.gather(*(manager.get_result(one) for one in ids))
    try:
        await manager.get_result(failing)
    except LookupError as error:
        found = {str(failing): str(error.args[0])}
    return {**dict(zip(ids, tokens, strict=True)), **found, "last": await on_loop("last")}


@background_task(on_restart="resume", name="waited.awaits_on_a_thread")
def awaits_on_a_thread(number: int) -> dict[str, str]:
    """Submit a child, and block until it has ended."""
    manager = get_task_manager()
    task_id = child(number)
    return {str(task_id): manager.wait_result(task_id), "last": on_thread("last")}


KINDS = {
    "sleeps": sleeps,
    "sleeps_on_a_thread": sleeps_on_a_thread,
    "receives": receives,
    "receives_on_a_thread": receives_on_a_thread,
    "awaits": awaits,
    "awaits_on_a_thread": awaits_on_a_thread,
}


async def send(number: int, ids: Mapping[str, str]) -> None:
    """Send messages, each at a moment at which the task runs, is about to leave, or has left."""
    for at, key in enumerate(MESSAGES):
        await asyncio.to_thread(NEVER.wait, LONG * (number % 4) * at / 2)
        for kind in ("receives", "receives_on_a_thread"):
            value = value_of(ids[kind], key)
            await APPROVAL.send(ids[kind], value, key=key)
            note_for(ids[kind], key, value.replace(" ", ":"))


if __name__ == "__main__":
    _sleeps.LONG = resting.LONG = LONG  # type: ignore[misc]  # in place of a minute
    asyncio.run(serve(KINDS, send))
