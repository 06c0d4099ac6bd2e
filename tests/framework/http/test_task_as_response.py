"""A task as what a route returns, and not as what is sent to another process."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from framework import Task, TaskId, TaskManager, background_task, setup_async_framework
from framework.protocols import encode_call, encode_result
from pytest_asyncframe.probe import Probe


@background_task
def make() -> int:
    """Make a number."""
    return 5


@background_task
def fail() -> None:
    """Fail with a text that others should not see."""
    raise ValueError("password: hunter2")


class Answer(BaseModel):
    """A model with a task."""

    task: Task | None


app = FastAPI(lifespan=setup_async_framework)


async def of(task_id: TaskId[Any]) -> Task:
    """Return an ended task."""
    manager: TaskManager = app.state.task_manager
    task = await manager.wait(task_id)
    assert task.task_id == task_id
    return task


@app.get("/task")
async def get_task() -> Task:
    """Return a task."""
    return await of(make())


@app.get("/perhaps")
async def perhaps() -> Task | None:
    """Return no task."""
    return None


@app.get("/list")
async def get_list() -> list[Task]:
    """Return tasks."""
    return [await of(make())]


@app.get("/inside")
async def get_inside() -> Answer:
    """Return a model with a task."""
    answer = Answer(task=await of(make()))
    assert isinstance(answer.task, Task)
    return answer


@app.get("/failed")
async def get_failed() -> Task:
    """Return a task that has failed."""
    return await of(fail())


async def test_a_task_is_shown(asyncframe: Probe) -> None:
    """A route may return a task, alone or as a part, and the response has its state."""
    async with asyncframe.client(app) as client:
        alone = (await client.get("/task")).json()
        one = (await client.get("/list")).json()[0]
        inside = (await client.get("/inside")).json()["task"]
        for shown in (alone, one, inside):
            assert (shown["status"], shown["result"]) == ("completed", 5)
        assert (await client.get("/perhaps")).json() is None


async def test_a_failure_without_its_text(asyncframe: Probe) -> None:
    """The text of an error is left out, as by a `TaskView`."""
    asyncframe.expect_failure(fail, ValueError)
    async with asyncframe.client(app) as client:
        response = await client.get("/failed")
    assert response.json()["error_type"] == "ValueError"
    assert "hunter2" not in response.text


def test_the_shape_in_openapi() -> None:
    """OpenAPI has the shape of a `TaskView`."""
    found = app.openapi()["paths"]["/task"]["get"]["responses"]["200"]["content"]
    assert found == {"application/json": {"schema": {"$ref": "#/components/schemas/TaskView"}}}


@pytest.mark.parametrize("call", [encode_call, encode_result])
async def test_a_task_is_not_sent(asyncframe: Probe, call: Callable[..., str]) -> None:
    """Other processes cannot get a task as an argument or result: its state would be old."""

    def follow(task: Task) -> Task:
        return task

    task = await asyncframe.completed(make())
    given: Any = (task,) if call is encode_call else task
    more: list[Any] = [None] if "kwargs" in inspect.signature(call).parameters else []
    said = (
        r"^(argument 'task' of|the result of) \S+\.follow .+: given a value of type Task: .+: "
        r"a task cannot be sent: use its task_id; (arguments are sent|results are stored) as JSON "
        r"according to the .+$"
    )
    with pytest.raises(TypeError, match=said):
        call(follow, given, *more)
