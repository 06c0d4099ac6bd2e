"""A task that can be cancelled, and a test that cancels it."""

from __future__ import annotations

import time

from fastapi import FastAPI

from framework import (
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def convert(pages: int) -> int:
    """Check between pages whether the task was cancelled."""
    task = current_task()
    assert task is not None
    for _ in range(pages):
        task.check_cancelled()
        time.sleep(10)
    return pages


@app.post("/conversions", status_code=202)
async def begin(pages: int) -> dict[str, str]:
    """Start converting."""
    return {"task_id": convert(pages)}


@app.delete("/conversions/{task_id}", status_code=204, response_model=None)
async def stop(task_id: str) -> None:
    """Cancel the conversion."""
    await get_task_manager().cancel_task(task_id)


async def test_it_stops_between_two_pages(asyncframe: Probe) -> None:
    """Cancelled after 25 seconds, the task ends at 30, after its third page."""
    async with asyncframe.client(app) as client:
        response = await client.post("/conversions", params={"pages": 100})
        await asyncframe.clock.run_for(25)
        await client.delete(f"/conversions/{response.json()['task_id']}")
        task = await asyncframe.completed(response, check=False)

    assert task.status is TaskStatus.CANCELLED
    assert task.duration == 30
