"""Who sees which tasks over HTTP, and that nothing else leaves the app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient
from httpx import AsyncClient

from framework import (
    Task,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.others.directories import Directories
from framework._records.checks import show
from framework._records.records import TaskRecord
from framework.http import Accepted, task_router
from framework.stores.sql import SQLStore
from pytest_asyncframe.probe import Probe
from tests.framework.http.login import ASKED, LOGIN, let_in
from tests.framework.http.refused import Refusal, not_refused
from tests.patience import PATIENCE

USERS = ("ann", "bob", "carl")


def user_of(request: Request) -> str | None:
    """Return who sends a request."""
    return request.headers.get("x-user")


@background_task(name="child")
def child() -> str:
    """Do nothing."""
    return "done"


@background_task(name="parent")
def parent() -> str:
    """Submit another task."""
    return child()


def made(**options: Any) -> FastAPI:
    """Return an app that submits tasks for users, and shows each their own."""
    app = FastAPI(lifespan=setup_async_framework)
    options = {"owner": user_of, "dependencies": LOGIN, **options}
    app.include_router(task_router(**options))
    app.post("/parent")(parent)
    return app


def as_user(name: str) -> dict[str, str]:
    """Return the headers of a user's requests."""
    return {"X-User": name, **ASKED}


async def answers(client: AsyncClient, task_id: str, user: str) -> list[tuple[int, str]]:
    """Return what all routes of one task answer to a user."""
    headers = as_user(user)
    found = [
        await client.get(f"/tasks/{task_id}", headers=headers),
        await client.get(f"/tasks/{task_id}?wait=60", headers=headers),
        await client.get(f"/tasks/{task_id}/events", headers=headers),
        await client.get(f"/tasks/dashboard/details/{task_id}", headers=headers),
        await client.post(f"/tasks/{task_id}/run-again", headers=headers),
        await client.delete(f"/tasks/{task_id}", headers=headers),
    ]
    return [(one.status_code, one.text) for one in found]


async def totals(client: AsyncClient, user: str) -> tuple[int, int, int]:
    """Return how many tasks the list, the stats and the page have for a user."""
    headers = as_user(user)
    listed = (await client.get("/tasks", headers=headers)).json()
    stats = (await client.get("/tasks/stats", headers=headers)).json()
    page = (await client.get("/tasks/dashboard/list", headers=headers)).json()
    assert len(listed["tasks"]) == listed["total"]
    return listed["total"], stats["submitted"], page["total"]


# -- whose tasks are seen


async def test_each_sees_their_own_tasks(asyncframe: Probe) -> None:
    """A task, and those that it submits, is seen by its owner; for others it does not exist."""
    async with asyncframe.client(made()) as client:
        started = await client.post("/parent", headers=as_user("ann"))
        parent_id = started.json()
        await asyncframe.settled()
        child_id = await asyncframe.manager.get_result(parent_id)
        assert await totals(client, "ann") == (2, 2, 2)
        assert await totals(client, "bob") == (0, 0, 0)
        for task_id in (parent_id, child_id):
            unknown = await answers(client, "unknown", "bob")
            assert await answers(client, task_id, "bob") == unknown
            assert [status for status, _ in unknown] == [404] * 6
            seen = await answers(client, task_id, "ann")
            assert [status for status, _ in seen] == [200, 200, 200, 200, 409, 200]


async def test_tasks_of_nobody(asyncframe: Probe) -> None:
    """Nobody sees a task that was submitted outside of requests, or for nobody."""
    async with asyncframe.client(made()) as client:
        ids = [child(), (await client.post("/parent")).json()]
        await asyncframe.settled()
        for task_id in ids:
            assert {status for status, _ in await answers(client, task_id, "ann")} == {404}
        assert await totals(client, "ann") == (0, 0, 0)


