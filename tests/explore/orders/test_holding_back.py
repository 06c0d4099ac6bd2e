"""A request that is held back while another one is made from beginning to end."""

from __future__ import annotations

import re

import pytest

from tests.explore.sessions import replay_line, run

pytestmark = pytest.mark.usefixtures("untraced")

TOKEN = """
import asyncio
import httpx
import pytest
from contextlib import nullcontext
from fastapi import FastAPI
from framework import setup_async_framework

def apps(lock):
    issuer, app = FastAPI(), FastAPI(lifespan=setup_async_framework)
    refreshed, tokens = [], []

    @issuer.post("/token")
    async def token():
        await asyncio.sleep(0)
        refreshed.append(1)
        return "new"

    @app.get("/ping")
    async def ping():
        await asyncio.sleep(0)

    @app.get("/data")
    async def data():
        async with lock:
            if not tokens:
                transport = httpx.ASGITransport(issuer)
                async with httpx.AsyncClient(transport=transport, base_url="http://it") as client:
                    answer = await client.post("/token")
                tokens.append(answer.json())
        return tokens[0]

    return app, refreshed

async def use(asyncframe, lock):
    app, refreshed = apps(lock)
    async with asyncframe.client(app) as client:
        async def later():
            for _ in range({pings}):
                await client.get("/ping")
            return await client.get("/data")

        await asyncio.gather(client.get("/data"), later())
    assert len(refreshed) == 1

@pytest.mark.interleave(seeds={seeds})
async def test_token(asyncframe):
    await use(asyncframe, {lock})
"""
"""An access token that two requests refresh, the second one after many others."""


@pytest.mark.extended("time")
def test_a_request_far_behind(pytester: pytest.Pytester) -> None:
    """The race is found in some runs, whatever the seed, as one switch with a short replay line."""
    source = TOKEN.format(pings=40, seeds=200, lock="nullcontext()")
    for seed in range(5):
        result = run(pytester, source, f"--asyncframe-seed={seed}")
        result.assert_outcomes(failed=1)
        found = re.search(r"^run (\d+) of at most 200 fails", result.stdout.str(), re.MULTILINE)
        assert found is not None
        assert int(found[1]) <= 20
    result.stdout.fnmatch_lines(["minimised: 1 switch (from *)"])
    line = replay_line(result)
    assert len(line) < 260
    again = run(pytester, source, line)
    again.stdout.fnmatch_lines(["It fails with the schedule of the replay line."])


NARROW = """
import asyncio
import pytest

@pytest.mark.interleave
async def test_token(asyncframe):
    refreshed = []

    async def at_once():
        await asyncio.sleep(0)
        if not refreshed:
            refreshed.append("at once")

    async def wait():
        for _ in range(200):
            await asyncio.sleep(0)

    async def later():
        await wait()
        if not refreshed:
            await asyncio.sleep(0)
            refreshed.append("later")
        await wait()

    await asyncio.gather(at_once(), later())
    assert len(refreshed) == 1
"""
"""One of 400 steps is the only one that another actor must not come before."""


@pytest.mark.extended("time")
def test_a_narrow_window(pytester: pytest.Pytester) -> None:
    """An actor that is held back is let go on after each line of others before it is in a loop."""
    result = run(pytester, NARROW)
    result.assert_outcomes(failed=1)
    found = re.search(r"^run (\d+) of at most 200 fails", result.stdout.str(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) <= 15


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_400_requests_behind(pytester: pytest.Pytester) -> None:
    """The race is found also 400 requests later; with a lock, none of 500 runs fails."""
    result = run(pytester, TOKEN.format(pings=400, seeds=200, lock="nullcontext()"))
    result.assert_outcomes(failed=1)
    result = run(pytester, TOKEN.format(pings=100, seeds=500, lock="asyncio.Lock()"))
    result.assert_outcomes(passed=1)
