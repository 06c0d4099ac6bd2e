"""Running a task again on Celery, from another app that shares only Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from framework import TaskManager, get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.exceptions import RunAgainError
from tests.patience import PATIENCE
from tests.processes.celery.app import make
from tests.processes.conformance import tasks
from tests.processes.conformance.tasks import ShopError
from tests.processes.sharing import RedisDatabase

NOT_KNOWN = r"its arguments are not known here: they were not kept, or only by the process that"


@asynccontextmanager
async def app(engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """Run an app that keeps its tasks in memory."""
    async with setup_async_framework(None, engine=engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


async def failed(manager: TaskManager, marker: Path, **options: Any) -> str:
    """Let a task fail, and return its id."""
    task_id: str = await manager.submit(tasks.fail_once, (marker, 7), {"factor": 3}, **options)
    with pytest.raises(ShopError, match=r"^\('not yet', 7\)$"):
        await manager.get_result(task_id, timeout=PATIENCE)
    return task_id


async def test_another_app_runs_it_again(
    celery_engine: CeleryEngine, celery_redis: RedisDatabase, tmp_path: Path
) -> None:
    """Redis keeps the arguments and the limit of a task that failed."""
    async with app(celery_engine) as manager:
        first = await failed(manager, tmp_path / "marker", timeout=11.0)
        assert celery_engine.state.kept_call(first) is not None
    other = make(celery_redis.url)
    async with app(other) as manager:
        second = await manager.run_again(first)
        assert await manager.get_result(second, timeout=PATIENCE) == 21
        with pytest.raises(
            RunAgainError,
            match=r"^task '\w{32}' \(.*\.fail_once\) cannot be run again: it completed, and the "
            r"arguments of such tasks are not kept$",
        ):
            await manager.run_again(second)
        assert other.state.fetch([second])[second]["limit"] == "11.0"
        assert other.state.kept_call(second) is None
    third = make(celery_redis.url)
    async with app(third) as manager:
        tasks_seen = [await manager.get_task(one) for one in (first, second)]
        assert [one and one.run_again_of for one in tasks_seen] == [None, first]


@pytest.mark.parametrize("how", ["engine", "option", "too large"])
async def test_arguments_are_not_kept(
    celery_redis: RedisDatabase, celery_worker: object, tmp_path: Path, how: str
) -> None:
    """Neither Redis nor another app has arguments that are not to be kept."""
    keep: Any = {"engine": False, "option": 65_536, "too large": 10}[how]
    option: Any = {"keep_arguments": False} if how == "option" else {}
    async with app(make(celery_redis.url, keep_arguments=keep)) as manager:
        first = await failed(manager, tmp_path / "marker", **option)
    other = make(celery_redis.url)
    async with app(other) as manager:
        assert other.state.kept_call(first) is None
        with pytest.raises(RunAgainError, match=NOT_KNOWN):
            await manager.run_again(first)
