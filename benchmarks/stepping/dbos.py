"""DBOS: workflows of steps, which run where they are called."""

from __future__ import annotations

import asyncio
import os
from importlib import import_module
from typing import Any

from benchmarks.stepping import _orders


async def main() -> None:
    """Run what is asked for."""
    made: Any = import_module("dbos").DBOS  # a package that may not be installed
    url = os.environ[_orders.URL]
    made(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    async def one(number: int) -> int:
        return number

    step = made.step(name="one")(one)

    async def flow(steps: int) -> int:
        return sum([await step(number) for number in range(steps)])

    async def sleeper() -> None:
        await made.sleep_async(86_400)

    run = made.workflow(name="flow")(flow)
    sleeps = made.workflow(name="sleeper")(sleeper)
    made.launch()
    await run(2)
    await _orders.serve(run, lambda: made.start_workflow_async(sleeps))


if __name__ == "__main__":
    asyncio.run(main())
