"""An app whose tasks wait until they are let go, for those who watch them on the page."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from framework import (
    background_task,
    current_task,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework.http import task_router
from framework.steps import Message, step
from tests.framework.apps.hostile import HOSTILE

_gates: dict[str, threading.Event] = {}
_steps: dict[str, asyncio.Queue[tuple[float, str] | None]] = {}


def _gate(name: str) -> threading.Event:
    return _gates.setdefault(name, threading.Event())


@background_task(name="held", description="Waits on a thread until it is let go")
def held(gate: str) -> dict[str, Any]:
    """Wait on a thread."""
    _gate(gate).wait()
    return {"gate": gate, "figures": [1, 2.5, None]}


@background_task(
    name="steps",
    description="Reports what it is told to",
    label=lambda key: f"key {key}",
    meta=lambda key: {"key": f"<b>{key}</b>", "paid": True},
    show_arguments=True,
)
async def steps(key: str) -> str:
    """Report progress step by step, on the loop."""
    queue = _steps.setdefault(key, asyncio.Queue())
    task = current_task()
    assert task is not None
    while (step := await queue.get()) is not None:
        task.report_progress(*step)
    return "done"


@background_task(name="fails")
async def fails() -> None:
    """Fail with words that nobody else may read."""
    raise ConnectionError("the password is hunter2")


@background_task(name="retried")
@retry_task(max_retries=4, retry_delay=600)
async def retried() -> None:
    """Fail, and wait for the next attempt."""
    raise ConnectionError("the password is hunter2")


@background_task(name="throttled")
@throttled_task(rate_limit=1, time_window=600, when_limited="wait")
async def throttled() -> None:
    """Take the only slot, or wait for it."""


@background_task(name="limited", timeout=0.01)
def limited() -> None:
    """Run past the limit until it is let go."""
    _gate("limited").wait()


@background_task(name="quick")
async def quick(number: int) -> int:
    """Return at once."""
    return number


class Remark(BaseModel):
    """What somebody says."""

    by: str


@scheduled_task(every=86_400, name="daily")
async def daily() -> None:
    """Do nothing, once a day."""


FUNCTIONS: dict[str, Any] = {
    "fails": fails,
    "labelled": fails.options(label="order 7"),
    "retried": retried,
    "throttled": throttled,
    "limited": limited,
}

APPROVAL = Message("approval", bool)
REMARK = Message("remark", Remark)


@step
async def charge(order: str) -> str:
    """Do nothing, for an order."""
    return order


@background_task(name="ordered", on_restart="resume")
async def ordered(order: str) -> str:
    """Charge, and wait for two people."""
    await charge(order)
    approved, remark = await APPROVAL.receive(), await REMARK.receive()
    return f"{approved}, said {remark.by}"


app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(buttons={"Fail": "/start/fails"}, messages=[APPROVAL, REMARK]))


@app.post("/order/{order}")
async def place(order: str) -> dict[str, str]:
    """Start a task of several steps."""
    return {"task_id": ordered(order)}


@app.post("/start/{name}")
async def start(name: str) -> dict[str, str]:
    """Start a task of a function without parameters."""
    return {"task_id": FUNCTIONS[name]()}


@app.post("/hold/{gate}")
async def hold(gate: str) -> dict[str, str]:
    """Start a task that holds a thread."""
    return {"task_id": held(gate)}


@app.post("/release/{gate}")
async def release(gate: str) -> None:
    """Let the tasks of a gate go."""
    _gate(gate).set()


@app.post("/steps/{key}")
async def begin(key: str) -> dict[str, str]:
    """Start a task that reports what it is told."""
    return {"task_id": steps(key)}


@app.post("/step/{key}")
async def report(key: str, progress: float | None = None, message: str = "") -> None:
    """Tell a task what to report; without progress, to return."""
    queue = _steps.setdefault(key, asyncio.Queue())
    queue.put_nowait(None if progress is None else (progress, message))


@app.post("/hostile/{kind}")
async def start_hostile(kind: str) -> dict[str, str]:
    """Start a task that is described by a text which a page should only show."""
    name = f"watched.name{HOSTILE[kind]}" if kind == "long" else None
    return {"task_id": quick.options(description=HOSTILE[kind], name=name)(0)}


@app.post("/many/{number}")
async def start_many(number: int) -> None:
    """Start many tasks that return at once."""
    for one in range(number):
        quick.options(description=f"number {one}")(one)
