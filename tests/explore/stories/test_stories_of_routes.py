"""The stories of routes: what a reader who does not know the race can tell from them."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from pytest_asyncframe._explore.telling.entries import Deviation, Ran
from pytest_asyncframe._explore.telling.story import told as told_in_words
from pytest_asyncframe._explore.telling.witness import Names
from pytest_asyncframe._locations import package_of
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


RECEIPT = (
    APP
    + """
from framework import background_task

rows = {}
seen = []

async def session():
    pending = {}
    yield pending
    await db()
    rows.update(pending)

async def db():
    await asyncio.sleep(0)

@background_task
def receipt(number):
    seen.append(rows.get(number))

@app.post("/orders")
async def order(pending=Depends(session)):
    pending[7] = "paid"
    receipt(7)

@pytest.mark.interleave(level="framework")
async def test_receipt(asyncframe):
    rows.clear()
    seen.clear()
    async with asyncframe.client(app) as client:
        await client.post("/orders")
        await asyncframe.settled()
    assert seen == ["paid"]
"""
)

OF_THE_RECEIPT = """\
minimised: 1 switch
  order#1 paused at `await asyncio.sleep(0)` (test_it.py:22), after `await db()` (test_it.py:18)
  receipt#1 ran to its end: `seen.append(rows.get(number))` (test_it.py:26, seen = [None])
  order#1 went on: `rows.update(pending)` (test_it.py:19, rows = {7: 'paid'})
  it fails at `assert seen == ["paid"]` (test_it.py:40): AssertionError: assert [None] == \
['paid']"""


def test_a_task_before_the_end_of_a_request(pytester: pytest.Pytester) -> None:
    """Where a task on a thread passes a request, the story tells at which `await` that stood."""
    assert told(run(pytester, RECEIPT, *CACHE)) == OF_THE_RECEIPT.splitlines()


POOL = (
    APP
    + """
pool = []

async def take():
    await asyncio.sleep(0)
    return pool.pop()

@app.get("/connection")
async def connect(slow: int = 0):
    for _ in range(slow):
        await asyncio.sleep(0)
    if pool:
        await take()

@pytest.mark.interleave(level="framework")
async def test_pool(asyncframe):
    pool[:] = ["one"]
    async with asyncframe.client(app) as client:
        get = client.get
        calls = get("/connection"), get("/connection?slow=20")
        done = await asyncio.gather(*calls, return_exceptions=True)
    assert not any(isinstance(one, Exception) for one in done)
"""
)

OF_THE_POOL = """\
minimised: 1 switch
  connect#1 paused at `await take()` (test_it.py:21), after `if pool:` (pool is ['one'])
  connect#2 ran to its end: ...; `if pool:` (test_it.py:20, pool is ['one']); \
`await asyncio.sleep(0)` (test_it.py:13); `return pool.pop()` (pool = [])
  connect#1 went on: `return pool.pop()` (test_it.py:14, pool is [], raises an error)
  it fails at `assert not any(isinstance(one, Exception) for one in done)` (test_it.py:30): assert \
not True"""


def test_an_error_that_ends_a_coroutine(pytester: pytest.Pytester) -> None:
    """Of a request that ends with an error, the story tells the line that has raised it."""
    assert told(run(pytester, POOL, *CACHE)) == OF_THE_POOL.splitlines()


SHARED = """
import pytest
from threading import Lock
from framework import background_task, current_task

class Stock:
    __slots__ = ("items",)

    def __repr__(self):
        raise OSError("asked")

    __eq__ = __hash__ = __bool__ = __len__ = __repr__

class Proxy:
    @property
    def __dict__(self):
        raise OSError("asked")

stock, lock, got = Stock(), Lock(), [Proxy()]

@background_task
def take():
    if stock.items:
        current_task().report_progress(0.5)
        with lock:
            got.append(stock.items.pop())

@pytest.mark.interleave(level="framework")
def test_stock(asyncframe):
    stock.items = ["last"]
    take()
    take()
    asyncframe.run_until_idle()
"""

OF_SHARED = """\
minimised: 1 switch
  take#1 paused at `current_task().report_progress(0.5)` (test_it.py:23), after \
`if stock.items:` (stock.items is ['last'])
  take#2 ran to its end: `if stock.items:` (test_it.py:22, stock.items is ['last']); \
`with lock:`; `got.append(stock.items.pop())` (got = [<Proxy>, 'last']); `with lock:` (its end)
  take#1 went on to its end: `with lock:` (test_it.py:24); `got.append(stock.items.pop())` \
(got is [<Proxy>, 'last'], stock.items is [], raises an error); `with lock:` (its end, raises \
IndexError), and failed
  it fails: lost failure: test_it.take (*) is failed: IndexError: pop from empty list"""


def test_an_error_of_one_who_was_paused(pytester: pytest.Pytester) -> None:
    """A line that raises says so, with what it read; no method of a user's object is called."""
    source = SHARED.replace("    asyncframe.run", "    del got[1:]\n    asyncframe.run")
    lines = told(run(pytester, source, *CACHE))
    lines[-1] = re.sub(r"\(.*?\)", "(*)", lines[-1])
    assert lines == OF_SHARED.splitlines()


def told(result: pytest.RunResult) -> list[str]:
    """Return the story in a report, without what differs from run to run."""
    result.assert_outcomes(failed=1)
    lines = result.outlines
    begin = next(n for n, line in enumerate(lines) if line.startswith("minimised: "))
    end = next(n for n, line in enumerate(lines) if line.startswith("picture: "))
    first, _, _ = lines[begin].partition(" (from ")
    return [first, *lines[begin + 1 : end]]


def test_requests_have_the_names_of_their_routes() -> None:
    """Whoever drives a request, all its lines are called after its route, as soon as it has one."""
    names = Names(lambda _: False, lambda code: code.co_name == "room")
    lines: list[Ran] = []

    async def room() -> None:
        lines.append(Ran("_run_coro#3", "app.py:1", "pass"))
        names.name(lines[-1], sys._getframe())

    async def library(scope: dict[str, object]) -> None:
        await room()
        if scope["type"] != "lifespan":
            scope["endpoint"] = room
        await room()

    async def requests() -> None:
        for kind in ("http", "websocket", "lifespan"):
            await library({"type": kind})

    asyncio.run(requests())

    assert [line.name for line in lines] == [*["room#1"] * 2, *["room#2"] * 2, *["room#3"] * 2]


def test_tasks_of_libraries_are_not_named_after_their_coroutines() -> None:
    """A switch between tasks that run no code of the user names their libraries."""
    choice = Deviation("_run#1", "_run#2", "await", paused=False, packages={"_run#1": "anyio"})
    ran = Ran("_run#2", "shop.py:3", "stock = 1", name="buy#1")
    assert told_in_words([choice, ran]) == [
        "buy#1 came before a task of anyio",
        "buy#1 ran: `stock = 1` (shop.py:3)",
    ]
    assert package_of(asyncio.gather.__code__) == "asyncio"
