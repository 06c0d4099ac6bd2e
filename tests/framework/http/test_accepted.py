"""Routes whose return type is Accepted: what they answer, and what OpenAPI says of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host, Mount

from framework import (
    QueueFullError,
    Task,
    TaskId,
    TaskStatus,
    get_task_manager,
    setup_async_framework,
)
from framework.http import Accepted, TaskView, task_router
from pytest_asyncframe.probe import Probe
from tests.framework.http.reports import Report, make_report


def made(*routers: APIRouter) -> FastAPI:
    """Return an app with a framework, the routes of tasks, and some routers before them."""
    app = FastAPI(lifespan=setup_async_framework)
    for router in routers:
        app.include_router(router)
    app.include_router(task_router())
    return app


# -- what the routes return


def _from_a_coroutine() -> Any:
    async def create(title: str) -> Accepted[Report]:
        return make_report(title)

    return create


def _from_a_thread() -> Any:
    def create(title: str) -> Accepted[Report]:
        return make_report(title)

    return create


def _awaited() -> Any:
    async def create(title: str) -> Accepted[Report]:
        return await get_task_manager().submit(make_report, (title,))

    return create


def _accepted() -> Any:
    async def create(title: str) -> Accepted[Report]:
        return Accepted(make_report(title))

    return create


def _a_task() -> Any:
    async def create(title: str) -> Accepted[Report]:
        task = await get_task_manager().get_task(make_report(title))
        assert isinstance(task, Task)
        return task

    return create


def _annotated() -> Any:
    async def create(title: str) -> Annotated[Accepted[Report], "a note"]:
        return make_report(title)

    return create


def _without_a_type() -> Any:
    async def create(title: str) -> Accepted:  # type: ignore[type-arg]  # a user may leave it out
        return make_report(title)

    return create


FORMS = (
    _from_a_coroutine,
    _from_a_thread,
    _awaited,
    _accepted,
    _a_task,
    _annotated,
    _without_a_type,
)


async def test_a_route_answers_202(asyncframe: Probe) -> None:
    """Whatever form the id has, the answer is 202 with the URL of the task's status."""
    found, expected = {}, {}
    for form in FORMS:
        router = APIRouter()
        router.post("/reports")(form())
        async with asyncframe.client(made(router)) as client:
            response = await client.post("/reports", params={"title": "Q3"})
            task = await asyncframe.completed(response)
            shown = await client.get(response.headers["location"])
        body, url = response.json(), f"/tasks/{task.task_id}"
        found[form.__name__] = (
            *(response.status_code, response.headers["location"], response.headers["retry-after"]),
            *(body["task_id"], body["status"], body["status_url"], shown.json()["result"]),
        )
        expected[form.__name__] = (
            *(202, url, "1"),
            *(task.task_id, "pending", url, {"title": "Q3"}),
        )
    assert found == expected


async def test_a_response_of_its_own(asyncframe: Probe) -> None:
    """A complete response that a route returns is passed on as it is."""
    router = APIRouter()

    @router.post("/reports")
    async def create(title: str) -> Accepted[Report]:
        return Response(title, 418)  # type: ignore[return-value]  # FastAPI allows it everywhere

    async with asyncframe.client(made(router)) as client:
        response = await client.post("/reports", params={"title": "Q3"})
    assert (response.status_code, response.text) == (418, "Q3")
    assert "location" not in response.headers


async def test_headers_of_the_route(asyncframe: Probe) -> None:
    """Headers and cookies that a route sets are kept, and its Location wins over ours."""
    router = APIRouter()

    @router.post("/reports")
    async def create(title: str, response: Response) -> Accepted[Report]:
        response.headers["Location"] = "/elsewhere"
        response.set_cookie("seen", "yes")
        return make_report(title)

    async with asyncframe.client(made(router)) as client:
        response = await client.post("/reports", params={"title": "Q3"})
        await asyncframe.completed(response)
    assert response.headers["location"] == "/elsewhere"
    assert response.headers["set-cookie"].startswith("seen=yes")
    assert response.headers["retry-after"] == "1"