@pytest.mark.asyncframe(mode="threads")
def test_a_place_in_the_queue(asyncframe: Probe) -> None:
    """Users are not told how many tasks of others wait; administrators are."""
    running, gate = threading.Event(), threading.Event()

    @background_task
    def wait() -> None:
        running.set()
        gate.wait(PATIENCE)

    app = FastAPI(lifespan=setup_async_framework(max_workers=1))
    app.include_router(task_router(owner=user_of, dependencies=LOGIN))
    app.include_router(task_router(prefix="/all", dependencies=LOGIN))
    app.post("/wait")(wait)

    @app.get("/view/{task_id}")
    async def view(task_id: str) -> Task | None:
        return await get_task_manager().get_task(task_id)

    with asyncframe.client(app) as client:

        def get(path: str) -> Any:
            return client.get(path, headers=as_user("bob")).json()

        def told(prefix: str) -> list[str]:
            url = f"{prefix}/{last}"
            shown = [get(url), get(f"{url}?wait=0.001"), get(prefix)["tasks"][0]]
            shown.append(get(f"{prefix}/dashboard/list")["rows"][0])
            shown.append(get(f"{prefix}/dashboard/details/{last}")["view"])
            return [one["reason"] for one in shown]

        for user in ("ann", "ann", "ann", "bob"):
            last = client.post("/wait", headers=as_user(user)).json()
            assert running.wait(PATIENCE)
        assert told("/tasks") == ["queued"] * 5
        place, count = "queued 3rd of 3", "queued, one of 3"
        assert told("/all") == [place, place, count, count, place]
        assert get(f"/view/{last}")["reason"] == "queued"
        gate.set()


async def test_requests_of_nobody(asyncframe: Probe) -> None:
    """A request without an owner is shown nothing, also no tasks without one."""
    async with asyncframe.client(made()) as client:
        task_id = (await client.post("/parent", headers=as_user("ann"))).json()
        await asyncframe.settled()
        for one in (task_id, child()):
            assert (await client.get(f"/tasks/{one}")).status_code == 404
        await asyncframe.settled()
        assert (await client.get("/tasks")).json() == {"tasks": [], "total": 0, "next": None}
        assert set((await client.get("/tasks/stats")).json().values()) == {0}


async def test_a_list_is_filtered_after_the_owner(asyncframe: Probe) -> None:
    """No filter of the list finds another owner's tasks."""
    async with asyncframe.client(made()) as client:
        for user in ("ann", "bob", "bob"):
            await client.post("/parent", headers=as_user(user))
        await asyncframe.settled()
        for query in ("", "?name=parent&name=child", "?search=a", "?status=completed", "?offset=1"):
            shown = (await client.get(f"/tasks{query}", headers=as_user("ann"))).json()
            assert shown["total"] <= 2, query
        both = (await client.get("/tasks?limit=1", headers=as_user("bob"))).json()
        assert both["total"] == 4
        rest = await client.get(f"/tasks?after={both['next']}", headers=as_user("ann"))
        assert rest.json()["total"] == 2


async def test_a_repeated_task_stays_with_its_owner(asyncframe: Probe) -> None:
    """A task that an administrator runs again belongs to the owner of the first one."""
    app = made()
    app.include_router(task_router(prefix="/admin", dependencies=LOGIN))

    @app.post("/failing")
    @background_task(name="failing")
    def failing() -> None:
        raise LookupError

    async with asyncframe.client(app) as client:
        asyncframe.expect_failure(failing, LookupError, times=2)
        task_id = (await client.post("/failing", headers=as_user("ann"))).json()
        await asyncframe.settled()
        again = await client.post(f"/admin/{task_id}/run-again", headers=as_user("root"))
        await asyncframe.settled()
        new_id = again.json()["task_id"]
        assert again.headers["location"] == f"/admin/{new_id}"
        assert (await client.get("/admin", headers=as_user("root"))).json()["total"] == 2
        shown = await client.get(f"/tasks/{new_id}", headers=as_user("ann"))
        assert shown.json()["run_again_of"] == task_id


