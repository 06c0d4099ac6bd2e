"""Tasks on workers that wait for others, whose app is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from framework import TaskStatus, get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace
from tests.children import ROOT
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.workers import client_of
from tests.processes.sharing import RedisDatabase
from tests.programs import program

APP = Path(__file__).parents[1] / "apps" / "chaining.py"


@contextmanager
def app(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run an app, which is killed at the end at the latest."""
    with subprocess.Popen(
        [program("setpriv"), "--pdeathsig", "KILL", sys.executable, str(APP), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_app_of_a_parent_is_killed(
    celery_engine: CeleryEngine, celery_redis: RedisDatabase, sql_url: str
) -> None:
    """Whoever follows the parent from then on releases what waits for it; it is published once.

    What waits in the app that was killed was never published, and ends INTERRUPTED.
    """
    key = uuid4().hex
    store = SQLStore(sql_url, durable=True)
    store._pace = Pace(beat=0.1)
    async with client_of(celery_redis.url) as client:
        with app(celery_redis.url, sql_url, key) as killed:
            assert killed.stdout is not None
            first, lost = killed.stdout.readline().split()
            async with setup_async_framework(None, engine=celery_engine, store=store):
                manager = get_task_manager()
                other = await manager.submit(celery_tasks.mark, (f"{key}:other",), after=first)
                last = await manager.submit(
                    celery_tasks.mark, (f"{key}:last",), after=[other, first]
                )
                assert await client.blpop([f"{key}:started"], timeout=PATIENCE)
                killed.kill()
                waits = await manager.get_task(other)
                assert waits is not None
                assert waits.explain() == f"waits for task {first} to end"
                await client.rpush(f"{key}:gate", "open")
                assert await manager.get_result(last, timeout=PATIENCE) == "done"
                parent = await manager.get_task(first)
                await manager.gather([lost], timeout=PATIENCE, return_exceptions=True)
                gone = await manager.get_task(lost)
            assert parent is not None
            assert parent.status is TaskStatus.COMPLETED
            assert gone is not None
            assert gone.status is TaskStatus.INTERRUPTED
            assert [await client.llen(f"{key}:{one}") for one in ("other", "last", "own")] == [
                1,
                1,
                0,
            ]
