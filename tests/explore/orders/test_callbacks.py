"""When callbacks of an event loop run, of all moments at which they may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run

Job = Coroutine[Any, Any, None]
Main = Callable[[list[object]], Awaitable[object]]


def outcomes(main: Main) -> tuple[set[tuple[object, ...]], int]:
    """Return all that a coroutine may log, and how many schedules there are."""
    policy, found, runs = make_policy("exhaustive", 0), set[tuple[object, ...]](), 0
    while (strategy := policy.next()) is not None:
        log = list[object]()

        async def run(log: list[object] = log) -> None:
            await main(log)

        def body(probe: Probe) -> None:
            asyncio.run(run())

        policy.ended(one_run(body, strategy, "awaits"))
        found.add(tuple(log))
        runs += 1
    return found, runs


async def pause() -> None:
    """Let others go on."""
    await asyncio.sleep(0)  # noqa: TID251  # of no time


async def once(log: list[object], name: object) -> None:
    """Suspend once."""
    await pause()
    log.append(name)


async def task(job: Job) -> None:
    """Wait for the task itself, without any callback."""
    await asyncio.ensure_future(job)


async def group(job: Job) -> None:
    """Wait for a group of asyncio."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(job)


async def anyio_group(job: Job) -> None:
    """Wait for a group of anyio."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: job)


async def gathered(job: Job) -> None:
    """Wait for a gather."""
    await asyncio.gather(job)


async def waited(job: Job) -> None:
    """Wait for a set of tasks."""
    await asyncio.wait([asyncio.ensure_future(job)])


@pytest.mark.parametrize("wait", [group, anyio_group, gathered, waited])
def test_who_is_woken_by_a_callback_passes_others(wait: Callable[..., Job]) -> None:
    """What follows a gather or a group comes in each place in which it does after a task alone."""

    def main(wait: Callable[..., Job]) -> Main:
        async def inner(log: list[object]) -> None:
            other = asyncio.ensure_future(once(log, "other"))
            await wait(once(log, "job"))
            log.append("after")
            await other

        return inner

    found, _ = outcomes(main(wait))
    expected, _ = outcomes(main(task))
    assert found == expected
    assert ("job", "after", "other") in found


def test_no_step_passes_a_callback() -> None:
    """Who waits for a task finds that its earlier callbacks have run, whatever else is ready."""

    async def main(log: list[object]) -> None:
        tasks = set[Any]()

        async def one() -> None:
            task = asyncio.ensure_future(pause())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await task
            log.append(task in tasks)

        await asyncio.gather(one(), one())

    assert outcomes(main)[0] == {(False, False)}


def test_others_may_see_what_is_before_a_callback() -> None:
    """A step that was ready before a callback comes before it, or after it."""

    async def main(log: list[object]) -> None:
        seen = list[object]()
        job = asyncio.ensure_future(once(log, "job"))
        job.add_done_callback(lambda _: seen.append("called"))

        async def look() -> None:
            await pause()
            log.extend(seen)

        await asyncio.gather(look(), job)

    assert outcomes(main)[0] == {("job",), ("job", "called")}


def test_counting_is_no_choice() -> None:
    """Two coroutines of a gather that suspend once have six orders, and six schedules."""

    async def main(log: list[object]) -> None:
        await asyncio.gather(once(log, 1), once(log, 2))

    assert outcomes(main)[1] == 6


def test_a_callback_that_comes_again_passes_once() -> None:
    """A scope that cancels until its task has ended does not keep others from running."""

    async def main(log: list[object]) -> None:
        other = asyncio.ensure_future(once(log, "other"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        await other

    assert outcomes(main)[0] == {("other",)}