def test_what_a_request_leaves_running(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that a user's request has started submits for nobody, and not for that user."""
    app = made()
    submitted: list[str] = []

    async def work() -> None:
        while (user := await app.state.queue.get()) is not None:
            submitted.append(child.options(owner=user)() if user == "carl" else child())

    @app.post("/order")
    async def order(request: Request) -> str:
        if not hasattr(app.state, "queue"):
            app.state.queue = asyncio.Queue()
            app.state.worker = asyncio.create_task(work())
        await app.state.queue.put(user_of(request))
        return child()

    @app.post("/wait")
    async def wait() -> None:
        await app.state.queue.put(None)
        await app.state.worker

    with TestClient(app) as client:
        own = [client.post("/order", headers=as_user(user)).json() for user in USERS]
        client.post("/wait", headers=as_user("ann"))
        lists = {user: client.get("/tasks", headers=as_user(user)) for user in USERS}
    found = {user: {task["task_id"] for task in one.json()["tasks"]} for user, one in lists.items()}
    # The first was submitted while its request still ran, or after it.
    assert found["bob"] == {own[1]}
    assert found["carl"] == {own[2], submitted[2]}
    assert found["ann"] - {submitted[0]} == {own[0]}
    assert "a task has no owner, since it was submitted by code that a request" in caplog.text


def test_a_websocket_has_an_owner() -> None:
    """A task of a WebSocket belongs to the owner of the GET request that has opened it."""

    def owner(request: Request) -> str:
        session = request.cookies.get("session", "")
        return f"{user_of(request)} {request.method} {session} {request.state.city}"

    def find_city(socket: WebSocket) -> None:
        socket.state.city = socket.query_params["city"]

    app = made(owner=owner)

    @app.websocket("/ws", dependencies=[Depends(find_city)])
    async def submit(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(child())
        await socket.close()

    with TestClient(app) as client:
        headers = {"X-User": "ann", "Cookie": "session=7"}
        with client.websocket_connect("/ws?city=Bonn", headers=headers) as socket:
            task_id = socket.receive_text()
        assert [*app.state.task_manager.get_all_tasks(owner="ann GET 7 Bonn")] == [task_id]


def test_an_owner_from_a_dependency(caplog: pytest.LogCaptureFixture) -> None:
    """The function returns what a dependency found out; where it is missing, the log says so."""

    def log_in(request: Request) -> None:
        if "x-user" not in request.headers:
            raise HTTPException(401)
        request.state.user = request.headers["x-user"]

    def owner(request: Request) -> str | None:
        return getattr(request.state, "user", None)

    app = made(owner=owner, dependencies=[Depends(log_in)])
    app.post("/mine", dependencies=[Depends(log_in)])(child)
    app.post("/mine/accepted", response_model=Accepted[str], dependencies=[Depends(log_in)])(child)
    app.post("/forgotten", response_model=Accepted[str])(child)
    with TestClient(app) as client:
        task_id = client.post("/mine", headers=as_user("ann")).json()
        public = client.post("/parent", headers=as_user("ann")).json()
        shown = [
            client.get(f"/tasks/{task_id}", headers=as_user("ann")),
            client.get(f"/tasks/{task_id}", headers=as_user("bob")),
            client.get(f"/tasks/{task_id}"),
            client.get(f"/tasks/{public}", headers=as_user("ann")),
        ]
        for path in ("/mine/accepted", "/forgotten", "/forgotten"):
            assert client.post(path, headers=as_user("ann")).status_code == 202
    assert [one.status_code for one in shown] == [200, 404, 401, 404]
    cure = (
        "to everybody: the function owner returned None for this request; give the route the same "
        "login dependency as task_router(), or the task an owner, as in "
        "make_report.options(owner=user)(...)"
    )
    begun = "the task that it has started has no owner, so its"
    assert [one for one in caplog.messages if "has no owner" in one] == [
        f"POST /parent: {begun} id is unknown {cure}",
        f"POST /forgotten: {begun} Location answers 404 {cure}",
    ]


async def sent_by(x_user: Annotated[str | None, Header()] = None) -> AsyncIterator[str]:
    """Find out who sends a request, and refuse strangers; an owner as FastAPI has it."""
    if x_user is None:
        raise HTTPException(401)
    yield x_user


def served(user: Annotated[str, Depends(sent_by)]) -> str:
    """Depend on the owner by another dependency."""
    return user


def as_dependency() -> FastAPI:
    """Return an app whose routes depend on the owner in several ways, and some that do not."""
    app = made(owner=Depends(sent_by), dependencies=[])
    own, below = [Depends(sent_by)], FastAPI()
    app.post("/own", dependencies=own)(child)
    app.post("/deep", response_model=Accepted[str], dependencies=[Depends(served)])(child)
    router = APIRouter(prefix="/router")
    router.post("/sub")(child)
    app.include_router(router, dependencies=own)
    shared = APIRouter()
    shared.post("/shared")(child)
    app.include_router(shared, prefix="/in", dependencies=own)
    app.include_router(shared, prefix="/out")
    below.post("/sub", dependencies=own)(child)
    app.mount("/mounted", below)
    app.post("/public", response_model=Accepted[str])(child)
    app.include_router(task_router(prefix="/more", owner=Depends(sent_by)))

    @app.middleware("http")
    async def copied(request: Request, go_on: Any) -> Any:
        return await go_on(Request(dict(request.scope), request.receive))

    return app


def test_an_owner_that_is_a_dependency(caplog: pytest.LogCaptureFixture) -> None:
    """A dependency of FastAPI says whose tasks a route submits that depends on it, and refuses.

    Another route stays as it is, and so does one whose router is also included without the
    dependency: its tasks are of nobody, which the log says once.
    """
    app = as_dependency()
    found = {}
    for _ in range(2):  # a lifespan may begin again
        with TestClient(app) as client:
            for path in (
                "/own",
                "/deep",
                "/router/sub",
                "/mounted/sub",
                "/public",
                "/parent",
                "/out/shared",
            ):
                answer = client.post(path, headers=as_user("ann"))
                task_id = answer.headers.get("location", answer.json()).rpartition("/")[2]
                shown = [
                    client.get(f"{prefix}/{task_id}", headers=as_user(user)).status_code
                    for prefix in ("/tasks", "/more")
                    for user in ("ann", "bob")
                ]
                found[path] = (client.post(path).status_code, shown)
            unknown = client.get("/tasks").status_code, client.get("/more/stats").status_code
            app.dependency_overrides[sent_by] = lambda: "carl"
            client.post("/own")
            total = client.get("/tasks").json()["total"]
            app.dependency_overrides.clear()
    own, foreign = [200, 404] * 2, [404] * 4
    assert found == {
        **dict.fromkeys(("/own", "/deep", "/router/sub", "/mounted/sub"), (401, own)),
        "/public": (202, foreign),
        "/parent": (200, foreign),
        "/out/shared": (200, foreign),
    }
    assert (unknown, total) == ((401, 401), 1)
    cure = (
        "to everybody: the route does not depend on sent_by, or that returned None; give the route "
        "dependencies=[Depends(sent_by)], or the task an owner, as in "
        "make_report.options(owner=user)(...)"
    )
    begun = "the task that it has started has no owner, so its"
    told = [one for one in caplog.messages if "has no owner" in one]
    # Older versions of FastAPI copy the routes of a router, with its prefix.
    assert {one.replace("/out/shared", "/shared") for one in told} == {
        f"POST /public: {begun} Location answers 404 {cure}",
        f"POST /parent: {begun} id is unknown {cure}",
        f"POST /shared: {begun} id is unknown {cure}",
    }
    assert "dependencies, so everybody" not in caplog.text


async def test_an_awaited_task_has_an_owner(asyncframe: Probe) -> None:
    """A task that a route awaits belongs to the request, in a thread too."""
    app = made()

    @async_task
    def work() -> str:
        task = current_task()
        assert task is not None
        return str(task.owner)

    @app.get("/sync")
    async def with_thread() -> str:
        return await work()

    @app.get("/thread")
    def in_thread() -> str:
        return child()

    async with asyncframe.client(app) as client:
        assert (await client.get("/sync", headers=as_user("ann"))).json() == "ann"
        task_id = (await client.get("/thread", headers=as_user("ann"))).json()
        await asyncframe.settled()
        assert (await client.get(f"/tasks/{task_id}", headers=as_user("ann"))).status_code == 200


# -- the function


class AsyncOwner:
    """An object that is called and awaited."""

    async def __call__(self, request: Request) -> str:
        """Return a name."""
        return str(request)


async def async_owner(request: Request) -> str:
    """Return a name, later."""
    return str(request)


def with_default(request: Request, user: str = Depends(let_in)) -> str:
    """Return a name, from a dependency."""
    return f"{user} {request}"


def annotated(user: Annotated[str, Depends(let_in)]) -> str:
    """Return a name, from a dependency without a default."""
    return user


def two_arguments(request: Request, user: str) -> str:
    """Return a name, of two arguments."""
    return f"{user} {request}"


def let_in_as_number() -> int:
    """Return a number."""
    return 7


def let_in_perhaps() -> APIRouter | None:
    """Return what stands for a user."""
    return None


def refused(owner: Any, message: str) -> Refusal:
    """Return how a function is refused."""
    return {"owner": owner}, TypeError, message


REFUSED = [
    refused("ann", r"owner must be a function of a request, Depends\(\.\.\.\) or None, not 'ann'"),
    refused(Depends(), r"owner must be Depends\(\.\.\.\) of a function, not Depends\(\)"),
    refused(
        Depends(let_in_as_number),
        r"owner must be a dependency that returns a string or None, .*, which returns str\(user\)",
    ),
    refused(
        Depends(let_in_perhaps),
        r"owner must be a dependency that returns .* let_in_perhaps returns APIRouter: use another "
        r"one, .*, which returns str\(user\.id\)",
    ),
    refused(
        Annotated[str, Depends(let_in)],
        r"owner must be Depends\(\.\.\.\) itself, not typing\.Annotated.*: use "
        r"owner=Depends\(let_in\)",
    ),
    refused(async_owner, "owner must be a plain function, not the async <function async_owner.*"),
    refused(AsyncOwner(), "owner must be a plain function, not the async <.*AsyncOwner object.*"),
    refused(partial(async_owner), r"owner must be a plain function, not the async functools\.p.*"),
    refused(with_default, "owner cannot have Depends, as <function with_default at .*"),
    refused(annotated, "owner cannot have Depends, as <function annotated at .*"),
    refused(two_arguments, "owner must take one argument, the request, not as <function two_.*"),
    refused(let_in, "owner must take one argument, the request, not as <function let_in at .*"),
]


def test_functions_that_are_refused() -> None:
    """A function that cannot be called with a request alone is refused, with what to do instead."""
    assert not_refused(task_router, REFUSED) == []


WANTED = "what owner returns must be a string of 1 to 255 printable characters, or None for nobody"
TEXT = "use the user's id, or a hash of this text"
ANSWERS: list[tuple[Any, str]] = [
    (5, f"{WANTED}, not 5: use an id as a string, such as str(user.id)"),
    (object(), f"{WANTED}, not of type object: use an id as a string, such as str(user.id)"),
    (b"ann", f"{WANTED}, not b'ann': use an id as a string, such as str(user.id)"),
    ("", f"{WANTED}, not ''"),
    ("a\nb", rf"{WANTED}, not 'a\nb' (3 characters): {TEXT}"),
    ("x" * 256, f"{WANTED}, not {show('x' * 256)} (256 characters): {TEXT}"),
]


def test_answers_that_are_refused() -> None:
    """What cannot be an owner is an error where it is asked for, so that nothing is shown."""
    found = []
    for owner, _ in ANSWERS:
        app = made(owner=lambda _, owner=owner: owner)
        with TestClient(app, raise_server_exceptions=False) as client:
            answered = client.get("/tasks"), client.get("/tasks/unknown"), client.post("/parent")
            submitted = app.state.task_manager.get_stats()["submitted"]
        with TestClient(app) as client, pytest.raises((TypeError, ValueError)) as caught:
            client.get("/tasks")
        found.append(([one.status_code for one in answered], submitted, str(caught.value)))
    assert found == [([500] * 3, 0, said) for _, said in ANSWERS]


def test_an_owner_that_refuses() -> None:
    """The function may refuse a request as a dependency does."""

    def owner(request: Request) -> str:
        raise HTTPException(401, "Who are you?")

    with TestClient(made(owner=owner)) as client:
        for answer in (client.get("/tasks"), client.get("/tasks/1"), client.post("/parent")):
            assert (answer.status_code, answer.json()) == (401, {"detail": "Who are you?"})


def beside_each_other(*routers: APIRouter) -> FastAPI:
    """Return an app that includes several routers."""
    app = FastAPI(lifespan=setup_async_framework)
    for router in routers:
        app.include_router(router)
    return app


def below_each_other(*routers: APIRouter) -> FastAPI:
    """Return an app that mounts an app for each router."""
    app = FastAPI(lifespan=setup_async_framework)
    for number, router in enumerate(routers):
        app.mount(f"/{number}", beside_each_other(router))
    return app


@pytest.mark.parametrize("together", [beside_each_other, below_each_other])
def test_two_functions_in_one_app(together: Callable[..., FastAPI]) -> None:
    """A task has one owner, so routers of one framework with different functions do not start."""
    other = task_router(prefix="/more", owner=lambda _: "all", dependencies=LOGIN)
    app = together(task_router(owner=user_of, dependencies=LOGIN), other)
    said = (
        "the task routers of this app, and of the apps that are mounted in it, have different "
        "functions as owner, but a task has one owner: use the same function for all of them, "
        r"not also <function \S+\.<lambda> at \w+>"
    )
    with pytest.raises(ValueError, match=f"^{said}$"), TestClient(app):
        pass


def test_two_functions_in_two_frameworks() -> None:
    """A mounted app with a framework of its own, set up before the other, has its own function."""
    inner = made(owner=lambda _: "all")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(inner), setup_async_framework(app):
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/inner", inner)
    app.include_router(task_router(owner=user_of, dependencies=LOGIN))
    app.post("/parent")(parent)
    with TestClient(app) as client:
        for prefix, seen_by_bob in (("", 404), ("/inner", 200)):
            task_id = client.post(f"{prefix}/parent", headers=as_user("ann")).json()
            answer = client.get(f"{prefix}/tasks/{task_id}", headers=as_user("bob"))
            assert answer.status_code == seen_by_bob


def test_one_function_in_two_routers() -> None:
    """Two routers of an app may have the same function."""
    app = made()
    app.include_router(task_router(prefix="/more", owner=user_of, dependencies=LOGIN))
    with TestClient(app) as client:
        task_id = client.post("/parent", headers=as_user("ann")).json()
        assert client.get(f"/more/{task_id}", headers=as_user("ann")).status_code == 200
        assert client.get(f"/more/{task_id}", headers=as_user("bob")).status_code == 404


async def test_apps_with_functions_of_their_own(asyncframe: Probe) -> None:
    """Two apps of one test, which share a framework, each have a function."""
    first, second = made(), made(owner=lambda _: "all")
    async with asyncframe.client(first) as one, asyncframe.client(second) as other:
        mine = (await one.post("/parent", headers=as_user("ann"))).json()
        theirs = (await other.post("/parent", headers=as_user("ann"))).json()
        await asyncframe.settled()
        owners = [await asyncframe.manager.get_task(task_id) for task_id in (mine, theirs)]
    assert [task and task.owner for task in owners] == ["ann", "all"]


async def test_a_framework_without_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """A framework that does not know the app sees no requests, so tasks are of nobody."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(None):
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(task_router(owner=user_of, dependencies=LOGIN))
    app.post("/parent")(parent)
    with TestClient(app) as client:
        for _ in range(2):
            task_id = client.post("/parent", headers=as_user("ann")).json()
            answer = client.get(f"/tasks/{task_id}", headers=as_user("ann"))
            assert answer.status_code == 404
    said = [one for one in caplog.messages if one.startswith("tasks that were submitted until now")]
    assert len(said) == 1


def test_a_router_in_a_mounted_app(caplog: pytest.LogCaptureFixture) -> None:
    """The function of a mounted app's router is asked from the first submission on."""
    app, inner = FastAPI(lifespan=setup_async_framework), made()
    app.mount("/inner", inner)
    with TestClient(app) as client:
        task_id = client.post("/inner/parent", headers=as_user("ann")).json()
        assert client.get(f"/inner/tasks/{task_id}", headers=as_user("ann")).status_code == 200
        assert client.get(f"/inner/tasks/{task_id}", headers=as_user("bob")).status_code == 404
    assert "no owner" not in caplog.text


# -- the same time


class Counted(Directories):
    """Counts the queries for tasks."""

    queries = 0

    def fetch(self, task_ids: set[str]) -> tuple[dict[str, TaskRecord], Exception | None]:
        """Count it."""
        Counted.queries += 1
        return super().fetch(task_ids)


def test_a_foreign_task_is_looked_for_as_an_unknown_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store gets the same queries for a task of somebody else as for an unknown one."""
    store = SQLStore(f"sqlite:///{tmp_path}/tasks.db")
    app = FastAPI(lifespan=setup_async_framework(store=store))
    app.include_router(task_router(owner=user_of, dependencies=LOGIN))
    app.post("/parent")(parent)
    monkeypatch.setattr("framework._manager.others.other_processes.Directories", Counted)
    with TestClient(app) as client:
        own = client.post("/parent", headers=as_user("ann")).json()
        shown = client.get(f"/tasks/{own}?wait=60", headers=as_user("ann")).json()
        assert shown["status"] == "completed"

        def queries(task_id: str) -> int:
            Counted.queries = 0
            headers = as_user("bob")
            assert client.get(f"/tasks/{task_id}?wait=60", headers=headers).status_code == 404
            assert client.delete(f"/tasks/{task_id}", headers=headers).status_code == 404
            return Counted.queries

        assert queries(own) == queries(shown["result"]) == queries("0" * 32) > 0
