"""Messages between a server and the app: others may run before each of them in explored tests."""

from __future__ import annotations

import re

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


OWN_CLIENTS = """
import asyncio
import httpx
import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

app = FastAPI()
transport = httpx.ASGITransport(app=app)
test_client = TestClient(app)

class Prices:
    def __init__(self):
        self.watchers = []
        self.rising = asyncio.create_task(self.rise())

    async def rise(self):
        for watcher in self.watchers:
            watcher.set()

    async def watch(self, send):
        changed = asyncio.Event()
        {first}
        await send("old")
        {then}
        await asyncio.wait_for(changed.wait(), 5)
        await send("new")

@app.websocket("/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    await Prices().watch(websocket.send_text)
    await websocket.close()

@app.get("/stream")
async def stream():
    async def body(send):
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        async def send_part(text):
            await send({{"type": "http.response.body", "body": text.encode(), "more_body": True}})
        await Prices().watch(send_part)
        await send({{"type": "http.response.body", "body": b""}})
    class Parts(StreamingResponse):
        async def __call__(self, scope, receive, send):
            await body(send)
    return Parts(iter(()))

@app.get("/price")
async def price():
    return 1

@pytest.mark.interleave(level="awaits", seeds=10)
async def test_own_async_client(asyncframe):
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/stream")).text == "oldnew"

@pytest.mark.interleave(level="awaits", seeds=10)
def test_own_test_client(asyncframe):
    assert test_client.get("/stream").text == "oldnew"

@pytest.mark.interleave(level="awaits", seeds=10)
def test_own_socket(asyncframe):
    with test_client.websocket_connect("/socket") as socket:
        assert [socket.receive_text() for _ in range(2)] == ["old", "new"]

async def test_no_run(asyncframe):
    assert transport.app is app and test_client.app is app
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/price")).json() == 1
"""

WATCHES = "self.watchers.append(changed)"


@pytest.mark.extended("time")
def test_others_may_run_while_a_part_is_sent_to_a_client_of_ones_own(
    pytester: pytest.Pytester,
) -> None:
    """The steps are also there for clients and transports that the test's module has made."""
    racy = run(pytester, OWN_CLIENTS.format(first="pass", then=WATCHES), "--tb=line")
    correct = run(pytester, OWN_CLIENTS.format(first=WATCHES, then="pass"), "--tb=short")

    racy.assert_outcomes(failed=3, passed=1)
    correct.assert_outcomes(passed=4)


REQUESTS = """
import asyncio
import httpx
import pytest
from fastapi import FastAPI, Request

app = FastAPI()

@app.api_route("/", methods=["GET", "POST"])
async def echo(request: Request):
    body = (await request.body()).decode()
    await asyncio.sleep(0)
    return body

async def two_parts():
    yield b"1"
    yield b"2"

@pytest.mark.interleave(level="awaits", policy="exhaustive", seeds=7)
@pytest.mark.parametrize(
    "request_", [{"method": "GET"}, {"json": 12}, {"content": two_parts}, {"content": b""}]
)
async def test_twice(asyncframe, request_):
    transport = httpx.ASGITransport(app=app)

    async def ask(client):
        made = {name: one() if callable(one) else one for name, one in request_.items()}
        answer = await client.request(**{"method": "POST", "url": "/", **made})
        return answer.json()

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(ask(client), ask(client))
    expected = "12" if request_.get("json") or callable(request_.get("content")) else ""
    assert answers == [expected, expected]
"""


@pytest.mark.extended("time")
def test_the_end_of_a_whole_request_is_no_step(pytester: pytest.Pytester) -> None:
    """Two requests without a body, or with a whole one, have 6 orders; two streams have more."""
    result = run(pytester, REQUESTS, "-v")

    result.assert_outcomes(passed=4)
    found = re.findall(r"PASSED \(all (\d+) schedules (?!with)", result.stdout.str())
    assert found == ["6", "6", "6"]
    result.stdout.fnmatch_lines("*[[]request_2[]] PASSED (*, and 6 others, none fails) *")
