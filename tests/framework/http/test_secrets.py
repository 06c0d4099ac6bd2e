"""What the routes of tasks do not show, whichever task and route it is."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import BaseModel

from framework import Task, background_task, get_task_manager, retry_task, setup_async_framework
from framework.http import TaskView, task_router
from pytest_asyncframe.probe import Probe
from tests.framework.http.login import ASKED, LOGIN

ARGUMENT, MESSAGE, HOST = "argument-4711", "message-4711", "host-4711"
pytestmark = pytest.mark.asyncframe(lost_failures="off")


class Public(BaseModel):
    """What a route shows of a result."""

    title: str


@background_task(name="fails")
def fail(secret: str) -> None:
    """Fail with a message."""
    raise LookupError(f"{MESSAGE} of {secret}")


@background_task(name="retries")
@retry_task(max_retries=3, retry_delay=3_600)
async def retry(secret: str) -> None:
    """Fail, and wait for the next attempt."""
    raise LookupError(f"{MESSAGE} of {secret}")


def made(*, expose_errors: bool) -> FastAPI:
    """Return an app with the routes, and two routes of its own that return tasks."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(dependencies=LOGIN, expose_errors=expose_errors))

    @app.get("/own/{task_id}")
    async def show(task_id: str) -> TaskView[Any]:
        return await task_of(task_id)  # type: ignore[return-value]  # the model takes a task

    @app.get("/typed/{task_id}")
    async def show_typed(task_id: str) -> TaskView[Public]:
        return await task_of(task_id)  # type: ignore[return-value]  # the model takes a task

    return app


async def task_of(task_id: str) -> Task:
    """Return a task."""
    task = await get_task_manager().get_task(task_id)
    assert task is not None
    return task


async def all_answers(client: AsyncClient, ids: list[str]) -> str:
    """Return everything that the routes answer about some tasks, with the headers."""
    paths = ["/tasks", "/tasks/stats", "/tasks/dashboard/list", "/tasks/dashboard/facts"]
    for task_id in ids:
        paths += [f"/tasks/{task_id}", f"/tasks/dashboard/details/{task_id}", f"/own/{task_id}"]
        paths.append(f"/typed/{task_id}")
    found = [await client.get(path) for path in paths]
    for task_id in ids:
        found += [
            await client.post(f"/tasks/{task_id}/run-again", headers=ASKED),
            await client.delete(f"/tasks/{task_id}", headers=ASKED),
            # Once it has ended, so that the stream does.
            await client.get(f"/tasks/{task_id}/events"),
        ]
    assert {one.status_code for one in found} <= {200, 202, 409}
    return "\n".join(f"{one.headers} {one.text}" for one in found)


async def submitted(probe: Probe) -> list[str]:
    """Return tasks with a secret in each place where one can be."""
    manager = probe.manager
    failed, retrying = fail(ARGUMENT), retry(ARGUMENT)
    await probe.clock.run_for(1.0)
    shown = Task(manager._core.ledger.find(retrying), scene=manager._core.scene)  # type: ignore[arg-type]  # it is there
    assert MESSAGE in shown.explain()
    secretive = await manager.submit(lambda: {"secret": ARGUMENT}, description="a result")
    broken, waiting = fail(ARGUMENT), await manager.submit(int, delay=60)
    await probe.clock.run_for(1.0)
    ledger = manager._core.ledger
    for task_id, reason in ((broken, "not stored"), (waiting, "broker unavailable since 12:00:00")):
        record = ledger.find(task_id)
        assert record is not None
        record.reason = f"{reason}: cannot connect to {HOST}"
    return [failed, retrying, broken, waiting, secretive]


async def test_what_is_not_shown(asyncframe: Probe) -> None:
    """No answer has an argument, the message of an error, a traceback or a line of code."""
    async with asyncframe.client(made(expose_errors=False)) as client:
        *ids, secretive = await submitted(asyncframe)
        typed = (await client.get(f"/typed/{secretive}")).json()
        assert typed["result_problem"] == "its type, dict, is not what this response shows"
        assert ARGUMENT not in str(typed)
        text = await all_answers(client, ids)
        await asyncframe.settled()
    assert "LookupError" in text
    for secret in (ARGUMENT, MESSAGE, HOST, "Traceback", ".py"):
        assert secret not in text, secret


async def test_what_is_shown_if_errors_are(asyncframe: Probe) -> None:
    """With `expose_errors` the messages of errors are shown, and still no traceback or line."""
    async with asyncframe.client(made(expose_errors=True)) as client:
        failed, _, broken, waiting, _ = await submitted(asyncframe)
        shown = (await client.get(f"/tasks/{failed}")).json()
        assert shown["error_message"] == f"{MESSAGE} of {ARGUMENT}"
        assert HOST in (await client.get(f"/tasks/{broken}")).json()["reason"]
        text = await all_answers(client, [failed, broken, waiting])
        await asyncframe.settled()
    for secret in ("Traceback", ".py"):
        assert secret not in text, secret


async def test_looking_is_not_reading(asyncframe: Probe) -> None:
    """A failure that was only shown over HTTP is still one that nobody has read."""
    async with asyncframe.client(made(expose_errors=True)) as client:
        task_id = fail(ARGUMENT)
        await client.get(f"/tasks/{task_id}?wait=5")
        await client.get("/tasks")
        record = asyncframe.manager._core.ledger.find(task_id)
        assert record is not None
        assert not record.read
