"""GET /tasks/{id}/events: the states of a task as server-sent events."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework._manager.core import Core
from framework._manager.frameworks import require_core
from framework._tasks.live import LiveTask
from framework.http import TaskView, task_router
from framework.http._streaming.followed import FollowedSteps
from framework.http._streaming.hub import Hub
from framework.steps import sleep, step
from pytest_asyncframe.clock import VirtualDeadlockError
from pytest_asyncframe.probe import Probe
from tests.framework.http.streams import events
from tests.patience import PATIENCE


def report(share: float, message: str = "") -> None:
    """Report the progress of the task that runs here."""
    task = current_task()
    assert task is not None
    task.report_progress(share, message)


@background_task
def build(pages: int) -> str:
    """Build a book, ten seconds for each page."""
    for page in range(1, pages + 1):
        get_task_manager().clock.sleep(10)
        report(page / pages, f"page {page}")
    return f"{pages} pages"


@background_task
async def fail() -> None:
    """Fail, with a message that is nobody's business."""
    raise ValueError("password=secret")


def is_idle(core: Core) -> bool:
    """Return whether no stream of a framework is open, and nothing is left of one."""
    hubs = [hub for hub in core.hubs.values() if isinstance(hub, Hub)]
    assert hubs
    return all(hub.is_idle for hub in hubs)


@pytest.fixture
def app() -> FastAPI:
    """An app with the routes of tasks."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router())
    return app


async def test_the_states_of_a_task(asyncframe: Probe, app: FastAPI) -> None:
    """A stream has the state of now, newer ones as they come, and ends with the final one."""
    async with asyncframe.client(app) as client:
        task_id = build(2)
        answer = await client.get(f"/tasks/{task_id}/events")
        shown = (await client.get(f"/tasks/{task_id}")).json()
    told = list(events(answer.text.split("\n")))
    assert [(one.kind, *one.state) for one in told] == [
        ("status", "pending", None),
        ("status", "running", None),
        ("progress", "running", 0.5),
        # The last progress came at the same moment.
        ("status", "completed", 1.0),
    ]
    assert TaskView[Any].model_validate(told[-1].data) == TaskView[Any].model_validate(shown)
    assert asyncframe.clock.monotonic() == 20
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


async def test_coming_back(asyncframe: Probe, app: FastAPI) -> None:
    """A client gets the state only if it is not the one that it has seen already."""
    async with asyncframe.client(app) as client:
        task_id = build(2)
        path = f"/tasks/{task_id}/events"
        told = list(events((await client.get(path)).text.split("\n")))
        again = build.options(task_id="again")(2)
        path_again = f"/tasks/{again}/events"
        answer = await client.get(path_again, headers={"Last-Event-ID": told[0].id})
        seen = await client.get(path, headers={"Last-Event-ID": told[-1].id})
        late = await client.get(path, headers={"Last-Event-ID": told[-2].id})
    assert [one.state for one in events(answer.text.split("\n"))] == [one.state for one in told[1:]]
    assert (seen.status_code, seen.text) == (204, "")
    assert [one.id for one in events(late.text.split("\n"))] == ["completed"]


@step
async def bind() -> None:
    """Fail, with a message that is nobody's business."""
    raise ValueError("password=secret")


@background_task(on_restart="resume", name="tests.bound_book")
async def dry_and_bind() -> None:
    """Let a book dry for two seconds, and fail to bind it."""
    await sleep(2)
    with suppress(ValueError):
        await bind()
    await sleep(1)


async def test_steps_of_a_task(asyncframe: Probe, app: FastAPI) -> None:
    """A stream has the steps as their route has them, again with each change, before the end."""
    async with asyncframe.client(app) as client:
        path = f"/tasks/{dry_and_bind()}"
        told = list(events((await client.get(f"{path}/events")).text.split("\n")))
        shown = (await client.get(f"{path}/steps")).json()
    steps = [one.data for one in told if one.kind == "steps"]
    assert [[two["state"] for two in one["steps"]] for one in steps] == [
        ["waiting"],
        ["completed"],
        ["completed", "failed"],
        ["completed", "failed", "waiting"],
        ["completed", "failed", "completed"],
    ]
    assert (steps[-1], steps[-1]["steps"][1]["error_message"]) == (shown, None)
    assert [one.kind for one in (told[0], told[-1])] == ["status", "status"]


async def test_steps_of_a_task_that_comes_back(asyncframe: Probe) -> None:
    """What changes while a task is elsewhere does not hide what changes once it is here again."""
    posted: list[Callable[[], object]] = []
    told: list[int] = []
    task = asyncframe.manager._core.ledger.find(await asyncframe.manager.submit(len, ("abc",)))
    assert isinstance(task, LiveTask)
    await asyncframe.settled()
    steps = FollowedSteps(asyncframe.manager._core, posted.append, "id", lambda: told.append(1))
    steps.follow_here(task)
    steps.hear()
    steps.close()
    steps.hear()
    while posted:
        posted.pop()()
    steps.follow_here(task)
    steps.hear()
    assert (len(posted), told) == (1, [])
    posted.pop()()
    assert told == [1]


