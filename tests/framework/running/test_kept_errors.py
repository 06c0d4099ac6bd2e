"""A task's error that is kept frees local variables, and ends nothing that waits."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from framework import TaskManager
from tests.framework.kinds import EVERY_KIND, Body, Run, fail_with

Kept = asyncio.Queue[Exception]
"""Errors that were caught, whose tracebacks have the frame that caught them."""


async def a_coroutine(kept: Kept, gate: asyncio.Event) -> str:
    """Catch an error, keep it, and wait for something else."""
    try:
        raise RuntimeError("mail server away")
    except RuntimeError as error:
        kept.put_nowait(error)
    await gate.wait()
    return "went on"


async def an_async_generator(kept: Kept, gate: asyncio.Event) -> str:
    """Do so in an async generator."""

    async def lines() -> AsyncIterator[str]:
        yield await a_coroutine(kept, gate)

    return await anext(lines())


async def a_generator(kept: Kept, gate: asyncio.Event) -> str:
    """Do so in a generator, which pauses."""

    def lines() -> Iterator[str]:
        try:
            raise RuntimeError("mail server away")
        except RuntimeError as error:
            kept.put_nowait(error)
        yield "pauses"
        yield "went on"

    pausing = lines()
    next(pausing)
    await gate.wait()
    return next(pausing)


@pytest.mark.asyncframe(lost_failures="off")
@pytest.mark.parametrize("waits", [a_coroutine, an_async_generator, a_generator])
@EVERY_KIND
async def test_who_caught_an_error_before_goes_on(
    task_manager: TaskManager,
    waits: Callable[[Kept, asyncio.Event], Awaitable[str]],
    make: Callable[[Body], Body],
    run: Run,
) -> None:
    """A task raises an error again that other code caught, and that code waits and goes on."""
    kept: Kept = asyncio.Queue()
    gate = asyncio.Event()
    waiting = asyncio.ensure_future(waits(kept, gate))
    caught = await kept.get()

    with pytest.raises(RuntimeError, match=r"^mail server away$"):
        await run(task_manager, make(fail_with(caught)))
    gate.set()

    assert await waiting == "went on"


class Large:
    """A local variable that an error must not keep."""


@pytest.mark.asyncframe(lost_failures="off")
@pytest.mark.parametrize("thrown", [False, True])
async def test_coroutines_that_have_ended_keep_nothing(
    task_manager: TaskManager, *, thrown: bool
) -> None:
    """The local variables of coroutines are freed, whether they raised or were thrown into."""
    seen: list[weakref.ref[Large]] = []

    async def inner() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        if thrown:
            await asyncio.wait_for(asyncio.Event().wait(), 1.0)
        raise TimeoutError

    async def body() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        await inner()

    with pytest.raises(TimeoutError) as caught:
        await task_manager.submit(body, wait=True)

    assert [one() for one in seen] == [None, None]
    assert caught.value.__traceback__ is not None