async def test_something_else(asyncframe: Probe) -> None:
    """A route that returns no task is told what it must return, and of a forgotten await."""
    router = APIRouter()

    @router.post("/reports")
    async def create(title: str) -> Accepted[Report]:
        return Report(title=title)  # type: ignore[return-value]  # the mistake

    @router.post("/later")
    async def forget() -> Accepted[int]:
        return get_task_manager().submit(int)  # type: ignore[return-value]  # the mistake

    told = "must return the id of a task, or a Task, as its annotation Accepted says, not a value"
    async with asyncframe.client(made(router)) as client:
        with pytest.raises(TypeError, match=rf"^POST /reports {told} of type Report$"):
            await client.post("/reports", params={"title": "Q3"})
        awaited = rf"^POST /later {told} of type coroutine: write 'await submit\(\.\.\.\)'$"
        with pytest.raises(TypeError, match=awaited):
            await client.post("/later")


async def test_an_unknown_id(asyncframe: Probe) -> None:
    """A route that returns the id of no task answers 404."""
    router = APIRouter()

    @router.post("/reports")
    async def create(title: str) -> Accepted[Report]:
        return Accepted(title)

    async with asyncframe.client(made(router)) as client:
        response = await client.post("/reports", params={"title": "Q3"})
    assert response.status_code == 404


def test_a_wrong_value_in_accepted() -> None:
    """Accepted refuses what is no id."""
    with pytest.raises(
        TypeError,
        match=r"^Accepted needs the id of a task, or a Task, as in Accepted\(make_report\("
        r"title\)\), not a value of type int$",
    ):
        Accepted(7)  # type: ignore[call-overload]  # the mistake


async def test_a_delayed_task(asyncframe: Probe) -> None:
    """Of a delayed task the client is told when it starts, if that is within a minute."""
    router = APIRouter()

    @router.post("/reports/{delay}")
    async def create(title: str, delay: float) -> Accepted[Report]:
        return make_report.options(delay=delay)(title)

    async with asyncframe.client(made(router)) as client:
        pauses = []
        for delay in (0.5, 20, 7_200):
            response = await client.post(f"/reports/{delay}", params={"title": "Q3"})
            pauses.append(response.headers["retry-after"])
            await asyncframe.completed(response)
    assert pauses == ["1", "20", "60"]


