"""Tasks that submit others, of which the process dies at every commit: a module of tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from framework import (
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.exceptions import StepMismatchError
from framework.http import Accepted, task_router
from framework.steps import step
from pytest_asyncframe.probe import Probe

made: list[str] = []
"""The ids of the children that have run: a table outside of the process."""

failed: list[str] = []
"""The attempts that have failed."""


@pytest.fixture(autouse=True)
def anew() -> None:
    """Clear both for each run."""
    made.clear()
    failed.clear()


@background_task(on_restart="requeue", idempotent=True)
async def child(number: int) -> int:
    """Note that it has run; it may do so twice if the process dies meanwhile."""
    task = current_task()
    assert task is not None
    made.append(f"{number} {task.task_id}")
    return number


@background_task(on_restart="requeue", idempotent=True)
async def named(key: str) -> None:
    """Note that it has run."""
    made.append(key)


async def submit(number: int) -> str:
    """Submit a child."""
    return await get_task_manager().submit(child, (number,))


@background_task(on_restart="resume")
async def in_a_loop(order: int) -> int:
    """Submit two children with equal arguments, and another one."""
    return len({await submit(number) for number in (1, 1, 2)})


@background_task(on_restart="resume")
async def waited_for(order: int) -> int:
    """Submit three children, and wait for each."""
    for number in (1, 1, 2):
        await get_task_manager().submit(child, (number,), wait=True)
    return 3


@background_task(on_restart="resume")
async def side_by_side(order: int) -> int:
    """Submit three children at once."""
    return len(set(await asyncio.gather(*map(submit, (1, 1, 2)))))


@step
async def submit_all(order: int) -> list[str]:
    """Submit three children in one step."""
    return [await submit(number) for number in (1, 1, 2)]


@background_task(on_restart="resume")
async def in_a_step(order: int) -> int:
    """Submit them in a step."""
    return len(set(await submit_all(order)))


@step
async def submit_and_fail(order: int) -> list[str]:
    """Submit them, and fail the first time."""
    ids = [await submit(number) for number in (1, 1, 2)]
    if not failed:
        failed.append("once")
        raise ConnectionError
    return ids


@background_task(on_restart="resume")
@retry_task(max_retries=3, retry_delay=1)
async def retried(order: int) -> int:
    """Submit them in a step that fails once."""
    return len(set(await submit_and_fail(order)))


@background_task(on_restart="resume")
async def called(order: int) -> int:
    """Call the decorated function in branches, which begin in any order."""

    async def call(number: int) -> str:
        return child(number)

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(call(number)) for number in anyhow([1, 1, 2])]
    return len({one.result() for one in calls})


def anyhow(numbers: list[int]) -> list[int]:
    """Return them in an order that differs from run to run."""
    return sorted(numbers, reverse=len(made) % 2 == 1)


@background_task(on_restart="resume")
@retry_task(max_retries=1, retry_delay=1)
async def without_waiting(order: int) -> int:
    """Submit before, between and after steps, and fail the first time."""
    manager = get_task_manager()
    ids = [manager.submit_nowait(child, (1,)), *await nowait_in_a_step(order)]
    ids.append(manager.submit_nowait(child, (2,)))
    if not failed:
        failed.append("once")
        raise ConnectionError
    return len(set(ids))


@step
async def nowait_in_a_step(order: int) -> list[str]:
    """Submit one without waiting for it."""
    return [get_task_manager().submit_nowait(child, (1,))]


@background_task(on_restart="resume")
async def together(order: int) -> int:
    """Submit three in one go."""
    return len(set(await get_task_manager().submit_many(child, [1, 1, 2])))


@background_task(on_restart="resume")
async def mapped(order: int) -> int:
    """Run three for their results, two at a time."""
    results = await get_task_manager().map(child, [1, 1, 2], max_running=2)
    assert results == [1, 1, 2]
    return len(results)


@background_task(on_restart="resume")
def on_a_thread(order: int) -> int:
    """Submit from a sync task."""
    manager = get_task_manager()
    return len({child(1), manager.submit_nowait(child, (1,)), sync_in_a_step(order)})


@step
def sync_in_a_step(order: int) -> str:
    """Submit one in a sync step."""
    return child(2)


@background_task(on_restart="resume")
async def made_anew(order: int) -> int:
    """Submit a child with an argument that no other run has."""
    try:
        await get_task_manager().submit(named, (str(uuid.uuid4()),))
    except StepMismatchError:
        return 1
    return 3


PARENTS = {
    "loop": in_a_loop,
    "waited for": waited_for,
    "gather": side_by_side,
    "step": in_a_step,
    "retry": retried,
    "called": called,
    "nowait": without_waiting,
    "many": together,
    "map": mapped,
    "thread": on_a_thread,
}


def app_of(parent: Callable[[int], Any]) -> FastAPI:
    """Return an app with a route for one of them."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router())

    @app.post("/orders/{order}")
    async def place(order: int) -> Accepted[int]:
        accepted: Accepted[int] = parent(order)
        return accepted

    return app


async def run(asyncframe: Probe, parent: Callable[[int], Any]) -> Any:
    """Run a parent and all of its children; return its result."""
    async with asyncframe.client(app_of(parent), on_crash="again") as client:
        response = await client.post("/orders/7", headers={"Idempotency-Key": "7"})
        task = await asyncframe.completed(response)
        await asyncframe.settled()
    return task.result


@pytest.mark.crash_points
@pytest.mark.parametrize("name", [*PARENTS])
async def test_each_submission_has_one_child(asyncframe: Probe, name: str) -> None:
    """Wherever the process dies, three submissions have three children, two of them equal."""
    assert await run(asyncframe, PARENTS[name]) == 3
    assert sorted(one.partition(" ")[0] for one in set(made)) == ["1", "1", "2"]


@pytest.mark.crash_points
async def test_an_argument_made_anew(asyncframe: Probe) -> None:
    """It has one child at most: a second submission is refused."""
    assert await run(asyncframe, made_anew) in (1, 3)
    assert len(set(made)) <= 1
