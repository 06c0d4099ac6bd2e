"""Starting, stopping and starting again: apps, loops, threads, forks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import signal
import threading
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from framework import (
    FrameworkNotStartedError,
    TaskManager,
    ThreadPoolExecutorEnhanced,
    background_task,
    get_task_manager,
    get_thread_pool,
    setup_async_framework,
)
from framework._manager import frameworks
from framework._manager.core import Parts
from framework._manager.frameworks import Framework
from framework._manager.settings import Settings
from framework._tasks.live import Home
from framework.http import Accepted, task_router
from tests.framework.clients import TestClient
from tests.framework.running.messages import NOT_STARTED
from tests.patience import PATIENCE

DEPRECATED = pytest.mark.filterwarnings(r"ignore:\s*on_event is deprecated:DeprecationWarning")

CURE = (
    "add it to the app that is served (FastAPI(lifespan=setup_async_framework)), as one that is "
    "mounted in it has no lifespan, enter it yourself "
    "('async with setup_async_framework(app):'), or in a test use 'with TestClient(app)' "
    "or the fixture task_manager of the pytest plugin"
)


@background_task
def manager_of_a_task() -> int:
    """Tell which manager is current inside a task on a thread."""
    return id(get_task_manager())


@background_task
async def manager_of_a_coroutine() -> int:
    """Tell which manager is current inside a task on the loop."""
    return id(get_task_manager())


def make_app(**options: Any) -> FastAPI:
    """Return an app whose routes tell which manager is current."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(app, **options):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/async")
    async def in_the_loop() -> int:
        return id(get_task_manager())

    @app.get("/sync")
    def in_a_thread() -> int:
        return id(get_task_manager())

    @app.get("/task")
    async def in_tasks() -> list[int]:
        manager = get_task_manager()
        ids = [manager_of_a_task(), manager_of_a_coroutine()]
        return [await manager.get_result(task_id) for task_id in ids]

    return app


def managers_seen(client: TestClient) -> set[int]:
    """Ask every route of `make_app` which manager it sees."""
    seen = {client.get("/async").json(), client.get("/sync").json()}
    return seen | set(client.get("/task").json())


def framework_threads() -> set[threading.Thread]:
    """Return the living threads that frameworks have started."""
    return {one for one in threading.enumerate() if one.name.startswith("asyncframe")}


@pytest.fixture
def others() -> set[threading.Thread]:
    """Return those that are there before the test."""
    return framework_threads()


def test_two_apps_have_each_their_own_manager() -> None:
    """Requests and tasks of two apps each see only their own app's manager."""
    one, two = make_app(), make_app()
    with TestClient(one) as first, TestClient(two) as second:
        assert managers_seen(first) == {id(one.state.task_manager)}
        assert managers_seen(second) == {id(two.state.task_manager)}
        assert one.state.task_manager is not two.state.task_manager


def test_stopping_one_app_leaves_the_other_alone() -> None:
    """An app goes on working, pool and all, after another one has stopped."""
    one, two = make_app(), make_app()
    with TestClient(one) as first:
        with TestClient(two) as second:
            managers_seen(second)
        assert managers_seen(first) == {id(one.state.task_manager)}
        assert one.state.thread_pool.submit(int).result(PATIENCE) == 0


@pytest.mark.parametrize("first_to_leave", ["alice", "bob"])
def test_an_app_that_is_entered_twice(first_to_leave: str) -> None:
    """Two clients of one app find each other's tasks, and the one that is left goes on."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router())

    @app.post("/work")
    async def work(request: Request) -> Accepted[int]:
        manager: TaskManager = request.app.state.task_manager
        return await manager.submit(int, (7,))

    def ask(asking: TestClient, looking: TestClient) -> object:
        url = asking.post("/work").json()["status_url"]
        return looking.get(f"{url}?wait=60").json()["result"]

    clients = {"alice": TestClient(app), "bob": TestClient(app)}
    with ExitStack() as stack:
        for client in clients.values():
            client.__enter__()
            stack.callback(client.__exit__, None, None, None)
        for asking, looking in itertools.product(clients.values(), repeat=2):
            assert ask(asking, looking) == 7
        clients[first_to_leave].__exit__(None, None, None)
        stack.pop_all()
        (left,) = (one for name, one in clients.items() if name != first_to_leave)
        try:
            assert ask(left, left) == 7
        finally:
            left.__exit__(None, None, None)


def test_outside_two_running_apps_the_error_names_the_cure() -> None:
    """With two apps running, a call from neither of them raises an error that names the cure."""
    text = (
        r"^several task frameworks are running, and this code does not run inside one of them: "
        r"call it from a request or a task of the app that you mean, or use that app's "
        r"'app\.state\.task_manager'$"
    )
    with (
        TestClient(make_app()),
        TestClient(make_app()),
        pytest.raises(FrameworkNotStartedError, match=text),
    ):
        get_task_manager()


def test_a_mounted_app_with_a_framework_of_its_own_uses_that() -> None:
    """Requests of a sub-app with its own framework see its manager, not its parent's."""
    child = make_app()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(app), setup_async_framework(child):
            yield

    parent = FastAPI(lifespan=lifespan)
    parent.mount("/child", child)

    @parent.get("/async")
    async def in_the_loop() -> int:
        return id(get_task_manager())

    with TestClient(parent) as client:
        assert client.get("/async").json() == id(parent.state.task_manager)
        assert client.get("/child/async").json() == id(child.state.task_manager)
        assert set(client.get("/child/task").json()) == {id(child.state.task_manager)}


