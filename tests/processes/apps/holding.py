"""A process that holds a unique task, prints its id, and is killed: ``holding.py <url>``."""

from __future__ import annotations

import asyncio
import sys
import threading

from framework import background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace


def alone() -> None:
    """Run for ever."""
    threading.Event().wait()


alone.__module__ = "held"


async def main() -> None:
    """Take the key, and stay."""
    task = background_task(unique=lambda: "key")(alone)
    store = SQLStore(sys.argv[1])
    store._pace = Pace(beat=0.1)
    async with setup_async_framework(None, store=store):
        print(await get_task_manager().submit(task), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
