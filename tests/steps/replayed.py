"""Tasks of many branches, and tasks whose way changes with time, order and surroundings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from framework import background_task
from framework.steps import Message, sleep, step

approval = Message("approval", bool)


@step
async def work(name: str, moments: float = 0) -> str:
    """Take some milliseconds."""
    await _pause(moments)
    return name


@step
async def fail(name: str) -> None:
    """Take two milliseconds, and fail."""
    await _pause(2)
    raise ValueError(name)


@step(once=True)
async def begin_first(name: str) -> str:
    """Have a start that is stored."""
    return name


async def _pause(milliseconds: float) -> None:
    await asyncio.sleep(milliseconds / 1000)  # noqa: TID251  # so that branches overtake each other


@background_task(on_restart="resume")
async def gathered() -> list[str]:
    """Have branches that overtake each other."""

    async def branch(number: int) -> str:
        await work(f"a{number}", 3 - number)
        await _pause(number)
        return await work(f"b{number}", 2)

    return [*await asyncio.gather(*map(branch, range(4))), await work("end")]


@background_task(on_restart="resume")
async def grouped() -> str:
    """Have groups in a group, and sleep."""

    async def inner(number: int) -> None:
        async with asyncio.TaskGroup() as group:
            for other in range(2):
                group.create_task(work(f"{number}.{other}", other))
        await begin_first(f"{number}")

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(inner(number))
    await sleep(0.01)
    return await work("end")


@background_task(on_restart="resume")
async def raced() -> str:
    """Go on with whatever ends first, and cancel the rest."""

    async def runner(number: int) -> str:
        await work(f"first {number}", 2 * number)
        return await work(f"second {number}", 3)

    tasks = [asyncio.create_task(runner(number)) for number in range(3)]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in rest:
        one.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return await work("won by " + done.pop().result())


@background_task(on_restart="resume")
async def shared_out() -> str:
    """Share items out between workers of a queue."""
    items = asyncio.Queue[int]()
    for number in range(7):
        items.put_nowait(number)

    async def worker() -> None:
        while not items.empty():
            number = items.get_nowait()
            await work(f"item {number}", number * 3 % 5)

    await asyncio.gather(worker(), worker(), worker())
    return await work("end")


@background_task(on_restart="resume")
async def limited() -> str:
    """Let two at a time pass, and one."""
    places, lock = asyncio.Semaphore(2), asyncio.Lock()

    async def one(number: int) -> None:
        await _pause(number * 7 % 3)
        async with places:
            await work(f"x{number}", 1)
            async with lock:
                await work(f"y{number}", 1)

    for ended in asyncio.as_completed(map(one, range(5))):
        await ended
    return await work("end")


@background_task(on_restart="resume")
async def caught() -> str:
    """Make up for what fails."""
    with contextlib.suppress(ValueError):
        await fail("alone")
    await asyncio.gather(fail("beside"), work("another"), return_exceptions=True)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("in a group"))
            group.create_task(work("cancelled", 1_000))
    except* ValueError:
        await work("refund")
    if await approval.receive(timeout=0.01) is None:
        await work("nobody has answered")
    return await work("end")


@background_task(on_restart="resume")
async def failed() -> None:
    """End by a step's error."""
    await work("before")
    await fail("the last one")


@background_task
async def child(number: int) -> None:
    """Do nothing."""


@background_task(on_restart="resume")
async def submits() -> list[str]:
    """Give the ids of children to steps, from branches that begin in any order."""

    async def branch(number: int) -> str:
        await _pause(number)
        return await work(child(number), 1)

    return [await work(child(0)), *await asyncio.gather(*map(branch, range(3)))]


PROGRAMS: list[Callable[[], Any]] = [
    *(gathered, grouped, raced, shared_out, limited, caught, failed, submits)
]
"""All of them; each takes the same way whenever it runs."""