@pytest.mark.extended("time")
def test_many_lifespans_leave_no_thread_and_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    """After thirty starts and stops no thread, no manager and no memory is left."""
    # pytest keeps each line of a test, and functions of other tests may cause one at each start.
    caplog.set_level(logging.ERROR, "asyncframe")
    app = make_app(max_workers=2)
    managers: list[weakref.ref[Any]] = []

    def once() -> None:
        with TestClient(app) as client:
            managers_seen(client)
            managers.append(weakref.ref(app.state.task_manager))

    for _ in range(5):
        once()
    before = set(threading.enumerate())
    tracemalloc.start()
    try:
        gc.collect()
        base, _ = tracemalloc.get_traced_memory()
        for _ in range(30):
            once()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - base
    finally:
        tracemalloc.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)  # a loop does not wait for the ends of its AnyIO threads
    assert set(threading.enumerate()) <= before
    # The app itself keeps its last one.
    assert [ref() for ref in managers[:-1]] == [None] * 34
    # A manager with its pool takes 28 kB. Coverage keeps 7 kB for the threads of each.
    most = 5_000 if threading.gettrace() is None else 15_000
    assert grown < 30 * most


def test_two_loops_in_two_threads_have_each_their_own_framework() -> None:
    """Frameworks on two loops at once see their own managers and do not mix up futures."""
    meet = threading.Barrier(2)
    seen: list[tuple[int, list[int]]] = []

    async def main() -> None:
        async with setup_async_framework(None, max_workers=1):
            await asyncio.to_thread(meet.wait, PATIENCE)
            manager = get_task_manager()
            ids = [manager_of_a_task() for _ in range(100)]
            ids += [manager_of_a_coroutine() for _ in range(100)]
            seen.append((id(manager), [await manager.get_result(one) for one in ids]))
            await asyncio.to_thread(meet.wait, PATIENCE)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [managers for _, managers in seen] == [[own] * 200 for own, _ in seen]
    assert len({own for own, _ in seen}) == 2


async def test_a_task_is_awaited_from_a_second_loop() -> None:
    """A coroutine on another loop that waits for a task of this loop's framework is woken."""
    release = threading.Event()
    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = await manager.submit(release.wait)
        waiting = threading.Event()

        async def elsewhere() -> object:
            asyncio.get_running_loop().call_soon(waiting.set)
            return await manager.get_result(task_id)

        other = asyncio.ensure_future(asyncio.to_thread(asyncio.run, elsewhere()))
        await asyncio.to_thread(waiting.wait, PATIENCE)
        release.set()
        assert await other is True


def test_asyncio_run_twice() -> None:
    """A second loop after the first one gets a framework that works."""

    async def main() -> int:
        async with setup_async_framework(None):
            return await get_task_manager().submit(int, wait=True)

    assert [asyncio.run(main()), asyncio.run(main())] == [0, 0]


async def test_use_without_an_app(others: set[threading.Thread]) -> None:
    """setup_async_framework(None) gives a manager and a pool, and ends both."""
    async with setup_async_framework(None) as given:
        assert given is None
        pool = get_thread_pool()
        assert await get_task_manager().submit(int, wait=True) == 0
    assert framework_threads() <= others
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)


def test_before_the_start_the_error_says_what_to_do() -> None:
    """Without any framework the error names the lifespan, the test client and the plugin."""
    with pytest.raises(FrameworkNotStartedError) as caught:
        manager_of_a_task()
    assert str(caught.value) == f"no task framework is running here: {CURE}"
    assert caught.value.state == "not started"


