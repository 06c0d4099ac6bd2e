"""The stories of routes: what a reader who does not know the race can tell from them."""

from __future__ import annotations

import asyncio
import sys

import pytest

from pytest_asyncframe._explore.telling.witness import Names
from tests.explore.sessions import run

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

CACHE = ("-p", "cacheprovider")
"""Undoes an option of these runs: without a cache, there is no picture."""

APP = """
import asyncio
import pytest
from fastapi import Depends, FastAPI
from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)
left = {"n": 1}
sold = []
"""

SALE = (
    APP
    + """
async def db():
    await asyncio.sleep(0)

async def session():
    yield "session"

@app.post("/tickets")
async def buy(who: str, slow: int = 0, session: str = Depends(session)):
    for _ in range(slow):
        await db()  # the user, the basket
    if left["n"]:
        await db()
        left["n"] -= 1
        sold.append(who)

@pytest.mark.interleave
async def test_sale(asyncframe):
    left["n"] = 1
    sold.clear()
    async with asyncframe.client(app) as client:
        post = client.post
        await asyncio.gather(post("/tickets?who=ann"), post("/tickets?who=bob&slow=20"))
    assert len(sold) == 1
"""
)

OF_THE_SALE = """\
minimised: 1 switch
  buy#1 paused at `await db()` (test_it.py:21), after `if left["n"]:` (left['n'] is 1)
  buy#2 ran to its end: ...; `if left["n"]:` (test_it.py:20, left['n'] is 1); `left["n"] -= 1` \
(left['n'] = 0); `sold.append(who)` (sold = ['bob'])
  buy#1 went on to its end: `left["n"] -= 1` (test_it.py:22, left['n'] = -1); \
`sold.append(who)` (sold = ['bob', 'ann'])
  it fails at `assert len(sold) == 1` (test_it.py:32): AssertionError: assert 2 == 1"""


@pytest.mark.parametrize("level", ["awaits", "framework", "line"])
def test_a_check_before_an_await(pytester: pytest.Pytester, level: str) -> None:
    """Of two requests, the story tells what both have read and written, and what fails."""
    result = run(pytester, SALE.replace("interleave", f"interleave(level={level!r})"), *CACHE)
    assert told(result) == OF_THE_SALE.splitlines()


def told(result: pytest.RunResult) -> list[str]:
    """Return the story in a report, without what differs from run to run."""
    result.assert_outcomes(failed=1)
    lines = result.outlines
    begin = next(n for n, line in enumerate(lines) if line.startswith("minimised: "))
    end = next(n for n, line in enumerate(lines) if line.startswith("picture: "))
    first, _, _ = lines[begin].partition(" (from ")
    return [first, *lines[begin + 1 : end]]


def test_requests_have_the_names_of_their_routes() -> None:
    """Whoever drives a request, it is called after its route; a new request has a new number."""
    names = Names()

    async def room() -> str:
        return names.of("_run_coro#3", sys._getframe(), lambda _: False)

    async def library(scope: dict[str, object]) -> tuple[str, str]:
        return await room(), await room()

    async def requests() -> list[tuple[str, str]]:
        scopes: list[dict[str, object]] = [
            {"endpoint": room},
            {"endpoint": room},
            {"type": "lifespan"},
        ]
        return [await library(scope) for scope in scopes]

    assert asyncio.run(requests()) == [
        ("room#1", "room#1"),
        ("room#2", "room#2"),
        ("_run_coro#3", "_run_coro#3"),
    ]
