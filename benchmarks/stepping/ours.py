"""asyncframe: tasks that go on from their steps, over a durable store."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI

from benchmarks.stepping import _orders
from framework import background_task, get_task_manager, setup_async_framework
from framework.steps import sleep, step
from framework.stores.sql import SQLStore


@step
async def one(number: int) -> int:
    """Do nothing."""
    return number


@background_task(on_restart="resume", name="flow")
async def flow(steps: int) -> int:
    """Call some steps, one after the other."""
    return sum([await one(number) for number in range(steps)])


@background_task(on_restart="resume", name="sleeper")
async def sleeper() -> None:
    """Sleep for a day."""
    await sleep(86_400)


async def main() -> None:
    """Run what is asked for."""
    store = SQLStore(os.environ[_orders.URL], durable=True)
    app = FastAPI(lifespan=setup_async_framework(store=store))
    async with app.router.lifespan_context(app):
        manager = get_task_manager()

        async def run(steps: int) -> None:
            await manager.submit(flow, (steps,), wait=True)

        await run(2)
        await _orders.serve(run, lambda: manager.submit(sleeper))


if __name__ == "__main__":
    asyncio.run(main())