async def test_a_full_queue(asyncframe: Probe) -> None:
    """A full queue is answered with 503 and the time to try again."""
    router = APIRouter()

    @router.post("/reports")
    async def create(title: str) -> Accepted[Report]:
        raise QueueFullError(1, 3)

    async with asyncframe.client(made(router)) as client:
        response = await client.post("/reports", params={"title": "Q3"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert response.json() == {"detail": "Task queue is full"}


# -- how routes are registered


def _by_model(app: FastAPI) -> None:
    async def create(title: str) -> str:
        return make_report(title)

    app.post("/reports", response_model=Accepted[Report])(create)


def _by_method(app: FastAPI) -> None:
    app.add_api_route("/reports", _from_a_coroutine(), methods=["POST"])


def _task_itself(app: FastAPI) -> None:
    app.post("/reports", response_model=Accepted[Report])(make_report)


class OwnRoute(APIRoute):
    """A user's class of routes."""

    def get_route_handler(self) -> Any:
        """Return a handler that marks its responses."""
        handler = super().get_route_handler()

        async def marked(request: Any) -> Response:
            response = await handler(request)
            response.headers["X-Own"] = "yes"
            return response

        return marked


def _by_class(app: FastAPI) -> None:
    router = APIRouter(route_class=OwnRoute)
    router.post("/reports")(_from_a_coroutine())
    app.include_router(router)


def _without_a_model(app: FastAPI) -> None:
    app.post("/reports", response_model=None)(_from_a_coroutine())


async def test_ways_to_register(asyncframe: Probe) -> None:
    """A route is an accepting one however it is registered."""
    found, expected = {}, {}
    for register in (_by_model, _by_method, _task_itself, _without_a_model, _by_class):
        app = made()
        register(app)
        async with asyncframe.client(app) as client:
            response = await client.post("/reports", params={"title": "Q3"})
            task = await asyncframe.completed(response)
        described = app.openapi()["paths"]["/reports"]["post"]["responses"]
        name = register.__name__
        found[name] = (response.status_code, response.headers["location"], "202" in described)
        expected[name] = (202, f"/tasks/{task.task_id}", True)
    assert found == expected
    assert response.headers["x-own"] == "yes"


async def test_a_status_of_its_own(asyncframe: Probe) -> None:
    """A status that a route is given stays as it is, in OpenAPI as well."""
    app = made()
    app.post("/reports", status_code=201)(_from_a_coroutine())
    async with asyncframe.client(app) as client:
        response = await client.post("/reports", params={"title": "Q3"})
        await asyncframe.completed(response)
    assert response.status_code == 201
    assert response.headers["location"].startswith("/tasks/")
    described = app.openapi()["paths"]["/reports"]["post"]["responses"]
    assert described.keys() == {"201", "422", "503"}
    assert "Location" in described["201"]["headers"]


async def test_a_response_model_of_its_own(asyncframe: Probe) -> None:
    """Where response_model says something else, the annotation means nothing, as in FastAPI."""
    app = made()
    app.post("/reports", response_model=str)(_from_a_coroutine())
    async with asyncframe.client(app) as client:
        response = await client.post("/reports", params={"title": "Q3"})
        await asyncframe.completed(response.json())
    assert response.status_code == 200
    assert response.headers.keys() == {"content-length", "content-type"}


def test_other_apps_and_routes() -> None:
    """Only routes that return Accepted change, and only in apps that have a task_router."""

    async def plain(title: str) -> TaskId[Report]:
        return make_report(title)

    accepting, apps = _from_a_coroutine(), []
    for has_router in (True, False, True):  # before and after an app that has none
        app = FastAPI()
        app.post("/reports")(accepting)
        app.post("/plain")(plain)
        if has_router:
            app.include_router(task_router())
        apps.append((has_router, app))
    for has_router, app in apps:
        paths = app.openapi()["paths"]
        described = [paths[path]["post"]["responses"] for path in ("/reports", "/plain")]
        statuses = {"202", "422", "503"} if has_router else {"200", "422"}
        assert [one.keys() for one in described] == [statuses, {"200", "422"}]
        routes = {one.path: one for one in app.routes if isinstance(one, APIRoute)}
        assert (routes["/reports"].endpoint is accepting) is not has_router
        assert (routes["/plain"].endpoint, routes["/plain"].dependencies) == (plain, [])
        assert ("openapi" in vars(app), len(app.user_middleware)) == (has_router, has_router)
    changed = (APIRoute.__init__, FastAPI.openapi)
    assert [one.__module__ for one in changed] == ["fastapi.routing", "fastapi.applications"]
    assert not any(hasattr(one, "__wrapped__") for one in changed)


def test_dependencies_and_responses_of_a_route() -> None:
    """What a route is given itself is kept beside what it gets."""

    async def login() -> None:
        """Let everybody pass."""

    app = FastAPI()
    app.post(
        "/reports",
        dependencies=[Depends(login)],
        responses={"202": {"description": "Soon."}, 409: {"description": "No."}},
    )(_from_a_coroutine())
    app.include_router(task_router())
    (route,) = (one for one in app.routes if getattr(one, "path", "") == "/reports")
    assert isinstance(route, APIRoute)
    assert [one.dependency for one in route.dependencies][1:] == [login]
    assert route.responses[202]["description"] == "Soon."
    assert "Location" in route.responses[202]["headers"]
    assert route.responses[409] == {"description": "No."}


# -- routes that return something else as well


async def test_a_result_or_a_task(asyncframe: Probe) -> None:
    """A route may return the result itself: that is 200, and a task is 202."""
    app = made()

    @app.post("/reports")
    async def create(title: str, response: Response) -> Report | Accepted[Report]:
        response.set_cookie("seen", "yes")
        return Report(title="known") if title == "Q2" else make_report(title)

    async with asyncframe.client(app) as client:
        known = await client.post("/reports", params={"title": "Q2"})
        accepted = await client.post("/reports", params={"title": "Q3"})
        task = await asyncframe.completed(accepted)
    assert (known.status_code, known.json()) == (200, {"title": "known"})
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/tasks/{task.task_id}"
    assert accepted.json()["task_id"] == task.task_id
    assert [one.headers["set-cookie"][:8] for one in (known, accepted)] == ["seen=yes"] * 2
    assert "location" not in known.headers
    document = app.openapi()
    responses = document["paths"]["/reports"]["post"]["responses"]
    assert responses.keys() == {"200", "202", "422", "503"}
    assert referenced(responses["200"], document, set()) == {"Report"}
    assert "Accepted_Report_" in referenced(responses["202"], document, set())


@pytest.mark.parametrize("returned", [str | Accepted[Report], Accepted[Report] | None])
async def test_texts_and_nothing(asyncframe: Probe, returned: Any) -> None:
    """Beside a task, a text is a text, and nothing is nothing."""
    app = made()

    text = returned == str | Accepted[Report]

    async def either(title: str) -> Any:
        if title == "Q3":
            return make_report(title)
        return title if text else None

    app.post("/reports", status_code=201, response_model=returned)(either)
    async with asyncframe.client(app) as client:
        other = await client.post("/reports", params={"title": "Q2"})
        accepted = await client.post("/reports", params={"title": "Q3"})
        await asyncframe.completed(accepted)
    assert (other.status_code, other.json()) == (201, "Q2" if text else None)
    assert accepted.status_code == 202


async def test_a_response_or_a_task(asyncframe: Probe) -> None:
    """Beside a task, a class of responses has no model, on either side, alone or with a result."""
    app = made()

    async def create(title: str) -> Accepted[Report] | RedirectResponse:
        return RedirectResponse("/known") if title == "Q2" else make_report(title)

    async def find(title: str) -> RedirectResponse | Accepted[Report] | Report:
        return await create(title)

    async def look(title: str) -> Report | Accepted[Report] | RedirectResponse:
        return await create(title)

    app.post("/reports")(create)
    app.post("/found")(find)
    app.post("/unchecked", response_model=None)(look)
    found, expected = {}, {}
    for path, described in (("/reports", "202"), ("/found", "200"), ("/unchecked", "200")):
        async with asyncframe.client(app) as client:
            known = await client.post(path, params={"title": "Q2"})
            accepted = await client.post(path, params={"title": "Q3"})
            task = await asyncframe.completed(accepted)
        document = app.openapi()
        responses = document["paths"][path]["post"]["responses"]
        found[path] = (
            *(known.status_code, known.headers["location"]),
            *(accepted.status_code, accepted.headers["location"]),
            *(responses.keys(), "Report" in referenced(responses[described], document, set())),
            "Accepted_Report_" in referenced(responses["202"], document, set()),
        )
        expected[path] = (
            *(307, "/known", 202, f"/tasks/{task.task_id}"),
            *({described, "202", "422", "503"}, path != "/unchecked", True),
        )
    assert found == expected


# -- tasks inside something else


class Order(BaseModel):
    """What a route of several tasks returns."""

    number: int
    report: Accepted[Report]


async def test_several_tasks(asyncframe: Probe) -> None:
    """A list of tasks has the URLs of each; the status of the response is the route's own."""
    app = made()

    @app.post("/reports", status_code=202)
    async def create(title: str) -> list[Accepted[Report]]:
        return [make_report(title), Accepted(make_report(title))]

    async with asyncframe.client(app) as client:
        response = await client.post("/reports", params={"title": "Q3"})
        accepted = response.json()
        shown = [(await client.get(one["status_url"])).json() for one in accepted]
        await asyncframe.settled()
    assert response.status_code == 202
    assert "location" not in response.headers
    assert [one["task_id"] for one in shown] == [one["task_id"] for one in accepted]
    assert len({one["task_id"] for one in accepted}) == 2
    document = app.openapi()
    responses = document["paths"]["/reports"]["post"]["responses"]
    assert "Report" in referenced(responses["202"], document, set())


async def test_a_task_in_a_model(asyncframe: Probe) -> None:
    """A model may have a task in a field, made of an id or not."""
    app = made()

    @app.post("/reports")
    def create(title: str, by_hand: bool) -> Order:
        task_id = make_report(title)
        if by_hand:
            return Order(number=7, report=Accepted(task_id))
        return Order.model_validate({"number": 7, "report": task_id})

    async with asyncframe.client(app) as client:
        for by_hand in (True, False):
            query = {"title": "Q3", "by_hand": by_hand}
            body = (await client.post("/reports", params=query)).json()
            task = await asyncframe.completed(body["report"]["task_id"])
            assert body["number"] == 7
            assert body["report"]["status_url"] == f"/tasks/{task.task_id}"
            assert body["report"]["events_url"] == f"/tasks/{task.task_id}/events"


def test_accepted_outside_of_a_request() -> None:
    """Outside of a request there is no URL."""
    assert Accepted("an id").model_dump() == {  # type: ignore[attr-defined]  # a model at run time
        "task_id": "an id",
        "status": TaskStatus.PENDING,
        "status_url": "",
        "events_url": None,
    }


# -- where the status is


def _nested() -> FastAPI:
    inner, outer = APIRouter(prefix="/v1"), APIRouter(prefix="/api")
    inner.include_router(task_router(prefix="/jobs"))
    outer.include_router(inner)
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(outer)
    app.post("/reports")(_from_a_coroutine())
    return app


def _both() -> FastAPI:
    app = made()
    app.include_router(task_router(), prefix="/second")
    app.post("/reports")(_from_a_coroutine())
    return app


def _in_the_outer_app() -> FastAPI:
    app, inner = made(), FastAPI()
    inner.post("/reports")(_from_a_coroutine())
    app.mount("/inner", inner)
    return app


def _behind_middleware() -> FastAPI:
    app, inner = made(), FastAPI()
    inner.post("/reports")(_from_a_coroutine())
    app.router.routes.append(Mount("/inner", inner, middleware=[Middleware(GZipMiddleware)]))
    return app


def _in_the_inner_app() -> FastAPI:
    app, inner = FastAPI(lifespan=setup_async_framework), FastAPI()
    inner.post("/reports")(_from_a_coroutine())
    inner.include_router(task_router())
    app.mount("/inner", inner)
    return app


def _in_another_app() -> FastAPI:
    app, inner = FastAPI(lifespan=setup_async_framework), FastAPI()
    app.post("/reports")(_from_a_coroutine())
    inner.include_router(task_router())
    app.mount("/inner", inner)
    return app


def _of_its_own() -> FastAPI:
    app = FastAPI(lifespan=setup_async_framework)
    app.post("/reports")(_from_a_coroutine())

    @app.get("/reports/{task_id}/status")
    async def show(task_id: str) -> TaskView[Report]:
        task = await get_task_manager().get_task(task_id)
        assert task is not None
        return task  # type: ignore[return-value]  # the model makes a view of it

    return app


def _of_a_tenant() -> FastAPI:
    app = FastAPI(lifespan=setup_async_framework)
    router = APIRouter(prefix="/{tenant}")
    router.post("/reports")(_from_a_coroutine())
    router.include_router(task_router())
    app.include_router(router)
    return app


WHERE: dict[Callable[[], FastAPI], tuple[str, str]] = {
    _nested: ("/reports", "/api/v1/jobs/"),
    _both: ("/reports", "/tasks/"),
    _in_the_outer_app: ("/inner/reports", "/tasks/"),
    _behind_middleware: ("/inner/reports", "/tasks/"),
    _in_the_inner_app: ("/inner/reports", "/inner/tasks/"),
    _in_another_app: ("/reports", "/inner/tasks/"),
    _of_its_own: ("/reports", "/reports/"),
    _of_a_tenant: ("/a%20b/reports", "/a%20b/tasks/"),
}
"""Where each app accepts a task, and what the URL of its status begins with."""


async def test_where_the_status_is(asyncframe: Probe) -> None:
    """Location is the URL of the first route that shows tasks, with all prefixes around it."""
    found, expected = {}, {}
    for app, (posted_to, begin) in WHERE.items():
        async with asyncframe.client(app()) as client:
            response = await client.post(posted_to, params={"title": "Q3"})
            task = await asyncframe.completed(response)
            location = response.headers["location"]
            shown = await client.get(location)
        url = f"{begin}{task.task_id}" + ("/status" if app is _of_its_own else "")
        found[app] = (location, response.json()["status_url"], shown.json()["result"])
        expected[app] = (url, url, {"title": "Q3"})
    assert found == expected


def test_behind_a_proxy() -> None:
    """The URL begins with the path under which the server is reached, also in a mounted app."""
    app = _in_the_outer_app()
    app.post("/reports")(_from_a_coroutine())
    with TestClient(app, root_path="/proxy") as client:
        for path in ("/reports", "/inner/reports"):
            response = client.post(f"/proxy{path}", params={"title": "Q3"})
            location = response.headers["location"]
            assert location.startswith("/proxy/tasks/"), path
            assert client.get(location).json()["task_id"] == response.json()["task_id"], path


WITHOUT_STATUS = re.escape(
    "POST /reports answers 202 with the URL of the task's status, but this app has no route that "
    "shows it: add app.include_router(task_router()), with 'from framework.http import "
    "task_router', or a GET route with {task_id} in its path that returns a TaskView"
)


def _in_a_mounted_app() -> FastAPI:
    app, inner = FastAPI(lifespan=setup_async_framework), FastAPI()
    inner.post("/reports")(_from_a_coroutine())
    app.mount("/inner", inner)
    return app


def _of_a_host() -> FastAPI:
    app, inner = FastAPI(lifespan=setup_async_framework), FastAPI()
    inner.post("/reports")(_from_a_coroutine())
    app.router.routes.append(Host("test{more}", app=inner))
    return app


async def test_apps_of_hosts(asyncframe: Probe) -> None:
    """An app for one host shows its tasks itself."""
    app = _of_a_host()
    app.router.routes[-1].app.include_router(task_router())  # type: ignore[attr-defined]  # a Host
    async with asyncframe.client(app) as client:
        response = await client.post(
            "/reports", params={"title": "Q3"}, headers={"Host": "testing"}
        )
        task = await asyncframe.completed(response)
    assert response.headers["location"] == f"/tasks/{task.task_id}"


def _in_a_router() -> FastAPI:
    app, router = FastAPI(lifespan=setup_async_framework), APIRouter()
    router.post("/reports")(_from_a_coroutine())
    app.include_router(router)
    return app


def test_an_app_that_shows_no_status() -> None:
    """An app with an accepting route does not start if it shows the status of no task."""
    for app in (_in_a_mounted_app, _in_a_router, _of_a_host):
        with pytest.raises(RuntimeError, match=f"^{WITHOUT_STATUS}$"), TestClient(app()):
            pytest.fail(f"{app.__name__} starts")
        get_after = FastAPI(lifespan=setup_async_framework)
        with TestClient(get_after):
            pass  # the failed start left no framework behind


def test_a_route_that_comes_later() -> None:
    """A route that is added to a running app without a status route says so to its caller."""
    app = FastAPI(lifespan=setup_async_framework)
    with TestClient(app) as client:
        app.post("/reports")(_from_a_coroutine())
        with pytest.raises(RuntimeError, match=f"^{WITHOUT_STATUS}$"):
            client.post("/reports", params={"title": "Q3"})


def test_a_url_that_nobody_can_say() -> None:
    """A route that lacks a parameter of the status route says so, before its task is submitted."""
    app = _of_a_tenant()
    app.post("/other")(_from_a_coroutine())
    told = (
        r"^POST /other answers 202 with the URL of the task's status, "
        r"/\{tenant\}/tasks/\{task_id\}, but has no parameter 'tenant': include a task_router\(\) "
    )
    with TestClient(app) as client:
        with pytest.raises(RuntimeError, match=told):
            client.post("/other", params={"title": "Q3"})
        assert app.state.task_manager.get_stats()["submitted"] == 0


# -- OpenAPI


def referenced(schema: Any, document: Any, seen: set[str]) -> set[str]:
    """Return the names of all models that a part of an OpenAPI document refers to."""
    if isinstance(schema, dict):
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            seen.add(name)
            referenced(document["components"]["schemas"][name], document, seen)
        for value in schema.values():
            referenced(value, document, seen)
    elif isinstance(schema, list):
        for value in schema:
            referenced(value, document, seen)
    return seen


def test_openapi() -> None:
    """OpenAPI has 202 with its headers, the body, the result's model, and 503; without a start."""
    app = _nested()
    document = app.openapi()
    responses = document["paths"]["/reports"]["post"]["responses"]
    assert responses.keys() == {"202", "422", "503"}
    assert responses["202"]["headers"].keys() == {"Location", "Retry-After"}
    assert "Report" in referenced(responses["202"], document, set())
    body = document["components"]["schemas"]["Accepted_Report_"]
    assert body["required"] == ["task_id", "status", "status_url", "events_url"]
    assert referenced(responses["503"], document, set()) == {"Problem"}


def started(app: FastAPI) -> FastAPI:
    """Return an app that has run; one without a router of tasks accepts some from then on."""
    app.openapi()
    with TestClient(app):
        return app


def linked(app: FastAPI, path: str, status: str = "202") -> Any:
    """Return the link of a route's response, and whether it leads to what shows a task."""
    document = app.openapi()
    link = document["paths"][path]["post"]["responses"][status].get("links", {}).get("status")
    targets = [
        path
        for path, methods in document["paths"].items()
        if link is not None and methods.get("get", {}).get("operationId") == link["operationId"]
    ]
    return (None, targets) if link is None else (link["parameters"], targets)


BODY = "$response.body#/task_id"


def test_links() -> None:
    """In OpenAPI a link leads from the 202 response to the operation that shows the task."""
    found = {
        app: linked(
            started(app()) if app is _of_its_own else app(),
            "/{tenant}/reports" if app is _of_a_tenant else "/reports",
        )
        for app in (_nested, _both, _of_its_own, _of_a_tenant)
    }
    tenant = "$request.path.tenant"
    assert found == {
        _nested: ({"task_id": BODY}, ["/api/v1/jobs/{task_id}"]),
        _both: ({"task_id": BODY}, ["/tasks/{task_id}"]),
        _of_its_own: ({"task_id": BODY}, ["/reports/{task_id}/status"]),
        _of_a_tenant: ({"tenant": tenant, "task_id": BODY}, ["/{tenant}/tasks/{task_id}"]),
    }


def test_links_of_later_routes() -> None:
    """A route that is added after OpenAPI was made has a link, too."""
    app = made()
    app.openapi()
    app.post("/later", status_code=201)(_from_a_coroutine())
    app.openapi_schema = None  # as older versions of FastAPI need it
    assert linked(app, "/later", "201") == ({"task_id": BODY}, ["/tasks/{task_id}"])


def test_no_links() -> None:
    """There is no link to a route that is not in the document."""
    assert linked(started(_in_another_app()), "/reports") == (None, [])
    app = FastAPI()
    app.post("/reports")(_from_a_coroutine())
    app.include_router(task_router(include_in_schema=False))
    assert linked(app, "/reports") == (None, [])


class Branch(BaseModel):
    """A model that refers to itself."""

    branches: list[Branch] = []


RESULTS: dict[str, tuple[Any, set[str]]] = {
    "a model that refers to itself": (Accepted[Branch], {"Branch"}),
    "models in a dict": (Accepted[dict[str, Report]], {"Report"}),
    "a model or nothing": (Accepted[Report | None], {"Report"}),
    "a number": (Accepted[int], set()),
    "anything": (Accepted[Any], set()),
}
"""Types of results, and the models that their description refers to."""


def test_results_in_openapi() -> None:
    """Any type of result is described."""
    found, expected = {}, {}
    for kind, (result, names) in RESULTS.items():
        app = made()
        app.post("/reports", response_model=result)(make_report)
        document = app.openapi()
        responses = document["paths"]["/reports"]["post"]["responses"]
        models = referenced(responses["202"], document, set()) - {"TaskStatus"}
        (body,) = (name for name in models if name.startswith("Accepted"))
        properties = document["components"]["schemas"][body]["properties"]
        found[kind] = (models - {body}, "result" in properties)
        expected[kind] = (names, True)
    assert found == expected
