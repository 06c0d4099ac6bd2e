"""The shop, which sells each ticket once."""

import threading

from fastapi import FastAPI

from framework import background_task, current_task, setup_async_framework

app = FastAPI()
setup_async_framework(app)

stock = {"ticket": 1}
sold: list[str] = []
counter = threading.Lock()


@background_task
def reserve(buyer: str) -> None:
    """Sell a ticket if there is one left."""
    with counter:
        left = stock["ticket"]
        if left:
            task = current_task()
            assert task is not None
            task.report_progress(0.5, "taking the money")
            stock["ticket"] = left - 1
            sold.append(buyer)


@app.post("/tickets/{buyer}", status_code=202)
async def buy(buyer: str) -> dict[str, str]:
    """Begin to reserve a ticket."""
    return {"task_id": reserve(buyer)}
