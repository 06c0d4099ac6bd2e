"""An app whose tasks on workers wait for each other: ``chaining.py <redis> <store> <key>``.

It submits a task that holds at a gate and one that waits for it, prints both ids once the database
has them, and stops when its input ends.
"""

from __future__ import annotations

import asyncio
import sys

from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make

URL, STORE, KEY = sys.argv[1:4]


async def main() -> None:
    """Submit, and wait for the end of the input."""
    store = SQLStore(STORE, durable=True)
    async with setup_async_framework(None, engine=make(URL), store=store):
        manager = get_task_manager()
        first = await manager.submit(celery_tasks.hold, (KEY,))
        own = await manager.submit(celery_tasks.mark, (f"{KEY}:own",), after=first)
        print(first, own, flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
