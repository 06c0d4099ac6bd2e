"""Tasks of asyncframe in the app's own process, in memory or kept in a database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.ways._task import AT_ONCE, URL, MakeWay, Way, async_note, note
from framework import background_task, get_task_manager, setup_async_framework

UNFINISHED = ("pending", "running", "store_backlog")
"""The counters that are 0 when everything is done and written."""


def way_of(task: Callable[[int], str]) -> Way:
    """Return the way of a decorated function."""
    manager = get_task_manager()

    async def result(number: int) -> int:
        found: int = await manager.get_result(task(number))
        return found

    async def settle() -> None:
        stats = manager.get_stats()
        while any(stats.get(name) for name in UNFINISHED):
            await asyncio.sleep(0.001)  # noqa: TID251 - nothing tells when a store has written all
            stats = manager.get_stats()

    return Way(task, result=result, settle=settle)


def _ours(fn: Callable[[int], Any], *, stored: bool = False) -> MakeWay:
    @asynccontextmanager
    async def way(app: Any) -> AsyncIterator[Way]:
        store = None
        if stored:
            from framework.stores.sql import SQLStore

            store = SQLStore(os.environ[URL])
        task: Callable[[int], str] = background_task(fn)
        async with setup_async_framework(app, store=store, max_workers=AT_ONCE):
            yield way_of(task)

    return way


memory = _ours(async_note)
memory_sync = _ours(note)
stored = _ours(async_note, stored=True)
