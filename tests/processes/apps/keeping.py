"""An app whose tasks wait when it ends: ``keeping.py <redis> <key> <seconds> [store]``.

It submits one task that starts, one that waits for its end, and two that are due after *seconds*,
prints the ids once Redis has them, and stops when its input ends.
"""

from __future__ import annotations

import asyncio
import sys

from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make

URL, KEY, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
STORE = SQLStore(sys.argv[4]) if sys.argv[4:] else None


async def main() -> None:
    """Submit, and wait for the end of the input."""
    engine = make(URL)
    later = celery_tasks.one_by_one.options(delay=SECONDS)
    async with setup_async_framework(None, engine=engine, store=STORE):
        manager = get_task_manager()
        ids = [
            await manager.submit(celery_tasks.one_by_one, (KEY, "first")),
            await manager.submit(celery_tasks.one_by_one, (KEY, "second")),
            await manager.submit(later, (KEY, "third")),
            await manager.submit(celery_tasks.mark, (f"{KEY}:ran", "fourth"), delay=SECONDS),
        ]
        await asyncio.to_thread(engine.flush)
        print(*ids, flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
