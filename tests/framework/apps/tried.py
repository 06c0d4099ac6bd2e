"""An app with tasks that ended in every way, which is tried with generated requests."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel

from framework import (
    Task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.http import Accepted, Problem, TaskView, task_router


class Report(BaseModel):
    """What a route promises."""

    title: str
    score: float = 1.0


class Odd:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise LookupError


def results() -> list[Any]:
    """Return results of many kinds."""
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    good, bad = Report(title="a"), Report(title="a", score=math.inf)
    return [None, math.nan, b"\xff", "\ud800", {1}, cycle, Odd(), good, bad, {"a": [Odd()]}]


@background_task(name="make")
def make(kind: int) -> Any:
    """Report progress, and return a result of some kind."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5, "half of it")
    return results()[kind]


@background_task(name="fail")
def fail() -> None:
    """Fail."""
    raise LookupError("hidden")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the framework, with some tasks at the beginning."""
    async with setup_async_framework(app):
        for kind in range(len(results())):
            make.options(task_id=f"kind-{kind}", description=f"of kind {kind}")(kind)
        fail.options(task_id="failed")()
        stopped = await get_task_manager().submit(int, delay=60, task_id="cancelled")
        await get_task_manager().cancel_task(stopped)
        yield


def let_in() -> None:
    """Stand for a login check that everybody passes."""


app: FastAPI = FastAPI(lifespan=lifespan)
app.include_router(task_router(dependencies=[Depends(let_in)]))


@app.post("/reports")
async def create(kind: Annotated[int, Query(ge=0, le=9)] = 0) -> Accepted[Report]:
    """Start a task."""
    return make(kind)


@app.get("/reports/{task_id}", response_model=TaskView[Report], responses={404: {"model": Problem}})
async def show(task_id: str) -> Task:
    """Return a task, whose result may be no report."""
    return await get_task_manager().wait(task_id, timeout=0)
