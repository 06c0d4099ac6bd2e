"""A route begins a report unless one was begun: two requests begin two."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fastapi import FastAPI

from framework import TaskId, background_task, setup_async_framework
from pytest_asyncframe.probe import Probe


class Reports:
    """The tasks that make the reports, by day."""

    def __init__(self) -> None:
        self.begun: dict[str, TaskId[str]] = {}
        self.lock = threading.Lock()


@background_task
def make_report(day: str) -> str:
    """Make a report; this is expensive."""
    return f"report of {day}"


def racy_app(reports: Reports) -> FastAPI:
    """Look whether there is a task, begin one, and keep its id."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/reports/{day}")
    def begin(day: str) -> str:
        if day not in reports.begun:
            reports.begun[day] = make_report(day)
        return reports.begun[day]

    return app


def correct_app(reports: Reports) -> FastAPI:
    """Hold a lock from the look to the id."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/reports/{day}")
    def begin(day: str) -> str:
        with reports.lock:
            if day not in reports.begun:
                reports.begun[day] = make_report(day)
            return reports.begun[day]

    return app


async def ask_twice(asyncframe: Probe, app: FastAPI) -> None:
    """Ask for the same report twice at once."""
    async with asyncframe.client(app) as client:
        await asyncio.gather(client.post("/reports/monday"), client.post("/reports/monday"))
        await asyncframe.settled()
    asyncframe.assert_submitted(make_report, "monday", times=1)


@pytest.mark.interleave
async def test_racy(asyncframe: Probe) -> None:
    """The report of a day is made once."""
    await ask_twice(asyncframe, racy_app(Reports()))


@pytest.mark.interleave
async def test_correct(asyncframe: Probe) -> None:
    """The report of a day is made once."""
    await ask_twice(asyncframe, correct_app(Reports()))
