"""The routes of task_router: what they answer, and what OpenAPI has about them."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.testclient import TestClient
from httpx import AsyncClient, Response

from framework import (
    FrameworkNotStartedError,
    Task,
    TaskManager,
    TaskStatus,
    background_task,
    current_task,
    setup_async_framework,
)
from framework.http import TaskView, task_router, views
from framework.http._responses import answer_of_task
from framework.http.views import CancelResult, TaskList, TaskStarted, TaskStats
from pytest_asyncframe.probe import Probe
from tests.framework.http.login import ASKED, LOGIN, let_in
from tests.framework.http.refused import Refusal, not_refused
from tests.patience import PATIENCE


def made(**options: Any) -> FastAPI:
    """Return an app with a framework and the routes of tasks."""
    app = FastAPI(lifespan=setup_async_framework)
    options.setdefault("dependencies", LOGIN)
    app.include_router(task_router(**options))
    return app


@background_task
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@background_task
def quadruplicate(number: int) -> int:
    """Quadruple a number, by a name that nothing else has."""
    return 4 * number


@background_task(name="fails")
def fail() -> None:
    """Fail."""
    raise LookupError("hidden")


@background_task(name="waits")
async def wait_for_ever() -> None:
    """Never end."""
    await asyncio.Event().wait()


# -- one task


async def test_a_task(asyncframe: Probe) -> None:
    """The state of a task is shown with its result, and no cache keeps it."""
    async with asyncframe.client(made()) as client:
        task_id = double(21)
        early = await client.get(f"/tasks/{task_id}")
        await asyncframe.completed(task_id)
        late = await client.get(f"/tasks/{task_id}")
    assert (early.status_code, late.status_code) == (200, 200)
    assert early.json()["status"] == "pending"
    shown = TaskView[int].model_validate(late.json())
    assert (shown.status, shown.result) == (TaskStatus.COMPLETED, 42)
    assert early.headers["retry-after"] == "1"
    assert "retry-after" not in late.headers
    assert early.headers["cache-control"] == late.headers["cache-control"] == "no-store"


async def test_when_to_ask_again(asyncframe: Probe) -> None:
    """A client is told to ask for a delayed task when it is due, or in a minute."""
    pauses = {}
    async with asyncframe.client(made()) as client:
        for delay in (0.5, 7.2, 3_600):
            task_id = await asyncframe.manager.submit(int, delay=delay)
            pauses[delay] = (await client.get(f"/tasks/{task_id}")).headers["retry-after"]
            await asyncframe.manager.cancel_task(task_id)
    assert pauses == {0.5: "1", 7.2: "8", 3_600: "60"}


RESULTS: dict[str, tuple[Any, bool]] = {
    "nothing": (None, False),
    "small": ({"a": [1, 2, {"b": "c"}]}, False),
    "hundreds": (list(range(400)), False),
    "many": (list(range(1_000)), True),
    "nested": ({"a": [{"b": number} for number in range(1_000)]}, True),
    "text": ("x" * 1_000_000, True),
}
"""Results, and whether each is large."""


async def test_a_large_result(task_manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that takes long to convert is converted on another thread than the loop's."""
    threads = []

    def view_of(task: Task, **options: Any) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return views.view_of(task, **options)

    monkeypatch.setattr("framework.http._responses.view_of", view_of)
    for name, (result, _) in RESULTS.items():
        task = await task_manager.wait(await task_manager.submit(lambda given=result: given))
        answer = await answer_of_task(task, expose_errors=False)
        assert json.loads(bytes(answer.body))["result"] == result, name
    moved = [thread is not threading.current_thread() for thread in threads]
    assert dict(zip(RESULTS, moved, strict=True)) == {
        name: is_large for name, (_, is_large) in RESULTS.items()
    }


async def test_an_unknown_task(asyncframe: Probe) -> None:
    """Each route answers 404 for an id that no task has, whatever the id looks like."""
    async with asyncframe.client(made()) as client:
        for task_id in ("unknown", "%00", "%ff%fe", "x" * 500, "..%5c", "%F0%9F%92%A9"):
            answers = [
                await client.get(f"/tasks/{task_id}"),
                await client.get(f"/tasks/{task_id}?wait=60"),
                await client.delete(f"/tasks/{task_id}", headers=ASKED),
                await client.post(f"/tasks/{task_id}/run-again", headers=ASKED),
            ]
            assert [one.status_code for one in answers] == [404] * 4, task_id
            assert {one.text for one in answers} == {'{"detail":"Task not found"}'}


