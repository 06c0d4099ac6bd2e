"""Reports of code that blocks an event loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from fastapi import FastAPI

from pytest_asyncframe.probe import Probe
from tests.plugin.endings import PLAIN

APP = """
import asyncio
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from framework import background_task

app = FastAPI()

@app.get("/sleep")
async def sleep():
    time.sleep(50)

@app.get("/queue")
async def from_queue():
    try:
        queue.Queue().get(timeout=3)
    except queue.Empty:
        pass

@app.get("/event")
async def event():
    threading.Event().wait(3)

@app.get("/future")
async def future():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 3).result()

@app.get("/thread")
def thread():
    time.sleep(50)

@app.get("/pool")
async def own_pool():
    with ThreadPoolExecutor(2) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, time.sleep, 3)
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    done = Future()
    done.set_result(1)
    return done.result()

@background_task
async def task():
    time.sleep(30)
"""


@pytest.fixture
def findings(pytester: pytest.Pytester):
    """Return a function that runs tests of the app above and returns outcomes and findings."""
    pytester.makepyfile(app=APP)
    pytester.syspathinsert()
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def ran(source: str, *options: str) -> tuple[dict[str, int], list[str]]:
        pytester.makepyfile(test_it=f"from app import *\n{source}")
        result = pytester.runpytest_inprocess(*PLAIN, "-rN", *options)
        lines = [one.removeprefix("E   ") for one in result.outlines]
        found = [one.split(": in production")[0] for one in lines if "blocked event loop:" in one]
        return result.parseoutcomes(), [one.replace(f"{pytester.path}/", "") for one in found]

    return ran


GET = """
async def test_async(asyncframe):
    async with asyncframe.client(app) as client:
        await client.get("/{path}")

def test_sync(asyncframe):
    with asyncframe.client(app) as client:
        client.get("/{path}")
"""


ROUTES = {
    "sleep": "time.sleep at app.py:15 in sleep, for 50 s of virtual time",
    "queue": "queue.Queue.get at app.py:20 in from_queue, for 3 s of virtual time",
    "event": "threading.Event.wait at app.py:26 in event, for 3 s of virtual time",
    "future": (
        "concurrent.futures._base.Future.result at app.py:31 in future, for 3 s of virtual time"
    ),
}


def of_routes(*paths: str) -> str:
    """Return tests that call routes, as a coroutine and as a function."""
    tests = (GET.format(path=path).replace("sync(", f"sync_{path}(") for path in paths)
    return "".join(tests)


def test_a_route_that_blocks(findings) -> None:
    """A route that blocks its loop fails the test, with the blocking call and its line."""
    outcome, lines = findings(of_routes(*ROUTES))

    assert outcome == {"passed": 8, "errors": 8}
    assert lines == [f"blocked event loop: {line}" for line in ROUTES.values() for _ in range(2)]


def test_a_task_that_blocks(findings) -> None:
    """A coroutine task that blocks its loop fails the test, with one line for all its calls."""
    source = """
async def test_it(asyncframe):
    for _ in range(2):
        await asyncframe.completed(task())
"""
    outcome, lines = findings(source)

    assert outcome == {"passed": 1, "errors": 1}
    assert lines == [
        "blocked event loop: time.sleep at app.py:50 in task, 2 times, for 60 s of virtual time"
    ]


def test_a_callback_that_blocks(findings) -> None:
    """A blocking callback of a loop is reported, even without a line of the user's code."""
    source = """
async def test_it(asyncframe):
    loop = asyncio.get_running_loop()
    loop.call_soon(time.sleep, 4)
    loop.call_soon(lambda: time.sleep(5))
    await asyncio.sleep(60)
"""
    _, lines = findings(source)

    assert lines == [
        "blocked event loop: time.sleep at no line of your own, for 4 s of virtual time",
        (
            "blocked event loop: time.sleep at test_it.py:6 in test_it.<locals>.<lambda>, for 5 s "
            "of virtual time"
        ),
    ]


def test_what_blocks_no_loop(findings) -> None:
    """Threads may block, and so may calls on a loop that return at once."""
    outcome, lines = findings(of_routes("thread", "pool"))

    assert (outcome, lines) == ({"passed": 4}, [])


async def test_the_test_itself_may_block_its_loop(asyncframe: Probe) -> None:
    """The test's own coroutine may block its loop."""
    asyncframe.manager.submit_nowait(asyncframe.clock.sleep, (3,))
    asyncframe.run_until_idle()
    threading.Event().wait(4)
    time.sleep(5)  # noqa: ASYNC251, TID251  # what is tested

    assert asyncframe.clock.monotonic() == 12


SEVERITIES = {
    "error": {"passed": 1, "errors": 1},
    "warn": {"passed": 1, "warnings": 1},
    "off": {"passed": 1},
}
"""What comes of a test that blocks its loop."""


@pytest.mark.parametrize("severity", SEVERITIES)
def test_severity(findings, severity: str) -> None:
    """The ini file sets the severity."""
    source = "async def test_it(asyncframe):\n    await asyncframe.completed(task())\n"
    option = f"asyncframe_blocked_loop={severity}"
    assert findings(source, "-o", option, "-W", "default")[0] == SEVERITIES[severity]


def test_severity_of_a_marker(findings) -> None:
    """The marker of a test sets its severity."""
    tests = "".join(
        f"""
@pytest.mark.asyncframe(blocked_loop={severity!r})
async def test_{severity}(asyncframe):
    await asyncframe.completed(task())
"""
        for severity in SEVERITIES
    )
    assert findings(tests, "-W", "default")[0] == {"passed": 3, "errors": 1, "warnings": 1}


@pytest.mark.asyncframe(blocked_loop="off")
def test_a_sleep_on_a_loop_takes_its_time(asyncframe: Probe) -> None:
    """A call that blocks a loop takes its full virtual time, even if a thread wakes the loop."""
    app = FastAPI()
    app.get("/")(blocks)
    with asyncframe.client(app) as client:
        client.get("/")

    assert asyncframe.clock.monotonic() == 3600


async def blocks() -> None:
    """Block the loop while a thread calls it."""
    loop = asyncio.get_running_loop()
    calls = asyncio.ensure_future(asyncio.to_thread(lambda: loop.call_soon_threadsafe(int)))
    await asyncio.sleep(0)  # noqa: TID251  # lets it begin
    time.sleep(3600)  # noqa: ASYNC251, TID251  # what is tested
    await calls
