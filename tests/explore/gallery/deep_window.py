"""A long export is half done for one of its twenty steps: few orders see that."""

from __future__ import annotations

import threading

import pytest
from fastapi import FastAPI

from framework import TaskId, background_task, current_task, setup_async_framework
from pytest_asyncframe.probe import Probe

STEPS = 20
SWITCH = 13


class Files:
    """Two files that belong together."""

    def __init__(self) -> None:
        self.data = self.index = "old"
        self.lock = threading.Lock()

    def exchange(self, version: str) -> None:
        """Replace both at once."""
        with self.lock:
            self.data = self.index = version


def report(step: int) -> None:
    """Say how far the task is."""
    task = current_task()
    assert task is not None
    task.report_progress(step / STEPS)


@background_task
def racy_export(files: Files) -> None:
    """Write twenty parts; the index follows the data one step later."""
    for step in range(STEPS):
        if step == SWITCH:
            files.data = "new"
        if step == SWITCH + 1:
            files.index = "new"
        report(step)


@background_task
def correct_export(files: Files) -> None:
    """Write twenty parts, and exchange both files in one step."""
    for step in range(STEPS):
        if step == SWITCH:
            files.exchange("new")
        report(step)


@background_task
def read(files: Files) -> tuple[str, str]:
    """Read both files."""
    with files.lock:
        return files.data, files.index


def make_app(files: Files, racy: bool) -> FastAPI:
    """Return an app with a route that exports, and one that reads."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/export")
    async def export() -> TaskId[None]:
        return racy_export(files) if racy else correct_export(files)

    @app.post("/read")
    async def begin_to_read() -> TaskId[tuple[str, str]]:
        return read(files)

    return app


async def export_and_read(asyncframe: Probe, *, racy: bool) -> None:
    """Read while an export runs."""
    async with asyncframe.client(make_app(Files(), racy)) as client:
        await client.post("/export")
        task = await asyncframe.completed(await client.post("/read"))
        await asyncframe.settled()
    data, index = task.result
    assert data == index


@pytest.mark.interleave
async def test_racy(asyncframe: Probe) -> None:
    """Whoever reads finds two files that belong together."""
    await export_and_read(asyncframe, racy=True)


@pytest.mark.interleave
async def test_correct(asyncframe: Probe) -> None:
    """Whoever reads finds two files that belong together."""
    await export_and_read(asyncframe, racy=False)
