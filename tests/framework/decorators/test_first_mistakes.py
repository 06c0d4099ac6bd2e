"""What the mistakes of a first day are answered with: what is wrong, and what to write."""

from __future__ import annotations

import contextlib
import gc
import inspect
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from celery import Celery
from fastapi import APIRouter, Depends, FastAPI, UploadFile
from fastapi.exceptions import ResponseValidationError
from fastapi.testclient import TestClient

from framework import (
    TaskId,
    TaskManager,
    async_task,
    background_task,
    get_task_manager,
    get_thread_pool,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework.http import Accepted, task_router


def test_a_setup_with_limits_is_a_lifespan() -> None:
    """A setup without an app, given to FastAPI, holds its limits at each start of the app."""
    app = FastAPI(lifespan=setup_async_framework(max_workers=3))
    for _ in range(2):
        with TestClient(app):
            assert app.state.thread_pool.get_stats()["max_workers"] == 3


async def test_a_setup_needs_no_app() -> None:
    """Without an app, and without saying None, a framework runs all the same."""
    async with setup_async_framework(max_workers=2):
        assert get_thread_pool().get_stats()["max_workers"] == 2


def test_a_setup_for_an_app_is_its_lifespan() -> None:
    """A setup that names the app it is then given to works as one that names none."""
    app = FastAPI()
    app.router.lifespan_context = setup_async_framework(app, max_workers=3)
    with TestClient(app):
        assert app.state.thread_pool.get_stats()["max_workers"] == 3


def test_a_setup_for_another_app_is_told() -> None:
    """A setup that names one app is refused as another one's lifespan, with both right forms."""
    lifespan = setup_async_framework(FastAPI(), max_workers=3)
    told = (
        r"^this lifespan was made for another app: do not pass an app, as in "
        r"FastAPI\(lifespan=setup_async_framework\(max_workers=10\)\), or enter it inside your own "
        r"lifespan, 'async with setup_async_framework\(app, max_workers=10\):'$"
    )
    with pytest.raises(TypeError, match=told), TestClient(FastAPI(lifespan=lifespan)):
        pass


def test_with_in_place_of_async_with_is_told() -> None:
    """A plain with says that async with is needed."""
    setup: Any = setup_async_framework()
    told = r"^setup_async_framework\(\) needs a running event loop: use 'async with' in a "
    with pytest.raises(TypeError, match=told), setup:
        pass


def test_a_setup_that_is_not_entered_is_told() -> None:
    """A setup for an app that nobody enters warns when it is thrown away; others do not."""
    told = r"^setup_async_framework\(app\) was thrown away without having been entered, so no "

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with pytest.warns(RuntimeWarning, match=told):
            setup_async_framework(app)
        async with setup_async_framework(app):
            yield

    with TestClient(FastAPI(lifespan=lifespan)):
        pass
    setup_async_framework(max_workers=3)
    never_started = FastAPI()
    never_started.router.lifespan_context = setup_async_framework(never_started)
    del never_started
    gc.collect()


MAKE_AN_ENGINE = (
    "engine must be an engine: use engine=CeleryEngine(celery_app), with 'from "
    "framework.engines.celery import CeleryEngine', not "
)
MAKE_A_STORE = (
    "store must be a store, not a URL: use store=SQLStore('sqlite:///tasks.db'), with "
    "'from framework.stores.sql import SQLStore'"
)


def test_what_a_part_is_made_of_is_told() -> None:
    """A URL for a store, or a Celery app for an engine, is answered with how to make one."""
    celery_app = Celery("shop", set_as_current=False)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"store": "sqlite:///tasks.db"}, MAKE_A_STORE),
        ({"engine": "redis://localhost"}, f"{MAKE_AN_ENGINE}'redis://localhost'"),
        ({"engine": celery_app}, f"{MAKE_AN_ENGINE}<Celery shop"),
    )
    for parts, told in cases:
        with pytest.raises(TypeError, match=f"^{re.escape(told)}"):
            setup_async_framework(None, **parts)


