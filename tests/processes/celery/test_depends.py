"""Dependencies of tasks on a real Celery worker."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from framework import get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from tests.patience import PATIENCE
from tests.processes.celery import depends as celery_depends
from tests.processes.celery.workers import client_of
from tests.processes.sharing import RedisDatabase


@pytest.mark.parametrize("fn", [celery_depends.in_a_process, celery_depends.on_a_loop])
async def test_dependencies_on_a_worker(
    celery_engine: CeleryEngine, celery_redis: RedisDatabase, fn: Any
) -> None:
    """The worker opens and closes the dependencies, in each attempt, and none is sent to it."""
    async with setup_async_framework(None, engine=celery_engine, graceful_shutdown_timeout=1.0):
        task_id = fn(date(2026, 11, 27))
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)
    assert result == "client of session"
    async with client_of(celery_redis.url) as client:
        noted = await client.lrange(task_id, 0, -1)
    assert noted == [
        "session opened",
        "client opened",
        "attempt 1 on Friday with session client",
        *("client closed", "session rolled back", "session closed"),
        "session opened",
        "client opened",
        "attempt 2 on Friday with session client",
        *("client closed", "session closed"),
    ]
