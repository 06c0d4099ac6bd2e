"""What the log says at start about how the routes of tasks are mounted."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route
from starlette.types import Scope

from framework import setup_async_framework
from framework._manager.hosting.role import ROLE, WorkerRole
from framework.http import task_router
from tests.framework.http.login import LOGIN

OPEN = "so everybody who reaches the app can see and cancel tasks"


async def show() -> str:
    """Stand for a route of the app's own."""
    return "own"


def said(app: FastAPI, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is logged of the routes when an app starts."""
    caplog.clear()
    with TestClient(app):
        return [one for one in caplog.messages if OPEN in one or "task_router()" in one]


def made(app: FastAPI | None = None, **options: Any) -> FastAPI:
    """Return an app with the routes of tasks."""
    app = FastAPI(lifespan=setup_async_framework) if app is None else app
    app.include_router(task_router(**options))
    return app


# -- who may use them


def test_routes_that_are_open(caplog: pytest.LogCaptureFixture) -> None:
    """Routes without dependencies are told once at start; an owner alone does not change that."""
    line = (
        "/tasks has no dependencies, so everybody who reaches the app can see and cancel tasks: "
        "use task_router(dependencies=[Depends(...)]) with a function that refuses strangers"
    )
    assert said(made(), caplog) == [line]
    assert said(made(owner=lambda _: "ann"), caplog) == [line]


def test_routes_that_nobody_reaches(caplog: pytest.LogCaptureFixture) -> None:
    """A worker process, which serves no requests, is told of no mistakes in its routes."""
    context = copy_context()
    context.run(ROLE.set, WorkerRole())
    assert context.run(said, made(), caplog) == []


def closed_by_the_router() -> FastAPI:
    """Return an app whose routes of tasks have dependencies."""
    return made(dependencies=LOGIN)


def closed_by_the_inclusion() -> FastAPI:
    """Return an app that includes the router with dependencies."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(), dependencies=LOGIN)
    return app


def closed_by_the_app() -> FastAPI:
    """Return an app all of whose routes have dependencies."""
    return made(FastAPI(lifespan=setup_async_framework, dependencies=LOGIN))


def closed_by_a_router() -> FastAPI:
    """Return an app with the routes in a router that has dependencies."""
    app, outer = FastAPI(lifespan=setup_async_framework), APIRouter(prefix="/v1")
    outer.include_router(task_router())
    app.include_router(outer, dependencies=LOGIN)
    return app


def test_routes_that_are_not_open(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is told if dependencies come from the app, a router or the inclusion."""
    apps = (closed_by_the_router, closed_by_the_inclusion, closed_by_the_app, closed_by_a_router)
    assert {app.__name__: said(app(), caplog) for app in apps} == {app.__name__: [] for app in apps}


def test_each_router_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Each router without dependencies is told by its path."""
    app, outer = made(prefix="/a", dependencies=LOGIN), APIRouter(prefix="/v1")
    outer.include_router(task_router(prefix="/b"))
    app.include_router(outer)
    made(app, prefix="/c")
    assert [one.partition(" ")[0] for one in said(app, caplog)] == ["/v1/b", "/c"]


# -- routes that are hidden


HIDDEN = {
    "/tasks": ["GET /tasks"],
    "/tasks/stats": ["GET /tasks/stats"],
    "/tasks/{name}/events": ["GET /tasks/{task_id}/events"],
    "/tasks/mine": [],
    "/other/{task_id}": [],
}
"""Routes of the app's own, and what each of them hides if it comes first."""


def test_a_route_that_was_there_before(caplog: pytest.LogCaptureFixture) -> None:
    """An earlier route of the app answers instead, and its path is told."""
    found, expected = {}, {}
    for path, hidden in HIDDEN.items():
        app = FastAPI(lifespan=setup_async_framework)
        app.get(path)(show)
        made(app, dependencies=LOGIN)
        lines = said(app, caplog)
        with TestClient(app) as client:
            found[path] = (lines, client.get(path.replace("{name}", "1")).json())
        told = f"is answered by a route of yours, {path}, since it was added before task_router()"
        expected[path] = ([f"{one} {told}" for one in hidden], "own")
    assert found == expected


def test_a_route_that_hides_several(caplog: pytest.LogCaptureFixture) -> None:
    """An earlier route with a parameter hides all routes that it matches, of its methods."""
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/tasks/{anything}")(show)
    made(app, dependencies=LOGIN)
    hidden = [one.partition(" is answered")[0] for one in said(app, caplog)]
    assert hidden == ["GET /tasks/dashboard", "GET /tasks/stats", "GET /tasks/{task_id}"]


def test_a_mount_that_hides_all(caplog: pytest.LogCaptureFixture) -> None:
    """An earlier mount, such as one of static files, hides what is below it."""
    app = FastAPI(lifespan=setup_async_framework)
    app.mount("/", Starlette())
    made(app, dependencies=LOGIN)
    assert any(one.startswith("DELETE /tasks/{task_id} is answered") for one in said(app, caplog))


class Picky(Route):
    """A route that needs more of a request than its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Look at the server's name."""
        assert scope["server"]
        return super().matches(scope)


def test_a_route_of_another_class(caplog: pytest.LogCaptureFixture) -> None:
    """A route that cannot say whether it matches a path keeps no app from starting."""
    app = FastAPI(lifespan=setup_async_framework)
    app.router.routes.append(Picky("/tasks", PlainTextResponse("own")))
    made(app, dependencies=LOGIN)
    assert said(app, caplog) == []


def test_routes_that_come_later(caplog: pytest.LogCaptureFixture) -> None:
    """A route that is added after the router, or has another method, hides nothing."""
    app = FastAPI(lifespan=setup_async_framework)
    app.post("/tasks")(show)
    made(app, dependencies=LOGIN)
    app.get("/tasks/{anything}")(show)
    app.mount("/", Starlette())
    assert said(app, caplog) == []
    with TestClient(app) as client:
        assert client.get("/tasks").json()["total"] == 0
        assert client.post("/tasks").json() == "own"
