"""Schedules of apps that share an engine; what Redis decides is in `contracts`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from framework import get_task_manager, scheduled_task, setup_async_framework
from framework._tasks import registry
from framework.exceptions import StoreUnavailableError
from tests.patience import NEVER, PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import client_of
from tests.processes.servers import RedisServer


def test_redis_is_away() -> None:
    """The engine says that it cannot be used, by the error that the framework waits for."""
    book = make("redis://127.0.0.1:1/0").features.schedules
    assert book is not None
    with pytest.raises(
        StoreUnavailableError,
        match=r"^Redis does not answer: Error 111 connecting to ",
    ):
        book.schedules()


async def test_one_run_for_two_apps(celery_redis: RedisServer, celery_worker: object) -> None:
    """A schedule of two apps that share a Redis runs once, and is busy while its run is live."""
    name = f"tick-{uuid4().hex}"
    with registry.lasting():
        schedule = scheduled_task(every=NEVER, run_at_start=True, name=name)(celery_tasks.tick)
    async with client_of(celery_redis.url) as lists, AsyncExitStack() as stack:
        await lists.delete("ticks")
        managers = []
        for _ in range(2):
            engine = make(celery_redis.url)
            await stack.enter_async_context(setup_async_framework(None, engine=engine))
            managers.append(get_task_manager())
        for manager in managers:
            # Answered after what the start has asked on the same thread.
            assert await manager.get_task("nothing") is None
        (info,) = [one for one in await managers[1].schedules.get_all() if one.name == name]
        assert info.last_task_id is not None
        await managers[0].get_result(info.last_task_id, timeout=PATIENCE)
        again = await managers[1].schedules.trigger(name)
        await managers[1].get_result(again, timeout=PATIENCE)
        assert await lists.llen("ticks") == 2
        await managers[0].schedules.pause(name)
        infos = await managers[1].schedules.get_all()
        assert [one.paused for one in infos if one.name == name] == [True]
    assert callable(schedule)