async def test_after_the_stop_the_error_says_what_to_do() -> None:
    """A manager that outlived its framework refuses tasks, and says that it was stopped."""
    async with setup_async_framework(None):
        manager = get_task_manager()
    with pytest.raises(FrameworkNotStartedError) as caught:
        await manager.submit(int)
    text = "this task framework has stopped; start a new one"
    assert str(caught.value) == f"{text}: {CURE}"
    with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
        get_task_manager()


async def test_what_was_kept_can_be_read_after_the_stop() -> None:
    """A stopped manager still returns the results of its tasks."""
    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = await manager.submit(int)
    assert await manager.get_result(task_id) == 0


@DEPRECATED
def test_event_handlers_beside_the_lifespan_run_once() -> None:
    """Handlers of @app.on_event, sync and async, run once, inside the running framework."""
    app, seen = FastAPI(lifespan=setup_async_framework), []

    @app.on_event("startup")
    def sync_start() -> None:
        seen.append(("sync start", get_task_manager()))

    @app.on_event("startup")
    async def async_start() -> None:
        seen.append(("async start", get_task_manager()))

    @app.on_event("shutdown")
    async def stop() -> None:
        assert await get_task_manager().submit(int, wait=True) == 0
        seen.append(("stop", get_task_manager()))

    with TestClient(app):
        manager = app.state.task_manager
        assert seen == [("sync start", manager), ("async start", manager)]
    assert seen[2:] == [("stop", manager)]


@DEPRECATED
def test_event_handlers_of_included_routers_run_once() -> None:
    """Beside a router that the app includes, its handlers and those of the app run once each."""
    seen: list[str] = []
    router = APIRouter()
    app = FastAPI(lifespan=setup_async_framework)
    for name, one in (("router", router), ("app", app)):
        one.on_event("startup")(partial(seen.append, f"{name} start"))
        one.on_event("shutdown")(partial(seen.append, f"{name} stop"))
    app.include_router(router)
    with TestClient(app):
        started = sorted(seen)
    assert started == ["app start", "router start"]
    assert sorted(seen[2:]) == ["app stop", "router stop"]


@DEPRECATED
def test_event_handlers_that_the_router_runs_are_not_run_twice() -> None:
    """Entered inside an app with FastAPI's default lifespan, we leave its handlers to it."""
    app, seen = FastAPI(), []
    app.on_event("startup")(lambda: seen.append("start"))

    @app.on_event("startup")
    async def enter() -> None:
        app.state.setup = setup_async_framework(app)
        await app.state.setup.__aenter__()

    @app.on_event("shutdown")
    async def leave() -> None:
        await app.state.setup.__aexit__(None, None, None)

    with TestClient(app):
        assert app.state.task_manager is get_task_manager()
    assert seen == ["start"]


@DEPRECATED
def test_a_start_up_handler_that_raises_stops_the_framework(
    others: set[threading.Thread],
) -> None:
    """An error in a start-up handler is raised unchanged and leaves no thread and no manager."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.on_event("startup")
    async def fail() -> None:
        await get_task_manager().submit(int, wait=True)
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError, match=r"^the database is away$"), TestClient(app):
        pass
    assert framework_threads() <= others
    with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
        get_task_manager()


@DEPRECATED
def test_a_shutdown_handler_that_raises_stops_the_framework_all_the_same(
    others: set[threading.Thread],
) -> None:
    """An error in a shutdown handler is raised unchanged, after the drain."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.on_event("shutdown")
    async def fail() -> None:
        raise ConnectionError("the database is away")

    client = TestClient(app)
    with pytest.raises(ConnectionError, match=r"^the database is away$"), client:
        get_thread_pool().submit(int).result(PATIENCE)
    assert framework_threads() <= others