def test_a_route_that_answers_an_id_with_200_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A route is told of Accepted if it returns an id and says no status; other routes are not."""
    app, router = FastAPI(lifespan=setup_async_framework), APIRouter(prefix="/more")

    @background_task
    def work() -> int:
        return 1

    def start() -> TaskId[int]:
        return work()

    def several() -> list[TaskId[int]]:
        return [work()]

    app.post("/plain")(start)
    router.put("/included")(start)
    for status in (200, 202):
        app.post(f"/{status}", status_code=status)(start)
    app.get("/shown")(start)
    app.post("/task")(work)
    app.post("/several")(several)
    app.post("/accepted")(accepting)
    app.include_router(router)
    app.include_router(task_router(dependencies=[Depends(lambda: None)]))
    with TestClient(app):
        pass
    told = "returns the id of a task with status 200: annotate it with '-> Accepted[...]' of "
    found = told_of_routes(caplog)
    assert [line.partition(f" {told}")[0] for line in found] == [
        "the route /plain",
        "the route /more/included",
    ]


def accepting() -> Accepted[int]:
    """Return an id, which is answered with 202."""
    raise NotImplementedError


def test_a_route_below_a_decorator_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A decorator above the route's leaves the route with the plain function, and is named."""
    app, mounted = FastAPI(lifespan=setup_async_framework), FastAPI()
    router, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    @background_task
    @retry_task
    @app.post("/send")
    def send() -> None:
        """Do nothing."""

    @async_task
    @router.get("/included")
    async def included() -> None:
        """Do nothing."""

    @throttled_task(rate_limit=1)
    @mounted.get("/mounted")
    def limited() -> None:
        """Do nothing."""

    @app.post("/right")
    @background_task
    def right() -> None:
        """Do nothing."""

    @scheduled_task(3600)
    @app.post("/refresh")
    def refresh() -> None:
        """Do nothing."""

    @background_task
    @router.websocket("/socket")
    async def talk() -> None:
        """Do nothing."""

    outer.include_router(router)
    app.include_router(outer, prefix="/v1")
    mounted.mount("/again", app)
    app.mount("/below", mounted)
    with TestClient(app):
        pass

    assert sorted(told_of_routes(caplog)) == [
        f"the route {path} runs test_a_route_below_a_decorator_is_told.<locals>.{name} directly, "
        f"without {layer}, because it was registered first: put @{layer} below the route's "
        "decorator"
        for path, name, layer in (
            ("/below/mounted", "limited", "throttled_task"),
            ("/send", "send", "background_task"),
            ("/v1/outer/inner/included", "included", "async_task"),
            ("/v1/outer/inner/socket", "talk", "background_task"),
        )
    ]


def count_lines(file: UploadFile) -> int:
    """Count the lines of an upload."""
    return len(file.file.readlines())


def test_a_task_as_route_with_an_upload_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A route that is a task itself cannot take what the task may not have; this is told early."""
    app = FastAPI(lifespan=setup_async_framework)
    app.post("/files")(background_task(count_lines))
    app.post("/allowed")(background_task(check_arguments=False)(count_lines))
    app.post("/awaited")(async_task(count_lines))
    with TestClient(app):
        pass
    (told,) = [one for one in caplog.messages if one.startswith("each request ")]
    assert told == (
        "each request to the route /files fails, since its task takes an UploadFile in 'file': "
        "take it in a route of its own, which calls the task; there, read it first and pass the "
        "bytes, await file.read(), or pass the path of a copy"
    )


def told_of_routes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says of routes; it may also tell of functions of other tests."""
    return [message for message in caplog.messages if message.startswith("the route ")]


def plain() -> str:
    """Stand for a function that is an endpoint on purpose, and a task elsewhere."""
    return "plain"


plain_in_background = background_task(plain)


def test_a_plain_endpoint_on_purpose_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """A function whose name still stands for itself was meant to be called as it is."""
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/plain")(plain)
    with TestClient(app):
        pass
    assert told_of_routes(caplog) == []


class Counter(int):
    """Stand for a class that a task creates."""


def test_a_decorated_class_is_told() -> None:
    """A class below a decorator is refused; one that is passed is called as a function is."""
    told = (
        r"^background_task needs a function, not the class Later, which would be no class any "
        r"more: decorate a function that creates it, or one of its methods$"
    )
    unfinished = type("Later", (), {"__module__": __name__})
    with pytest.raises(TypeError, match=told):
        background_task(unfinished)

    with TestClient(FastAPI(lifespan=setup_async_framework)):
        manager = get_task_manager()
        for cls in (Counter, int, dict):
            assert manager.wait_result(manager.submit_nowait(background_task(cls))) == cls()


@background_task
def count() -> int:
    """Stand for a background task that somebody awaits."""
    return 7


async def count_and_await() -> Any:
    """Await what cannot be awaited."""
    return await count()  # type: ignore[misc]  # what is wrong


