"""Early timeouts: time that passes while others could run, and who is told of what comes of it."""

from __future__ import annotations

import re

import pytest

from tests.explore.sessions import replay_line, run

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

POOL = """
import asyncio
import pytest
from fastapi import FastAPI
from framework import setup_async_framework

class Pool:
    def __init__(self, gives_back):
        self.free, self.waiters, self.gives_back = ["c"], [], gives_back

    async def acquire(self):
        if self.free:
            return self.free.pop()
        future = asyncio.get_running_loop().create_future()
        self.waiters.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future in self.waiters:
                self.waiters.remove(future)
            elif self.gives_back and not future.cancelled():
                self.release(future.result())
            raise

    def release(self, connection):
        while self.waiters:
            future = self.waiters.pop(0)
            if not future.done():
                future.set_result(connection)
                return
        self.free.append(connection)

async def use(asyncframe, pool, limit, times=2):
    app = FastAPI(lifespan=setup_async_framework)

    @app.get("/query")
    async def query():
        try:
            async with asyncio.timeout(limit):
                connection = await pool.acquire()
        except TimeoutError:
            return "busy"
        try:
            await asyncio.sleep(1)
        finally:
            pool.release(connection)
        return "done"

    async with asyncframe.client(app) as client:
        answers = await asyncio.gather(*(client.get("/query") for _ in range(times)))
    return [answer.json() for answer in answers]
"""
"""A pool whose waiter may time out when it has just been given the connection."""

KEEPS = """
@pytest.mark.interleave
async def test_pool(asyncframe):
    pool = Pool(gives_back={gives_back})
    await use(asyncframe, pool, 30)
    assert pool.free == ["c"]
"""

SERVES_ALL = """
@pytest.mark.interleave
async def test_pool(asyncframe):
    assert await use(asyncframe, Pool(gives_back=True), 30) == ["done", "done"]
"""

COUNTS = """
@pytest.mark.interleave
async def test_rate(asyncframe):
    asked = []

    async def look_up():
        await asyncio.sleep(1)
        asked.append("rate")
        return 2

    async def rate():
        for _ in range(2):
            call = asyncio.create_task(look_up())
            try:
                async with asyncio.timeout(30):
                    return await asyncio.shield(call)
            except TimeoutError:
                pass

    assert await asyncio.gather(rate(), rate()) == [2, 2]
    await asyncio.sleep(5)
    assert len(asked) == 2
"""
"""It asks again after a timeout, which does no harm, though the test counts how often it asked."""

IN_TIME = """
@pytest.mark.interleave
async def test_times(asyncframe):
    loop, fired = asyncio.get_running_loop(), []

    async def limited():
        try:
            async with asyncio.timeout(0.5):
                await asyncio.sleep(10)
        except TimeoutError:
            fired.append(loop.time())

    async def busy():
        for _ in range(5):
            await asyncio.sleep(0)

    task = asyncio.create_task(limited())
    await asyncio.gather(asyncio.sleep(1), busy())
    assert fired == [0.5]
    await task
"""


def test_a_grant_is_lost_in_a_timeout(pytester: pytest.Pytester) -> None:
    """A timeout far away comes just after its waiter was served, by name, and again in a replay."""
    source = POOL + KEEPS.format(gives_back=False)
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "run * of at most 200 fails: policy delays, level framework, seed *",
            "minimised: 1 early timeout",
            "  early timeout of query#2: time passed while others could go on",
        ]
    )
    found = re.search(r"^run (\d+) of", result.stdout.str(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) <= 10
    for _ in range(2):
        again = run(pytester, source, replay_line(result))
        again.assert_outcomes(failed=1)
        again.stdout.fnmatch_lines(["It fails with the schedule of the replay line."])


@pytest.mark.parametrize(
    ("test", "words"),
    [
        pytest.param(KEEPS.format(gives_back=True), ", and all 2 with an early timeout", id="twin"),
        pytest.param(SERVES_ALL, "", id="not-expected"),
        pytest.param(COUNTS, "", id="counted"),
        pytest.param(IN_TIME, ", and all * with an early timeout", id="times"),
    ],
)
def test_no_false_alarm(pytester: pytest.Pytester, test: str, words: str) -> None:
    """A correct program passes; a test that lets nobody time out is not tried with timeouts."""
    result = run(pytester, POOL + test, "-v", "--asyncframe-check-determinism")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*PASSED (all * of level framework*{words}, none fails)*"])
    assert ("early" in result.stdout.str()) == bool(words)
