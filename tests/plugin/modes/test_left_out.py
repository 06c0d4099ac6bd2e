"""Which tests a marker of a module leaves out that runs tests several times."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.plugin.endings import LOOPS, PLAIN

SOURCE = """
import contextlib, json
import httpx, pytest
from fastapi import FastAPI
from framework import background_task, setup_async_framework

pytestmark = pytest.mark.{marker}

@background_task
def work():
    pass

app = FastAPI(lifespan=setup_async_framework)

@app.post("/")
async def order():
    return work()

def ran(name):
    with open("ran.json", "a") as file:
        print(json.dumps(name), file=file)

async def order_twice(asyncframe):
    async with asyncframe.client(app) as client:
        for _ in range(2):
            with contextlib.suppress(httpx.RequestError):
                await client.post("/")
        await asyncframe.settled()

async def test_with_it(asyncframe):
    ran("with it")
    await order_twice(asyncframe)

def test_without_it():
    ran("without it")

def test_of_the_manager(task_manager):
    ran("of the manager")

@pytest.mark.asyncframe(mode="threads")
async def test_with_a_mode(asyncframe):
    ran("with a mode")
    await order_twice(asyncframe)
"""


@pytest.mark.parametrize("marker", ["task_modes('auto', 'virtual')", "interleave", "crash_points"])
def test_a_module_is_marked(pytester: pytest.Pytester, marker: str) -> None:
    """Each marker runs tests with asyncframe several times; all others run once, and pass."""
    pytester.makepyfile(SOURCE.format(marker=marker))

    assert pytester.inline_run(*PLAIN, *LOOPS).countoutcomes() == [4, 0, 0]

    lines = (pytester.path / "ran.json").read_text().splitlines()
    counts = Counter(json.loads(line) for line in lines)
    assert counts.pop("with it") > 1
    assert counts == {"without it": 1, "of the manager": 1, "with a mode": 1}