async def test_an_unknown_task(asyncframe: Probe, app: FastAPI) -> None:
    """A stream of an unknown task is a 404 with a body in JSON."""
    async with asyncframe.client(app) as client:
        answer = await client.get("/tasks/nobody/events")
    assert answer.status_code == 404
    assert "detail" in answer.json()


@pytest.mark.parametrize("exposed", [False, True])
async def test_messages_of_errors(asyncframe: Probe, exposed: bool) -> None:
    """The message of an error is in the events only if the router exposes it."""
    asyncframe.expect_failure(fail, ValueError)
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(expose_errors=exposed))
    async with asyncframe.client(app) as client:
        answer = await client.get(f"/tasks/{fail()}/events")
    last = list(events(answer.text.split("\n")))[-1]
    assert (last.data["status"], last.data["error_type"]) == ("failed", "ValueError")
    assert ("password=secret" in answer.text) is exposed


async def test_nothing_is_left(asyncframe: Probe, app: FastAPI) -> None:
    """After the last stream nothing is subscribed, no timer is set and no hub is kept."""
    async with asyncframe.client(app) as client:
        task_id = build(1)
        core = require_core()
        reading = asyncio.create_task(client.get(f"/tasks/{task_id}/events"))
        started = asyncio.create_task(client.get(f"/tasks/{task_id}"))
        await started
        heard = len(core.ledger.sinks["progress"])
        assert not is_idle(core)
        await reading
        assert is_idle(core)
        assert len(core.ledger.sinks["progress"]) == heard - 1


async def test_comments_while_nothing_happens(asyncframe: Probe, app: FastAPI) -> None:
    """While nothing happens, a comment every 15 seconds keeps the connection open."""

    @background_task
    async def rest() -> None:
        await asyncframe.clock.asleep(50)

    async with asyncframe.client(app) as client:
        answer = await client.get(f"/tasks/{rest()}/events")
    assert [line for line in answer.text.split("\n") if line.startswith(":")] == [":"] * 3
    assert asyncframe.clock.monotonic() == 50


def test_a_stream_that_goes_on(asyncframe: Probe, app: FastAPI) -> None:
    """A test can read the events of a task that still runs, one after the other."""
    with asyncframe.client(app) as client:
        task_id = build(2)
        with client.stream("GET", f"/tasks/{task_id}/events") as answer:
            told = events(answer.iter_lines())
            assert [next(told).state for _ in range(2)][-1] == ("running", None)
            assert next(told).state == ("running", 0.5)


def test_openapi(app: FastAPI) -> None:
    """OpenAPI has what the data of an event is and the other answers, in keys of version 3.1."""
    document = app.openapi()
    route = document["paths"]["/tasks/{task_id}/events"]["get"]
    (content,) = route["responses"]["200"]["content"].values()
    data = content["x-itemSchema"]["properties"]["data"]
    shapes = [one["$ref"].rpartition("/")[2] for one in data["contentSchema"]["anyOf"]]
    assert (shapes, shapes[1] in document["components"]["schemas"]) == (
        ["TaskView", "StepList"],
        True,
    )
    assert route["operationId"] == "stream_task_events"
    assert list(route["responses"]["404"]["content"]) == ["application/json"]
    assert {"204", "404", "422"} <= route["responses"].keys()
    assert [one["name"] for one in route["parameters"]] == ["task_id", "last-event-id"]
    assert document["openapi"] == "3.1.0"
    operations = [one for path in document["paths"].values() for one in path.values()]
    answers = [one for operation in operations for one in operation["responses"].values()]
    media = [one for answer in answers for one in answer.get("content", {}).values()]
    assert {key for one in media for key in one} == {"schema", "x-itemSchema"}


# -- clients that do not read


class Connection:
    """A connection to the app, as a server gives it, on which a test says what happens.

    Attributes:
        sent: The bodies of the messages that the app has sent.
        taken: Whether the client takes them.
        gone: Set when the client closes the connection.
        transport: What the server writes to; None if it does not show that.
    """

    def __init__(self, app: FastAPI, task_id: str, transport: Any = None) -> None:
        self.transport = transport
        self.sent: list[bytes] = []
        self.taken = asyncio.Event()
        self.taken.set()
        self.gone = asyncio.Event()
        self._arrived = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": f"/tasks/{task_id}/events",
            "raw_path": b"",
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        self.served = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.taken.wait()
        self.sent.append(message.get("body", b""))
        self._arrived.set()

    async def until(self, text: bytes) -> None:
        """Wait until the app has sent *text*."""
        while text not in b"".join(self.sent):
            self._arrived.clear()
            await self._arrived.wait()


