"""The command line, and tasks that run on a Celery worker."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from framework import TaskCancelledError, TaskManager, get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.sharing import RedisDatabase
from tests.serving import ROOT


@pytest.fixture
async def manager(celery_engine: CeleryEngine, sqlite_url: str) -> AsyncIterator[TaskManager]:
    """The manager of a framework with a store, whose tasks the worker runs."""
    async with setup_async_framework(
        None, engine=celery_engine, store=SQLStore(sqlite_url), graceful_shutdown_timeout=1.0
    ):
        yield get_task_manager()


async def run(url: str, redis_url: str, *arguments: str) -> tuple[int | None, str]:
    """Run a command in a process of its own; return its status and what it has complained of."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "framework", *arguments, "--store", url,
        cwd=ROOT, env={**os.environ, "ASYNCFRAME_TEST_REDIS": redis_url},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, said.decode()


async def test_cancel_on_a_worker(
    manager: TaskManager, sqlite_url: str, celery_redis: RedisDatabase
) -> None:
    """A task on a worker is cancelled by the engine of the app, which has to be named."""
    # Longer than two programs take on a busy machine.
    task_id = await manager.submit(celery_tasks.hold_on_loop, (uuid4().hex,), timeout=PATIENCE)
    while (await manager.get_task(task_id)).status != "running":  # type: ignore[union-attr]  # it is there
        pass
    status, said = await run(sqlite_url, celery_redis.url, "cancel", task_id)
    assert status == 1
    assert said == (
        f"asyncframe: task {task_id} runs on a worker, which is asked by the app's engine: "
        "add --app module:app\n"
    )

    app = "tests.processes.celery.app:celery_app"
    found = await run(
        sqlite_url, celery_redis.url, "cancel", task_id, "--app", app, "--timeout", str(PATIENCE)
    )
    assert found == (0, "")
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)