AWAIT_WHAT = (
    "a background task returns its id at once, without 'await': get the result with 'await "
    "get_task_manager().get_result(task_id)', or decorate it with async_task"
)


def test_awaiting_an_id_in_a_route_is_told() -> None:
    """The error of a route that awaits a background task says in a note what to await."""
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/count")(count_and_await)
    with (
        TestClient(app) as client,
        pytest.raises(
            TypeError, match=r"^object TaskId can't be used in 'await' expression"
        ) as caught,
    ):
        client.get("/count")
    assert caught.value.__notes__ == [AWAIT_WHAT]


@pytest.mark.parametrize("in_place", [True, False])
async def test_awaiting_an_id_in_a_task_is_told(task_manager: TaskManager, in_place: bool) -> None:
    """The error of a task that awaits a background task says so too, and says it once."""
    decorated = async_task(count_and_await)
    waiting = decorated() if in_place else task_manager.submit(decorated, wait=True)
    with pytest.raises(
        TypeError, match=r"^object TaskId can't be used in 'await' expression"
    ) as caught:
        await waiting
    assert caught.value.__notes__ == [AWAIT_WHAT]


@async_task
async def look_up() -> int:
    """Stand for an async task."""
    return 7


AS_OTHERS: tuple[tuple[Callable[[], Any], str], ...] = (
    (
        lambda: count.delay(1),  # type: ignore[attr-defined]  # what is wrong
        "call the function itself: count(...); with options: count.options(delay=3)(...)",
    ),
    (
        lambda: look_up.apply_async(1),  # type: ignore[attr-defined]  # what is wrong
        (
            "call the function itself: await look_up(...); with options: await "
            "look_up.options(delay=3)(...)"
        ),
    ),
    *(
        (
            lambda name=name: getattr(count, name)(1),
            "call the function itself: count(...); with options: count.options(delay=3)(...)",
        )
        for name in ("send", "kiq", "enqueue", "submit")
    ),
)


async def test_calling_as_others_do_is_told_in_a_script() -> None:
    """So does the error that leaves the framework's block, as in a script or a lifespan."""
    call, told = AS_OTHERS[0]
    with pytest.raises(AttributeError) as caught:
        async with setup_async_framework():
            call()
    assert caught.value.__notes__ == [told]


def test_calling_as_others_do_is_told(task_manager: TaskManager) -> None:
    """The error of a call as Celery, Dramatiq or Taskiq have it says how to call the task."""
    refused = r"^'function' object has no attribute "
    for call, told in AS_OTHERS:
        app = FastAPI(lifespan=setup_async_framework)
        app.get("/call")(call)
        with pytest.raises(AttributeError, match=refused) as caught:
            task_manager.wait_result(task_manager.submit_nowait(call))
        assert caught.value.__notes__ == [told]
        with (
            TestClient(app) as client,
            pytest.raises(AttributeError, match=refused) as in_route,
        ):
            client.get("/call")
        assert in_route.value.__notes__ == [told]


def test_a_route_that_returns_what_it_should_await_is_told() -> None:
    """FastAPI's error about a coroutine in a response names its function, and what to write."""
    app, made = FastAPI(lifespan=setup_async_framework), []

    def keep(call: Callable[[], Any]) -> Any:
        made.append(call())
        return made[-1]

    app.get("/result")(lambda: keep(lambda: get_task_manager().get_result("1")))
    app.get("/task")(lambda: keep(look_up))
    app.get("/inside", response_model=dict[str, int])(lambda: {"it": keep(look_up)})
    app.get("/own")(lambda: keep(count_and_await))
    told: list[Any] = []
    with TestClient(app) as client:
        for path in ("/result", "/task", "/inside", "/own"):
            with pytest.raises((ValueError, ResponseValidationError)) as caught:
                client.get(path)
            told.append(getattr(caught.value, "__notes__", None))
    for coroutine in made:
        coroutine.close()

    begin = "the route has returned {0}(...) without awaiting it: write 'await {0}(...)' in an "
    for_task = (
        begin.format("look_up") + "async def route; in a def route, use "
        "wait_result(submit_nowait(look_up, args=(...)))"
    )
    assert told == [
        [begin.format("get_result") + "async def route; in a def route, use wait_result(task_id)"],
        [for_task],
        [for_task],
        None,
    ]


def test_an_id_is_nothing_that_others_await() -> None:
    """Templates and GraphQL servers await whatever can be awaited; an id is a plain string."""
    assert not inspect.isawaitable(TaskId("1"))
