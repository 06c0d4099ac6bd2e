"""The asyncframe fixture: clients, references, matchers, and a real server."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI, Request

import pytest_asyncframe
from framework import TaskNotFoundError, TaskStatus, background_task, setup_async_framework
from pytest_asyncframe._toolkit import clients, pristine
from pytest_asyncframe.clock import VirtualClock, VirtualDeadlockError
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE
from tests.plugin.clock.waits import asleep

httpx: Any = importlib.import_module("httpx")


@background_task
def add(left: int, right: int = 1) -> int:
    """Add two numbers."""
    return left + right


@background_task
def other() -> None:
    """Do nothing."""


def app_with_state() -> FastAPI:
    """Return an app with a task, whose lifespan yields a state."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/add", status_code=202)
    async def start(left: int, request: Request) -> dict[str, str]:
        assert request.app is app
        return {"task_id": add(left)}

    @app.get("/broken")
    async def broken() -> None:
        raise LookupError("a route's own")

    return app


def raised_by(call: Any, *args: Any, **kwargs: Any) -> str:
    """Return the text of the assertion error that a call raises."""
    with pytest.raises(AssertionError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# -- clients


async def test_a_routes_error_is_raised(asyncframe: Probe) -> None:
    """An exception in a route is raised in the test."""
    async with asyncframe.client(app_with_state()) as client:
        with pytest.raises(LookupError, match=r"^a route's own$"):
            await client.get("/broken")


async def test_a_lifespan_that_fails(asyncframe: Probe) -> None:
    """If an app fails to start, the error shows its message."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match=r"^the app's startup failed: no database$"):
        async with asyncframe.client(app):
            pytest.fail("it must not start")


def app_that_fails(phase: str) -> FastAPI:
    """Return an app whose lifespan raises at startup or shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if phase == "start":
            raise LookupError("no table")
        yield
        raise LookupError("no table")

    return FastAPI(lifespan=lifespan)


@pytest.mark.parametrize("phase", ["start", "stop"])
async def test_a_lifespans_own_error(asyncframe: Probe, phase: str) -> None:
    """An exception in a lifespan is raised where the client's block starts or ends."""
    with pytest.raises(LookupError, match=r"^no table$") as caught:
        async with asyncframe.client(app_that_fails(phase)):
            assert phase == "stop"

    assert caught.traceback[-1].frame.code.name == "lifespan"


@pytest.mark.parametrize("phase", ["start", "stop"])
def test_a_lifespans_own_error_in_a_sync_test(asyncframe: Probe, phase: str) -> None:
    """The same holds for the sync client."""
    with pytest.raises(LookupError, match=r"^no table$"), asyncframe.client(app_that_fails(phase)):
        assert phase == "stop"


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_a_lifespan_that_fails_and_keeps_receiving(asyncframe: Probe, phase: str) -> None:
    """An app that reports a failure and goes on receiving is not waited for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if phase == "shutdown":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": f"lifespan.{phase}.failed"})
        await receive()

    with pytest.raises(RuntimeError, match=rf"^the app's {phase} failed: it gave no message$"):
        async with asyncframe.client(app):
            assert phase == "shutdown"


async def test_a_routes_error_as_a_response(asyncframe: Probe) -> None:
    """With raise_app_exceptions=False an exception in a route is a response."""
    async with asyncframe.client(app_with_state(), raise_app_exceptions=False) as client:
        assert (await client.get("/broken")).status_code == 500


def test_a_routes_error_as_a_response_in_a_sync_test(asyncframe: Probe) -> None:
    """The same holds for the sync client, which also raises by default."""
    with asyncframe.client(app_with_state(), raise_app_exceptions=False) as client:
        assert client.get("/broken").status_code == 500
    with (
        asyncframe.client(app_with_state()) as client,
        pytest.raises(LookupError, match=r"^a route's own$"),
    ):
        client.get("/broken")


async def test_options_of_the_transport(asyncframe: Probe) -> None:
    """The async client takes TestClient's options for the connection too."""
    app = FastAPI()

    @app.get("/about")
    async def about(request: Request) -> list[Any]:
        return [request.client, request.scope["root_path"], request.headers["accept"]]

    options: dict[str, Any] = {"client": ("10.1.2.3", 4), "root_path": "/api"}
    async with asyncframe.client(app, headers={"accept": "text/x"}, **options) as client:
        assert (await client.get("/about")).json() == [["10.1.2.3", 4], "/api", "text/x"]


class _Nothing:
    """Takes the place of a class that a test has replaced."""


@pytest.mark.parametrize(
    ("name", "fake"),
    [
        ("AsyncClient", _Nothing),
        ("ASGITransport", _Nothing),
        ("AsyncClient.get", None),
        ("AsyncClient.request", None),
        ("AsyncClient.send", None),
        ("AsyncClient.__init__", None),
    ],
)
async def test_a_test_that_replaces_httpx(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch, name: str, fake: object
) -> None:
    """A test that patches httpx for the app's requests does not affect the client."""
    original = httpx.AsyncClient
    monkeypatch.setattr(f"httpx.{name}", fake)
    async with asyncframe.client(app_with_state()) as client:
        answer = await client.post("/add", params={"left": 3})
        assert (await asyncframe.completed(answer)).result == 4
        assert isinstance(client, original)


@pytest.mark.extended("processes")
def test_a_test_that_loads_and_replaces_httpx(pytester: pytest.Pytester) -> None:
    """The same holds if httpx was not loaded before the test patched it."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile("""
    async def test_it(asyncframe, monkeypatch):
        from starlette.applications import Starlette
        import httpx
        monkeypatch.setattr(httpx, "AsyncClient", None)
        async with asyncframe.client(Starlette()) as client:
            assert (await client.get("/")).status_code == 404
    """)

    run = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=PATIENCE)
    run.assert_outcomes(passed=1)


def test_a_client_that_was_not_opened(asyncframe: Probe) -> None:
    """Using a client that was not opened is an error that says how to open it."""
    client = asyncframe.client(app_with_state())
    with pytest.raises(
        AttributeError,
        match=r"^this client has no 'post' yet: open it with 'async with asyncframe\.client\(app\) "
        r"as client:', or with 'with' in a test that is not a coroutine$",
    ):
        client.post("/add")


def test_a_server_that_was_not_started(asyncframe: Probe) -> None:
    """A live server that was not started has no URL, and says how to start it."""
    server = asyncframe.live_server(app_with_state())
    with pytest.raises(
        RuntimeError,
        match=r"^this live server was not started: use 'with asyncframe\.live_server\(app\) as "
        r"server:'$",
    ):
        _ = server.url
    assert not server.running


def test_clients_without_the_extra(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is reported with the command that installs it."""
    for name in ("httpx", "httpx2", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(pristine, "client_classes", pristine.client_classes.__wrapped__)
    monkeypatch.setattr(clients, "client_classes", pristine.client_classes)
    cure = r"install the extra 'pytest' of asyncframe$"
    client = asyncframe.client(app_with_state())

    with pytest.raises(ImportError, match=rf"^asyncframe\.client\(\) needs httpx: {cure}"):
        client.__enter__()
    with (
        asyncio.Runner() as runner,
        pytest.raises(ImportError, match=rf"^asyncframe\.client\(\) needs httpx: {cure}"),
    ):
        runner.run(client.__aenter__())
    with pytest.raises(ImportError, match=rf"^asyncframe\.live_server\(\) needs uvicorn: {cure}"):
        asyncframe.live_server(app_with_state())
    assert not client.running
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match=rf"^tests of tasks need pytest: {cure}"):
        importlib.reload(pytest_asyncframe)


@pytest.mark.parametrize("older", [True, False], ids=["with the older", "alone"])
def test_the_newer_httpx(monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
    """Before a test the plugin keeps the newer httpx if that is what its clients are made of."""
    noted: list[None] = []
    monkeypatch.setitem(sys.modules, "httpx2", ModuleType("httpx2"))
    monkeypatch.delitem(sys.modules, "httpx")
    found = pristine._has_the_older.__wrapped__ if older else lambda: False
    monkeypatch.setattr(pristine, "_has_the_older", found)
    monkeypatch.setattr(pristine, "client_classes", lambda: noted.append(None))
    pristine.note()
    assert len(noted) == (0 if older else 1)


async def test_waits_of_sync_tests_in_a_coroutine(asyncframe: Probe) -> None:
    """A wait that blocks the loop of its own tasks says what to await, and so does its result."""
    task_id = asyncframe.manager.submit_nowait(asleep, (1,))
    blocks = "would block the event loop that runs this test: use 'await asyncframe"
    with pytest.raises(RuntimeError, match=rf"^run_until_complete\(\) {blocks}\.completed"):
        asyncframe.run_until_complete(task_id)
    with pytest.raises(VirtualDeadlockError) as caught:
        asyncframe.run_until_idle()
    assert caught.value.__notes__ == [f"run_until_idle() {blocks}.settled()'"]

    waiting = asyncframe.completed(task_id)
    with pytest.raises(
        AttributeError, match=r"^completed\(\) has no 'result' before it is awaited"
    ):
        waiting.result  # type: ignore[attr-defined]  # noqa: B018  # what is tested
    assert (await waiting).status is TaskStatus.COMPLETED


async def test_with_in_a_coroutine(asyncframe: Probe) -> None:
    """'with' in a coroutine would block its loop, and is rejected."""
    with pytest.raises(
        RuntimeError,
        match=r"^'with asyncframe\.client\(app\)' would block the event loop that "
        r"runs this test: use 'async with asyncframe.client\(app\)'$",
    ):
        asyncframe.client(app_with_state()).__enter__()


def test_an_app_that_is_not_callable(asyncframe: Probe) -> None:
    """An app that is not callable is rejected."""
    with pytest.raises(TypeError, match=r"^client\(\) takes an ASGI app, not 7$"):
        asyncframe.client(7)


def test_a_live_server(asyncframe: Probe) -> None:
    """A real uvicorn serves the app, and its tasks can be waited for."""
    with asyncframe.live_server(app_with_state()) as server:
        response = httpx.post(f"{server.url}/add", params={"left": 3})
        task = asyncframe.run_until_complete(response)

    assert task.result == 4
    assert not server.running


@pytest.mark.asyncframe(mode="threads")
def test_real_threads(asyncframe: Probe) -> None:
    """In the mode threads there is neither a clock nor an executor, and tasks start at once."""
    with asyncframe.live_server(app_with_state()) as server:
        response = httpx.post(f"{server.url}/add", params={"left": 3})
        assert asyncframe.run_until_complete(response).result == 4
    with pytest.raises(RuntimeError, match=r"^asyncframe.clock: time is real in the mode 'th"):
        _ = asyncframe.clock
    with pytest.raises(RuntimeError, match=r"^asyncframe.executor: tasks start by themselves"):
        _ = asyncframe.executor


# -- references


@pytest.mark.parametrize("key", [None, "task_id", "id"])
def test_references(asyncframe: Probe, key: str | None) -> None:
    """A task is referred to by its id, or by a JSON object with the id."""
    task_id = str(add(1))
    task = asyncframe.run_until_complete(task_id if key is None else {key: task_id})

    assert asyncframe.run_until_complete(task).result == 2


def test_what_is_no_task(asyncframe: Probe) -> None:
    """A coroutine is refused, and a response that is not JSON is shown with its body's start."""
    with pytest.raises(LookupError, match=r"^a coroutine is no task, .* of sleep: await it in "):
        asyncframe.run_until_complete(asleep(1))
    with pytest.raises(
        LookupError,
        match=r"^no task id was found in <Response \[500 Internal Server "
        r"Error\]>: its body is not JSON but 'oops'$",
    ):
        asyncframe.run_until_complete(httpx.Response(500, text="oops"))


def test_an_unknown_id(asyncframe: Probe) -> None:
    """An id that no task of the test has is an error."""
    with pytest.raises(TaskNotFoundError, match=r"^task 'nothing' is unknown: "):
        asyncframe.run_until_complete("nothing")


# -- waiting


@background_task
def fails() -> None:
    """Fail."""
    raise LookupError("no such thing")


async def test_waiting_reads_the_failure(asyncframe: Probe) -> None:
    """Waiting for a task marks its failure as read, with check=False too."""
    task = await asyncframe.completed(fails(), check=False)

    assert task.status is TaskStatus.FAILED


def test_waiting_reads_the_failure_in_a_sync_test(asyncframe: Probe) -> None:
    """The same holds for the sync variant."""
    task = asyncframe.run_until_complete(fails(), check=False)

    assert task.status is TaskStatus.FAILED


@pytest.mark.parametrize("wait", ["asyncframe.completed(task_id)", "asyncframe.settled()"])
def test_a_cancelled_wait(pytester: pytest.Pytester, wait: str) -> None:
    """A wait that was cancelled is not notified of the task's end."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(f"""
    import asyncio, time, pytest
    from framework import background_task

    @background_task
    def slow():
        time.sleep(50)

    @pytest.mark.asyncframe(leaks="off")
    async def test_it(asyncframe):
        task_id = slow()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for({wait}, 1)
    """)
    found = pytester.runpytest("-p", "no:cacheprovider", "-o", "log_cli=true")

    found.assert_outcomes(passed=1)
    found.stdout.no_fnmatch_line("*event sink raised*")


# -- matchers


async def test_submissions(asyncframe: Probe) -> None:
    """Submissions are matched by function and name, with arguments and how many times."""
    add(1)
    add(1)
    add(2, right=5)
    await asyncframe.settled()

    asyncframe.assert_submitted(add, 1, times=2)
    asyncframe.assert_submitted(add, 2, right=5)
    asyncframe.assert_not_submitted(other)
    assert [task.result for task in asyncframe.submitted(add)] == [2, 2, 7]
    name = asyncframe.submitted(add)[0].name
    assert len(asyncframe.submitted(name)) == 3


def test_messages_of_failing_matchers(asyncframe: Probe) -> None:
    """A failing matcher shows what was found, and what is most similar."""
    assert raised_by(asyncframe.assert_submitted, other) == (
        "other was never submitted, expected at least once\nnothing was submitted"
    )
    task_id = add(2, right=5)
    asyncframe.run_until_idle()
    name = asyncframe.submitted(add)[0].name

    assert raised_by(asyncframe.assert_submitted, other) == (
        f"other was never submitted, expected at least once\nsubmitted functions: {name}"
    )
    assert raised_by(asyncframe.assert_submitted, add, 2, right=6) == (
        "add(2, right=6) was never submitted, expected at least once\n"
        f"nearest submissions:\n  {name}(2, right=5)\n    right: 5, expected 6"
    )
    assert raised_by(asyncframe.assert_submitted, add, 2, right=5, times=3).startswith(
        "add(2, right=5) was submitted once, expected 3 times\n  submitted at "
    )
    assert raised_by(asyncframe.assert_not_submitted, add).startswith(
        f"add was submitted once, expected never:\n  {name}(2, right=5) at "
    )
    assert raised_by(asyncframe.assert_transitions, task_id, "pending>failed") == (
        f"task {task_id} went through pending>running>completed, expected pending>failed"
    )


@pytest.mark.asyncframe(mode="manual")
def test_unfinished_tasks_are_not_idle(asyncframe: Probe) -> None:
    """assert_idle() names each task that has not ended."""
    task_id = add(1)
    text = raised_by(asyncframe.assert_idle)

    assert re.match(rf"^1 task has not ended:\n  .*add \({task_id}\) is pending, submit", text)
    asyncframe.executor.drain()
    asyncframe.assert_idle()


# -- the clock's edges


@pytest.mark.extended("time")
def test_threads_of_the_tests_own(task_clock: VirtualClock) -> None:
    """A thread that the test starts can sleep on the clock too."""
    woke: list[float] = []
    began = threading.Event()

    def body() -> None:
        began.set()
        task_clock.sleep(3)
        woke.append(task_clock.monotonic())

    thread = threading.Thread(target=body)
    thread.start()
    while not task_clock.sleeping:
        with task_clock.sequencer.away():
            began.wait()
    assert "t+3 s " in task_clock.explain()
    task_clock.advance(4)
    with task_clock.sequencer.away():
        thread.join()

    assert woke == [3.0]


def test_a_negative_sleep(task_clock: VirtualClock) -> None:
    """Sleeping a negative time is rejected, as by time.sleep."""
    with pytest.raises(ValueError, match=r"^sleep length must be non-negative$"):
        task_clock.sleep(-1)


def test_time_that_nobody_moves(task_clock: VirtualClock) -> None:
    """With task_clock alone, a wait for a time that never comes fails at once."""
    with pytest.raises(
        RuntimeError,
        match=r"^nothing can continue at 0 s of virtual time:\n(?s:.*)\ntime does "
        r"not move by itself here: call task_clock\.advance",
    ):
        task_clock.sleep(1)