async def test_the_end_of_a_wait(asyncframe: Probe) -> None:
    """`?wait=` answers when the task has ended, without counting as reading its failure."""
    clock = asyncframe.clock

    @background_task
    async def slow() -> str:
        await asyncframe.clock.asleep(5)
        return "done"

    async with asyncframe.client(made()) as client:
        task_id = slow()
        answer = await client.get(f"/tasks/{task_id}?wait=60")
        assert answer.json()["result"] == "done"
        assert clock.monotonic() == 5.0


async def test_the_time_of_a_wait_is_over(asyncframe: Probe) -> None:
    """When the wait is over, the answer is 200 with the state as it is."""
    async with asyncframe.client(made()) as client:
        task_id = wait_for_ever()
        answer = await client.get(f"/tasks/{task_id}?wait=60")
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        assert asyncframe.clock.monotonic() == 60.0
        await client.delete(f"/tasks/{task_id}", headers=ASKED)


async def test_the_framework_stops_while_a_client_waits(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process goes on with the task, the answer is 200 with the state as it was."""

    async def wait(*_: object) -> Task:
        raise FrameworkNotStartedError("stopping")

    monkeypatch.setattr(TaskManager, "wait", wait)
    async with asyncframe.client(made()) as client:
        task_id = wait_for_ever()
        answer = await client.get(f"/tasks/{task_id}?wait=60")
        await asyncframe.manager.cancel_task(task_id)
    assert (answer.status_code, answer.json()["has_error"]) == (200, False)


async def test_a_wait_out_of_range(asyncframe: Probe) -> None:
    """A wait that is not from 0 to 60 seconds is refused, in valid JSON."""
    found = {}
    async with asyncframe.client(made()) as client:
        for wait in ("-0.1", "60.1", "nan", "inf", "-inf", "1e999", "soon", ""):
            answer = await client.get(f"/tasks/unknown?wait={wait}")
            found[wait] = (answer.status_code, answer.json()["detail"][0]["loc"])
    assert found == dict.fromkeys(found, (422, ["query", "wait"]))


async def test_a_client_that_leaves(asyncframe: Probe) -> None:
    """When a client closes the connection, nothing waits for the task any more."""
    app = made()
    async with asyncframe.client(app):
        task_id = wait_for_ever()
        gone, messages = asyncio.Event(), [{"type": "http.request", "body": b""}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            """Send nothing."""

        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": f"/tasks/{task_id}",
            "headers": [],
        }
        scope |= {"query_string": b"wait=60", "root_path": "", "http_version": "1.1"}
        answering = asyncio.ensure_future(app(scope, receive, send))
        record = asyncframe.manager._core.ledger.find_live(task_id)
        assert record is not None
        gone.set()
        await answering
        assert asyncframe.clock.monotonic() == 0.0
        assert not record.waiters
        await asyncframe.manager.cancel_task(task_id)


# -- lists


async def listed(client: AsyncClient, query: str = "") -> TaskList:
    """Return a list from its route."""
    answer = await client.get(f"/tasks{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return TaskList.model_validate(answer.json())


async def refused_name(client: AsyncClient, name: str) -> str:
    """Return why a list is refused because of a name."""
    answer = await client.get("/tasks", params={"name": name})
    assert answer.status_code == 422
    (why,) = answer.json()["detail"]
    assert why["loc"] == ["query", "name"]
    return str(why["msg"])


async def test_names_that_are_refused(asyncframe: Probe) -> None:
    """A name that nobody knows is answered with those near it, and half a name with all it is of.

    Owners are told those of their own tasks alone.
    """
    full = "tests.framework.http.test_router.quadruplicate"
    async with asyncframe.client(made()) as client:
        wrong = await refused_name(client, "quadruplicat")
        assert (
            wrong
            == f"name must be that of a function or task, not 'quadruplicat'; near are '{full}'"
        )
        assert await refused_name(client, "\0") == (
            "name must be that of a function or task, not '\\x00'"
        )
        for module in ("one", "other"):
            double.options(name=f"{module}.requintuple")(1)
        several = "name must say which of several is meant, not 'requintuple': "
        assert (
            await refused_name(client, "requintuple")
            == f"{several}'one.requintuple', 'other.requintuple'"
        )
        page = await client.get("/tasks/dashboard/list", params={"name": "requintuple"})
        assert page.status_code == 422
        await asyncframe.settled()
        found = asyncframe.manager.get_all_tasks(name="quadruplicate")
    assert found == {}

    app = made(owner=lambda request: request.headers.get("x-user"))
    async with asyncframe.client(app, headers={"X-User": "ann"}) as client:
        assert await refused_name(client, "quadruplicat") == wrong.partition(";")[0]
        quadruplicate.options(owner="ann")(1)
        assert await refused_name(client, "quadruplicat") == wrong
        double.options(owner="bob", name="secret.requintuple")(1)
        assert "secret" not in await refused_name(client, "requintupl")
        assert "secret" not in await refused_name(client, "requintuple")
        await asyncframe.settled()


@pytest.mark.asyncframe(mode="manual")
async def test_a_list(asyncframe: Probe) -> None:
    """The list has the newest tasks first, and shows what it is asked for."""
    async with asyncframe.client(made()) as client:
        ids = []
        for number in range(3):
            ids.append(str(double(number)))
            asyncframe.executor.run(ids[-1])
            await asyncframe.clock.run_for(1.0)
        ids.append(str(double.options(name="other", description="the other one")(3)))
        everything = await listed(client)
        assert [task.task_id for task in everything.tasks] == ids[::-1]
        assert (everything.total, everything.next) == (4, None)
        assert "result" not in everything.model_fields_set

        first = await listed(client, "?limit=2")
        assert (first.total, len(first.tasks)) == (4, 2)
        rest = await listed(client, f"?limit=2&after={first.next}")
        skipped = await listed(client, "?offset=2")
        assert [one.task_id for one in rest.tasks] == [one.task_id for one in skipped.tasks]

        for query in ("status=pending", "name=other", "search=OTHER%20one", f"search={ids[3]}"):
            found = await listed(client, f"?{query}")
            assert ([one.task_id for one in found.tasks], found.total) == ([ids[3]], 1), query
        both = await listed(client, "?status=pending&status=completed")
        assert both.total == 4
        assert (await listed(client, "?search=%00")).total == 0
        doubles = await listed(client, "?name=test_router.double&limit=2")
        assert ([one.task_id for one in doubles.tasks], doubles.total) == (ids[2:0:-1], 3)
        second = await listed(client, f"?name=test_router.double&limit=2&after={doubles.next}")
        assert [one.task_id for one in second.tasks] == ids[:1]
        # A name that is known, and of which there is no such task now.
        assert (await listed(client, "?name=test_router.double&status=failed")).total == 0
        assert (await listed(client, "?name=fails")).total == 0
        asyncframe.executor.drain()


BAD_QUERIES = {
    "limit=0": "limit",
    "limit=1001": "limit",
    "offset=-1": "offset",
    "offset=99999999999999999999": "offset",
    "status=lost": "status",
    "after=nothing": "after",
    f"search={'x' * 256}": "search",
}
"""Queries, and the parameter that is out of range in each."""


async def test_a_bad_query_of_a_list(asyncframe: Probe) -> None:
    """A parameter out of range is answered with FastAPI's 422, which names it."""
    found = {}
    async with asyncframe.client(made()) as client:
        for query in BAD_QUERIES:
            answer = await client.get(f"/tasks?{query}")
            found[query] = (answer.status_code, answer.json()["detail"][0]["loc"][:2])
    assert found == {query: (422, ["query", name]) for query, name in BAD_QUERIES.items()}


async def test_stats(asyncframe: Probe) -> None:
    """The stats count the tasks of each status."""
    async with asyncframe.client(made()) as client:
        double(1)
        fail()
        asyncframe.expect_failure(fail, LookupError)
        await asyncframe.settled()
        later = await asyncframe.manager.submit(double.fn, args=(2,), delay=60)
        stats = TaskStats.model_validate((await client.get("/tasks/stats")).json())
        await asyncframe.manager.cancel_task(later)
    counts = stats.model_dump()
    assert counts.pop("submitted") == 3
    assert list(counts) == [status.value for status in TaskStatus]
    assert {key: count for key, count in counts.items() if count} == {
        "pending": 1,
        "completed": 1,
        "failed": 1,
    }


# -- cancelling, and running again


def cancelled(answer: Response) -> tuple[bool, str, str]:
    """Return what a cancellation has answered."""
    assert answer.status_code == 200, answer.text
    result = CancelResult.model_validate(answer.json())
    return result.cancelled, result.status, result.outcome


@pytest.mark.asyncframe(mode="manual")
async def test_cancelling(asyncframe: Probe) -> None:
    """DELETE cancels a task, and says what came of it; twice is the same as once."""
    async with asyncframe.client(made()) as client:
        pending, done = double(1), double(2)
        asyncframe.executor.run(done)
        answers = [
            await client.delete(f"/tasks/{task_id}", headers=ASKED)
            for task_id in (pending, pending, done)
        ]
    assert [cancelled(answer) for answer in answers] == [
        (True, "cancelled", "cancelled"),
        (True, "cancelled", "cancelled"),
        (False, "completed", "cannot"),
    ]
    assert answers[2].json()["why"] == "it has ended: completed"


@pytest.mark.asyncframe(mode="threads")
async def test_cancelling_a_thread(asyncframe: Probe) -> None:
    """A task on a thread is asked, and goes on until it looks."""
    running, looks = threading.Event(), threading.Event()

    @background_task
    def work() -> None:
        running.set()
        looks.wait(PATIENCE)
        task = current_task()
        assert task is not None
        task.check_cancelled()

    async with asyncframe.client(made()) as client:
        task_id = work()
        await asyncio.to_thread(running.wait, PATIENCE)
        asked = await client.delete(f"/tasks/{task_id}", headers=ASKED)
        looks.set()
        later = await client.get(f"/tasks/{task_id}?wait=60")
    assert cancelled(asked) == (False, "running", "asked")
    assert later.json()["status"] == "cancelled"


async def test_a_change_without_the_header(asyncframe: Probe) -> None:
    """Without the header that other sites' pages cannot send, nothing is changed, if it must be."""
    async with asyncframe.client(made()) as client:
        task_id = double(1)
        none: dict[str, str] = {}
        schedules = "/tasks/dashboard/schedules"
        answers = [
            answer
            for headers in (none, {"X-Requested-With": ""})
            for answer in (
                await client.delete(f"/tasks/{task_id}", headers=headers),
                await client.post(f"/tasks/{task_id}/run-again", headers=headers),
                await client.post(f"{schedules}/pause?name=unknown", headers=headers),
            )
        ]
        pauses = await client.post(f"{schedules}/pause?name=unknown", headers=ASKED)
        deletes = await client.post(f"{schedules}/delete?name=unknown", headers=ASKED)
        (shown,) = (await listed(client)).tasks
        assert not shown.cancel_requested
    assert (pauses.status_code, deletes.status_code) == (404, 422)
    assert [one.status_code for one in answers] == [403] * 6
    for answer in answers:
        assert answer.json()["detail"] == (
            "Send the header X-Requested-With, with any value: it shows that the request does not "
            "come from a page of another site"
        )

    app = made(csrf_header=False)
    async with asyncframe.client(app) as client:
        changed = await client.delete(f"/tasks/{double(1)}")
        await asyncframe.settled()
    assert changed.status_code == 200
    assert "X-Requested-With" not in str(app.openapi())


async def test_running_again(asyncframe: Probe) -> None:
    """A task that has failed is run again as a new task, whose URL is in the answer."""
    async with asyncframe.client(made(prefix="/v1/tasks")) as client:
        task_id = fail()
        asyncframe.expect_failure(fail, LookupError, times=2)
        await asyncframe.settled()
        answer = await client.post(f"/v1/tasks/{task_id}/run-again", headers=ASKED)
        await asyncframe.settled()
        assert answer.status_code == 202
        started = TaskStarted.model_validate(answer.json())
        assert answer.headers["location"] == started.status_url == f"/v1/tasks/{started.task_id}"
        shown = (await client.get(started.status_url)).json()
    assert (shown["run_again_of"], shown["status"]) == (task_id, "failed")


async def test_a_task_that_cannot_be_run_again(asyncframe: Probe) -> None:
    """A task that has not ended, or has a result, is not run again: 409 says why."""
    async with asyncframe.client(made()) as client:
        task_id = double(1)
        early = await client.post(f"/tasks/{task_id}/run-again", headers=ASKED)
        await asyncframe.settled()
        late = await client.post(f"/tasks/{task_id}/run-again", headers=ASKED)
    assert (early.status_code, late.status_code) == (409, 409)
    said = "This task cannot be run again: it "
    assert early.json() == {"detail": f"{said}is pending; wait until it has ended"}
    assert late.json()["detail"].startswith(f"{said}completed")


async def test_a_full_queue(asyncframe: Probe) -> None:
    """If the queue is full, a task is not run again: 503 says when to try."""
    app = FastAPI(lifespan=setup_async_framework(queue_size=1))
    app.include_router(task_router(dependencies=LOGIN))
    async with asyncframe.client(app) as client:
        task_id = fail()
        asyncframe.expect_failure(fail, LookupError)
        await asyncframe.settled()
        double(1)
        answer = await client.post(f"/tasks/{task_id}/run-again", headers=ASKED)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


# -- where the routes are


def test_without_a_framework() -> None:
    """Without a framework the error of the server says what to do."""
    app = FastAPI()
    app.include_router(task_router(dependencies=LOGIN))
    said = re.escape(
        "no task framework is running here: add it to the app that is served (FastAPI(lifespan="
        "setup_async_framework)), as one that is mounted in it has no lifespan, "
        "enter it yourself ('async with setup_async_framework(app):'), or "
        "in a test use 'with TestClient(app)' or the fixture task_manager of the pytest plugin"
    )
    with (
        TestClient(app) as client,
        pytest.raises(RuntimeError, match=f"^{said}$"),
    ):
        client.get("/tasks/1")


async def test_nested_and_mounted(asyncframe: Probe) -> None:
    """The routes work in a router of a router, and in an app that is mounted in another one."""
    app, inner, outer = FastAPI(lifespan=setup_async_framework), FastAPI(), APIRouter(prefix="/v1")
    outer.include_router(task_router(prefix="", dependencies=LOGIN), prefix="/jobs")
    app.include_router(outer)
    inner.include_router(task_router(dependencies=LOGIN))
    app.mount("/inner", inner)
    async with asyncframe.client(app) as client:
        task_id = fail()
        asyncframe.expect_failure(fail, LookupError, times=3)
        await asyncframe.settled()
        for path in ("/v1/jobs", "/inner/tasks"):
            assert (await client.get(path)).json()["total"] >= 1
            answer = await client.post(f"{path}/{task_id}/run-again", headers=ASKED)
            again = await client.get(answer.headers["location"])
            assert answer.headers["location"].startswith(f"{path}/")
            assert again.json()["run_again_of"] == task_id
        await asyncframe.settled()


class Proxied:
    """Does to requests what a server does with ``--root-path``.

    Args:
        app: The app.
        root: The root path.
        in_path: Whether the path of a request has it as well, as newer servers do it.
    """

    def __init__(self, app: Any, root: str, in_path: bool) -> None:
        self._app = app
        self._root = root
        self._in_path = in_path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] == "http":
            path = self._root + scope["path"] if self._in_path else scope["path"]
            scope |= {"root_path": self._root, "path": path}
        await self._app(scope, receive, send)