async def test_a_client_that_goes_away(asyncframe: Probe, app: FastAPI) -> None:
    """When the client closes the connection, nothing of its stream is left."""
    async with asyncframe.client(app):
        core, release = require_core(), asyncio.Event()
        connection = Connection(app, await asyncframe.manager.submit(release.wait))
        await connection.until(b'"running"')
        connection.gone.set()
        await connection.served
        assert is_idle(core)
        assert connection.sent[-1] != b""
        release.set()


@pytest.mark.asyncframe(mode="threads")
async def test_a_place_in_the_queue(asyncframe: Probe) -> None:
    """The stream of a router with owner does not tell how many tasks of others wait."""
    running, gate = threading.Event(), threading.Event()

    def hold() -> None:
        running.set()
        gate.wait(PATIENCE)

    whole, owned = (FastAPI(lifespan=setup_async_framework(max_workers=1)) for _ in range(2))
    whole.include_router(task_router())
    owned.include_router(task_router(owner=lambda _: "ann"))
    async with asyncframe.client(whole), asyncframe.client(owned):
        for _ in range(3):
            last = await asyncframe.manager.submit(hold, owner="ann")
            assert await asyncio.to_thread(running.wait, PATIENCE)
        for shown, words in ((whole, b'"queued 2nd of 2"'), (owned, b'"queued"')):
            connection = Connection(shown, last)
            await connection.until(b'"reason":' + words)
            connection.gone.set()
            await connection.served
        gate.set()
        await asyncframe.settled()


async def test_a_slow_client_gets_the_newest_state(asyncframe: Probe, app: FastAPI) -> None:
    """What happens while a client does not read is not kept: it gets the newest state then."""
    reported = asyncio.Event()

    async def body() -> None:
        for number in range(1_000):
            report(number / 1_000)
        await asyncframe.clock.asleep(1)
        reported.set()
        await asyncframe.clock.asleep(10)

    async with asyncframe.client(app):
        connection = Connection(app, await asyncframe.manager.submit(body))
        await connection.until(b"retry:")
        connection.taken.clear()
        await reported.wait()
        connection.taken.set()
        await connection.served
    told = list(events(b"".join(connection.sent).decode().split("\n")))
    assert [one.state for one in told][-2:] == [("running", 0.999), ("completed", 0.999)]
    assert len(told) <= 4


async def test_a_client_that_does_not_read(
    asyncframe: Probe, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that takes nothing for half a minute is dropped."""
    caplog.set_level("INFO", "asyncframe")
    async with asyncframe.client(app):
        core = require_core()

        async def body() -> None:
            await asyncframe.clock.asleep(1)
            report(0.5)
            await asyncframe.clock.asleep(60)

        task_id = await asyncframe.manager.submit(body)
        connection = Connection(app, task_id)
        await connection.until(b'"running"')
        connection.taken.clear()
        await connection.served
        assert asyncframe.clock.monotonic() == 45
        assert is_idle(core)
        await asyncframe.manager.get_result(task_id)
    said = f"the stream of task {task_id} ends: its client has read nothing for 30 s"
    assert said in caplog.messages


class Transport:
    """What a uvicorn writes to.

    Attributes:
        socket: Its socket.
        is_aborted: Whether it was told to give the connection up.
    """

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.is_aborted = False

    def get_extra_info(self, name: str) -> Any:
        """Return the socket."""
        return getattr(self, name)

    def abort(self) -> None:
        """Note it."""
        self.is_aborted = True


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Windows has no such sockets")
async def test_what_waits_in_the_kernel(asyncframe: Probe, app: FastAPI) -> None:
    """The kernel keeps 16 kB of a stream, and no more, if it can be told so."""
    limit = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    async with asyncframe.client(app):
        task_id = build(1)
        with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as other:
            connections = [Connection(app, task_id, Transport(one)) for one in (tcp, other, None)]
            for connection in connections:
                await connection.served
                assert b"completed" in connection.sent[-2]
            if limit is not None:
                assert tcp.getsockopt(socket.IPPROTO_TCP, limit) == 16_384


def test_comments_hide_no_deadlock(asyncframe: Probe, app: FastAPI) -> None:
    """A test that reads the stream of a task that waits for ever gets the plugin's error."""

    @background_task
    async def wait() -> None:
        await asyncio.Event().wait()

    with asyncframe.client(app) as client:
        task_id = wait()
        path = f"/tasks/{task_id}/events"
        stuck = pytest.raises(
            VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time:\n"
        )
        with stuck, client.stream("GET", path) as answer:
            list(answer.iter_lines())
        client.delete(f"/tasks/{task_id}", headers={"X-Requested-With": "test"})
