"""Messages between a server and the app: others may run before each of them in explored tests."""

from __future__ import annotations

import pytest

from tests.explore.sessions import run

EVENTS = """
import asyncio
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

app = FastAPI()

@pytest.fixture(autouse=True)
def price():
    app.state.price, app.state.watchers = 1, []

@app.get("/prices")
async def prices():
    async def changes():
        changed = asyncio.Event()
        {first}
        price = app.state.price
        yield f"{{price}} "
        {then}
        if price == 1:
            await asyncio.wait_for(changed.wait(), 5)
            yield f"{{app.state.price}}"
    return StreamingResponse(changes())

@app.post("/rise")
async def rise(request: Request):
    body = await request.body()
    assert not await request.is_disconnected()
    app.state.price = 2
    for watcher in app.state.watchers:
        watcher.set()
    return body.decode()

@pytest.mark.interleave(level="awaits", seeds=20)
async def test_rise(asyncframe):
    async with asyncframe.client(app) as client:
        seen, answer = await asyncio.gather(
            client.get("/prices"), client.post("/rise", content=b"now")
        )
    assert answer.json() == "now"
    assert "2" in seen.text

@pytest.mark.interleave(seeds=2)
def test_sync(asyncframe):
    with asyncframe.client(app) as client:
        assert client.app is app
        assert client.post("/rise", content=b"now").json() == "now"
        assert client.get("/prices").text == "2 "
"""

SUBSCRIBED = "app.state.watchers.append(changed)"


@pytest.mark.extended("time")
def test_others_may_run_while_a_part_of_a_response_is_sent(pytester: pytest.Pytester) -> None:
    """A stream that subscribes after its first event loses what is published in between."""
    racy = run(pytester, EVENTS.format(first="pass", then=SUBSCRIBED), "--tb=short")
    correct = run(pytester, EVENTS.format(first=SUBSCRIBED, then="pass"))

    racy.assert_outcomes(failed=1, passed=1)
    racy.stdout.fnmatch_lines(["E*TimeoutError*", "run * of at most 20 fails*"])
    correct.assert_outcomes(passed=2)