async def test_behind_a_proxy(asyncframe: Probe) -> None:
    """The URL of a new task begins with the root path that a proxy strips, once."""
    asyncframe.expect_failure(fail, LookupError, times=8)
    found = {}
    for root, in_path in itertools.product(("/api", "/t"), (True, False)):
        app = made()
        app.add_middleware(Proxied, root=root, in_path=in_path)
        async with asyncframe.client(app) as client:
            task_id = fail()
            await asyncframe.settled()
            answer = await client.post(f"/tasks/{task_id}/run-again", headers=ASKED)
            await asyncframe.settled()
        url = answer.headers["location"]
        found[root, in_path] = url.removesuffix(answer.json()["task_id"])
    assert found == {case: f"{case[0]}/tasks/" for case in found}


# -- OpenAPI


def operations(app: FastAPI) -> dict[str, Any]:
    """Return the operations of an app's schema by their ids."""
    paths = app.openapi()["paths"]
    return {one["operationId"]: one for path in paths.values() for one in path.values()}


def test_the_schema() -> None:
    """OpenAPI has each answer with its shape, under names that clients can use."""
    found = operations(made())
    assert {
        name: {status: "content" in answer for status, answer in one["responses"].items()}
        for name, one in found.items()
        if name in _ANSWERS
    } == {name: dict.fromkeys(statuses, True) for name, statuses in _ANSWERS.items()}
    for one in found.values():
        assert one["tags"] == ["tasks"]
        assert one["description"]
    for name in ("cancel_task", "run_task_again"):
        marker = found[name]["parameters"][-1]
        assert (marker["name"], marker["in"], marker["required"]) == (
            "X-Requested-With",
            "header",
            True,
        )
    problem = found["get_task"]["responses"]["404"]["content"]["application/json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}


_ANSWERS = {
    "list_tasks": ["200", "422", "503"],
    "get_task_stats": ["200", "503"],
    "get_task": ["200", "404", "422", "503"],
    "cancel_task": ["200", "403", "404", "422", "503"],
    "run_task_again": ["202", "403", "404", "409", "422", "503"],
}


def test_names_of_several_routers() -> None:
    """With several routers in an app, each operation has a name of its own."""
    app = made()
    app.include_router(task_router(prefix="/admin/tasks"))
    v2 = APIRouter(prefix="/v2")
    app.include_router(task_router(prefix=""), prefix="/jobs")
    v2.include_router(task_router())
    app.include_router(v2)
    found = operations(app)
    for name in _ANSWERS:
        assert {name, f"admin_{name}", f"jobs_{name}", f"v2_{name}"} <= found.keys()


def test_a_router_that_openapi_does_not_show() -> None:
    """The routes may be left out of the schema."""
    assert operations(made(include_in_schema=False)) == {}


# -- bad parameters


def current_user(request: Request) -> str:
    """Stand for a dependency."""
    return str(request.url)


BAD_PARAMETERS: list[Refusal] = [
    ({"prefix": "tasks"}, ValueError, "prefix must be '' or begin with '/'.*"),
    ({"prefix": 1}, TypeError, "prefix must be a string, not 1"),
    ({"expose_errors": 1}, TypeError, "expose_errors must be True or False, not 1"),
    ({"include_in_schema": 0}, TypeError, "include_in_schema must be True or False, not 0"),
    (
        {"dependencies": Depends(let_in)},
        TypeError,
        r"dependencies must be a list such as \[Depends\(require_login\)\], not Depends.*",
    ),
    (
        {"dependencies": [current_user]},
        TypeError,
        "dependencies must be a list of Depends, but <function current_user at .*",
    ),
]


def test_bad_parameters() -> None:
    """A parameter that is wrong is refused by name and value."""
    assert not_refused(task_router, BAD_PARAMETERS) == []


async def test_a_task_manager_of_ones_own(task_manager: TaskManager) -> None:
    """The routes need no lifespan where a test has made a framework."""
    task_id = await task_manager.submit(len, args=("abc",))
    await task_manager.wait(task_id)
    app = FastAPI()
    app.include_router(task_router(dependencies=LOGIN))
    assert TestClient(app).get(f"/tasks/{task_id}").json()["result"] == 3


def test_an_app_without_a_framework(caplog: pytest.LogCaptureFixture) -> None:
    """An app with the router that starts without a framework says so; in its lifespan is enough."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(app):
            yield

    told = (
        "the app has task_router(), but no task framework: each request to it fails; use FastAPI("
    )
    for own, expected in ((None, [told]), (lifespan, []), (setup_async_framework, [])):
        app = FastAPI(lifespan=own)
        app.include_router(task_router(dependencies=LOGIN))
        with TestClient(app):
            found = [line for line in caplog.messages if line.startswith("the app ")]
            assert [line[: len(told)] for line in found] == expected
        caplog.clear()