async def test_middleware_can_be_added_after_leaving() -> None:
    """An app that was not yet called is left as it was: middleware may still be added."""
    app = make_app()
    async with app.router.lifespan_context(app):
        pass

    async def add_header(request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        response = await call_next(request)
        response.headers["x-added"] = "yes"
        return response

    app.middleware("http")(add_header)
    with TestClient(app) as client:
        response = client.get("/async")
    assert response.headers["x-added"] == "yes"
    assert response.json() == id(app.state.task_manager)


def test_an_app_is_left_with_the_middleware_that_it_had() -> None:
    """Starting and stopping ten times puts nothing on the app that stays there."""
    app = make_app()
    stacks = []
    for _ in range(10):
        with TestClient(app):
            pass
        stacks.append(app.middleware_stack)
    assert stacks == [stacks[0]] * 10


def test_an_executor_of_the_users_is_used_and_left_running() -> None:
    """Tasks run in the given pool, and its owner shuts it down."""
    pool = ThreadPoolExecutorEnhanced(max_workers=3, thread_name_prefix="custom-pool-")
    app = make_app(executor=pool)
    with TestClient(app):
        manager = app.state.task_manager
        assert get_thread_pool() is app.state.thread_pool is pool
        task_id = manager.submit_nowait(lambda: threading.current_thread().name)
        assert manager.wait_result(task_id).startswith("custom-pool-")
    assert pool.submit(int).result(PATIENCE) == 0
    pool.shutdown()


async def test_an_executor_of_the_users_outlives_a_thread_that_is_stuck_in_it() -> None:
    """A drain gives up a task that hangs in a given pool, which then takes others."""
    release, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        release.wait()

    with ThreadPoolExecutorEnhanced(max_workers=1) as pool:
        async with setup_async_framework(None, executor=pool, graceful_shutdown_timeout=0):
            manager = get_task_manager()
            task_id = await manager.submit(block)
            await asyncio.to_thread(started.wait, PATIENCE)
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.status.value == "interrupted"
        assert await asyncio.to_thread(pool.submit(int).result, PATIENCE) == 0
        release.set()


@pytest.mark.extended("processes")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_a_forked_child_refuses_and_says_why() -> None:
    """In a forked child, which has no threads of the pool, submitting is a clear error."""
    async with setup_async_framework(None):
        manager = get_task_manager()
        await manager.submit(int, wait=True)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _tell_from_child(writer, manager)
        os.close(writer)
        lines = (await asyncio.to_thread(_hear_child, reader, pid)).splitlines()
        assert await manager.submit(int, wait=True) == 0
    why = "this process was forked from the process that runs the task framework"
    assert [line.partition(", whose")[0] for line in lines] == [
        f"FrameworkNotStartedError: {why}",
        f"FrameworkNotStartedError: {why}",
        "0",
    ]


def _hear_child(reader: int, pid: int) -> str:
    """Return what a forked child has written, once it has ended."""
    with os.fdopen(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def _tell_from_child(writer: int, manager: Any) -> None:
    """Write what comes of using the framework in a forked child, and end the child."""

    async def own() -> int:
        async with setup_async_framework(None):
            return await get_task_manager().submit(int, wait=True)

    def use_on_new_loop() -> int:
        asyncio._set_running_loop(None)
        return asyncio.run(own())

    try:
        signal.alarm(int(PATIENCE))
        for call in (get_task_manager, lambda: manager.submit_nowait(int), use_on_new_loop):
            try:
                line = str(call())
            except Exception as error:
                line = f"{type(error).__name__}: {error}"
            os.write(writer, f"{line}\n".encode())
    finally:
        os._exit(0)


class ClosedInBetween(list[Framework]):
    """Running frameworks, of which the last is closed between two looks at them."""

    def __len__(self) -> int:
        """Return how many there are, and close them at once."""
        count = super().__len__()
        for framework in self[:]:
            framework.close(0.0)
        return count


def test_a_framework_that_is_closed_while_another_thread_looks_for_it() -> None:
    """Looking for the current framework finds it or not, but never fails when it is closed."""
    framework = Framework(Parts(), Settings())
    framework.open(Home(framework.core, None, None))
    # Another framework is closing, so this one is not known to be the only one.
    frameworks.STATE.sole = None
    frameworks.STATE.running = ClosedInBetween([framework])
    try:
        assert frameworks.find_core() is framework.core
    finally:
        framework.close(0.0)


async def test_a_setup_cannot_be_entered_twice_at_once() -> None:
    """Entering one setup again while it is in use is an error that says what to do."""
    setup = setup_async_framework(None)
    async with setup:
        text = r"^this framework is already running: call setup_async_framework\(\) again for a"
        with pytest.raises(RuntimeError, match=text):
            await setup.__aenter__()


def test_another_event_loop_than_asyncios_is_refused() -> None:
    """Where no asyncio loop runs, as under trio, the setup says so before anything has started."""
    entering = setup_async_framework().__aenter__()
    with pytest.raises(RuntimeError, match=r"^the task framework runs on asyncio, and no asyncio"):
        entering.send(None)


async def test_requests_after_the_stop_are_served_without_a_framework() -> None:
    """An app that was stopped still answers, and the framework is said to be stopped."""
    app = make_app()
    async with app.router.lifespan_context(app):
        pass
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
            await client.get("/async")
