"""What a task may not be given, since it is closed with the request."""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import io
import itertools
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import fastapi.middleware
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Request,
    Response,
    UploadFile,
    WebSocket,
)
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask
from starlette.datastructures import FormData
from starlette.requests import HTTPConnection

from framework import (
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework._manager.request_bound import yielded
from framework._manager.submitting import guard
from framework._tasks.current import current_scope
from pytest_asyncframe.probe import Probe

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}


@background_task
def work(given: Any = None, *more: Any, **options: Any) -> str:
    """Do nothing with what is given."""
    return "done"


@dataclass
class Order:
    """An argument with a part."""

    part: Any


@dataclass(slots=True)
class SlottedOrder:
    """The same without a dict."""

    part: Any


class Odd(dict[str, Any]):
    """A mapping that is read when it is used, and fails here."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("iter")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    __hash__ = None


class Proxy:
    """A proxy of nothing, each of whose attributes raises an error."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Session:
    """Something that is used up when the request ends."""

    def close(self) -> None:
        """Close it."""


SHARED = Session()


def told(call: Callable[[], object]) -> str:
    """Return why a call is refused, or that it is not."""
    try:
        call()
    except TypeError as refused:
        return str(refused)
    return "not refused"


async def never(*_: object) -> Any:
    """Stand for what receives and sends."""


def upload() -> UploadFile:
    """Return an upload."""
    return UploadFile(io.BytesIO(b"data"), filename="data.csv")


CLOSED = "it is closed when the request ends, perhaps before the task runs"


KINDS: dict[str, tuple[Callable[[], object], str]] = {
    "request": (
        lambda: Request(SCOPE),
        (
            f"a Request: {CLOSED}; pass what the task needs of it, such as str(request.url), a "
            "header or await request.json()"
        ),
    ),
    "connection": (
        lambda: HTTPConnection(SCOPE),
        (
            f"an HTTPConnection: {CLOSED}; pass what the task needs of it, such as "
            "str(connection.url) or a header"
        ),
    ),
    "websocket": (
        lambda: WebSocket({**SCOPE, "type": "websocket"}, never, never),
        (
            "a WebSocket: it is closed when its route ends, perhaps before the task runs; use it "
            "in the route alone, which can await get_result(task_id) and send the result"
        ),
    ),
    "response": (
        Response,
        (
            "a Response: it is sent when the route ends, perhaps before the task runs; set its "
            "headers and cookies in the route, and pass plain values to the task"
        ),
    ),
    "upload": (
        upload,
        (
            f"an UploadFile: {CLOSED}; read it first and pass the bytes, await file.read(), or "
            "pass the path of a copy"
        ),
    ),
    "form": (
        lambda: FormData([("file", upload())]),
        f"a form: {CLOSED}; pass its values, and read its files first: await file.read()",
    ),
    "background tasks": (
        BackgroundTasks,
        (
            "BackgroundTasks: they run when the response is sent, perhaps before the task does; "
            "pass plain values, and let the task submit further tasks"
        ),
    ),
    "background task": (
        lambda: BackgroundTask(work.fn),
        (
            "a BackgroundTask: it runs when the response is sent, perhaps before the task does; "
            "pass plain values, and let the task submit further tasks"
        ),
    ),
    "depends": (
        lambda: Depends(work.fn),
        (
            "an unresolved Depends(...): FastAPI resolves it for routes and for parameters of "
            "tasks, not for arguments; leave the argument out if the task declares the dependency, "
            "or pass the value itself"
        ),
    ),
}


def test_kinds(asyncframe: Probe) -> None:
    """Each kind of value that ends with the request is refused, and the message says the cure."""
    found = {kind: told(functools.partial(work, make())) for kind, (make, _) in KINDS.items()}
    begin = f"argument 'given' of {__name__}.work is"
    assert found == {kind: f"{begin} {why}" for kind, (_, why) in KINDS.items()}


def enclosing(it: Any) -> Callable[[], object]:
    """Return a function that holds a value."""

    def body() -> object:
        return it

    return body


def submit(*args: Any, **kwargs: Any) -> object:
    """Submit to the current manager."""
    return get_task_manager().submit_nowait(*args, **kwargs)


WAYS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "positional": ("given", work),
    "keyword": ("given", lambda it: work(given=it)),
    "var-positional": ("more[1]", lambda it: work(1, 2, it)),
    "var-keyword": ("file", lambda it: work(1, file=it)),
    "list": ("given[1]", lambda it: work([1, it])),
    "tuple": ("given[0]", lambda it: work((it,))),
    "set": ("given[...]", lambda it: work({it})),
    "dict": ("given['file']", lambda it: work({"file": it})),
    "dataclass": ("given.part", lambda it: work(Order(it))),
    "dataclass with slots": ("given.part", lambda it: work(SlottedOrder(it))),
    "callback": ("given.it", lambda it: work(enclosing(it))),
    "partial argument": ("given.1", lambda it: work(functools.partial(print, it))),
    "options": ("given", work.options(timeout=5)),
    "delay": ("given", work.options(delay=5)),
    "unique": ("given", work.options(unique=True)),
    "submit": ("given", lambda it: submit(work, (it,))),
    "plain": ("args[0]", lambda it: submit(print, (it,))),
    "plain keyword": ("end", lambda it: submit(print, (), {"end": it})),
    "partial": ("1", lambda it: submit(functools.partial(print, it))),
    "partial keyword": ("end", lambda it: submit(functools.partial(print, end=it))),
    "closure": ("it", lambda it: submit(enclosing(it))),
    "method": ("self", lambda it: submit(it.read)),
    "decorated closure": ("it", lambda it: background_task(enclosing(it))()),
    "retried closure": ("it", lambda it: background_task(retry_task(enclosing(it)))()),
}


def test_ways_to_pass(asyncframe: Probe) -> None:
    """However such a value is passed, the call is refused and nothing is submitted."""
    wrong = {}
    for way, (name, call) in WAYS.items():
        message = told(functools.partial(call, upload()))
        role = "variable" if way.endswith("closure") else "argument"
        if not re.match(rf"^{role} {re.escape(repr(name))} of \S+ is an UploadFile: ", message):
            wrong[way] = message
    assert wrong == {}
    assert asyncframe.manager.get_stats()["submitted"] == 0


async def test_ways_to_pass_while_waiting(asyncframe: Probe) -> None:
    """`submit` refuses it as the decorator does, and so does `map`, whose tasks outlive it."""
    manager = asyncframe.manager
    said = re.escape(f"argument 'given' of {__name__}.work is {KINDS['upload'][1]}")
    with pytest.raises(TypeError, match=f"^{said}$"):
        await manager.submit(work, (upload(),))
    with pytest.raises(TypeError, match=f"^{said}$"):
        await manager.map(work, [upload()])
    assert manager.get_stats()["submitted"] == 0


@pytest.mark.skipif(
    not hasattr(fastapi.middleware, "asyncexitstack"), reason="newer versions of FastAPI"
)
def test_the_file_of_an_upload() -> None:
    """The file inside an upload is refused too; a file that the route has opened is not."""
    app, errors = FastAPI(lifespan=setup_async_framework), []

    @app.post("/files")
    def take(file: UploadFile) -> None:
        errors.append(told(lambda: work(file.file)))
        with tempfile.SpooledTemporaryFile() as own:
            work(own)

    with TestClient(app) as client:
        assert client.post("/files", files={"file": b"data"}).status_code == 200
    assert errors[0] == (
        f"argument 'given' of {__name__}.work is the file of an upload: {CLOSED}; read it first "
        "and pass the bytes, or pass the path of a copy"
    )


# -- what dependencies yield


def sync_session() -> Iterator[Session]:
    """Yield a session, and close it."""
    session = Session()
    try:
        yield session
    finally:
        session.close()


async def async_session() -> AsyncIterator[Session]:
    """Yield a session, and close it."""
    with contextlib.closing(Session()) as session:
        yield session


def closed_afterwards() -> Iterator[Session]:
    """Yield a session, and close it unless the route fails."""
    session = Session()
    yield session
    session.close()


def shared_with_a_function() -> Iterator[Session]:
    """Yield a session that an inner function closes."""
    session = Session()

    def close() -> None:
        session.close()

    yield session
    close()


class Sessions:
    """A dependency that is an object."""

    async def __call__(self) -> AsyncIterator[Session]:
        """Yield a session, and close it."""
        with contextlib.closing(Session()) as session:
            yield session


def app_of(dependency: Callable[..., Any], call: Callable[[Any], object] = work) -> FastAPI:
    """Return an app whose routes pass what a dependency gives to a call."""
    app = FastAPI(lifespan=setup_async_framework)
    app.state.client = Session()
    given = Depends(dependency)

    @app.get("/sync")
    def sync_route(value: Any = given) -> None:
        call(value)

    @app.get("/async")
    async def async_route(value: Any = given) -> None:
        result = call(value)
        if inspect.isawaitable(result):
            await result

    @app.websocket("/socket")
    async def socket_route(socket: WebSocket, value: Any = given) -> None:
        await socket.accept()
        call(value)
        await socket.send_text("done")

    return app


def ask(app: FastAPI, path: str = "/sync") -> None:
    """Make a request; what its route raises is raised here."""
    with TestClient(app) as client:
        if path == "/socket":
            with client.websocket_connect(path) as socket:
                assert socket.receive_text() == "done"
        else:
            assert client.get(path).status_code == 200


def message_of(name: str, dependency: str, task: str = "work") -> str:
    """Return what the refusal of a yielded value says."""
    return (
        f"argument {name!r} of {__name__}.{task} was yielded by the dependency {dependency}, which "
        "closes it when the request ends, perhaps before the task runs: declare the dependency "
        f"in the task itself, Annotated[..., Depends({dependency.rpartition('.')[2]})], or pass "
        "an id; if it outlives the request, use check_arguments=False"
    )


def refusal(name: str, dependency: str, task: str = "work") -> str:
    """Return the same as a pattern."""
    return f"^{re.escape(message_of(name, dependency, task))}$"


def test_a_session_is_refused() -> None:
    """What a dependency closes with the request is refused, in every kind of route."""
    dependencies = (sync_session, async_session, closed_afterwards, shared_with_a_function)
    cases = list(itertools.product(dependencies, ("/sync", "/async", "/socket")))
    found = {
        (dependency.__name__, path): told(functools.partial(ask, app_of(dependency), path))
        for dependency, path in cases
    }
    assert found == {
        (dependency.__name__, path): message_of("given", dependency.__name__)
        for dependency, path in cases
    }


def test_a_dependency_that_is_an_object() -> None:
    """What the object's generator yields is refused too."""
    with pytest.raises(TypeError, match=refusal("given", "Sessions")):
        ask(app_of(Sessions()))


def fake_session() -> Session:
    """Return a session that nobody closes."""
    return Session()


def shared_session() -> Iterator[Session]:
    """Yield the session of a test."""
    yield SHARED


def test_an_override_counts_as_the_dependency() -> None:
    """A test with an override refuses what the dependency itself would have closed."""
    found = {}
    for override, path in itertools.product(
        (async_session, fake_session, shared_session), ("/sync", "/async")
    ):
        app = app_of(sync_session)
        app.dependency_overrides[sync_session] = override
        found[override.__name__, path] = told(functools.partial(ask, app, path))
    assert found == dict.fromkeys(found, message_of("given", "sync_session"))


def test_an_override_of_what_is_not_closed() -> None:
    """A dependency that closes nothing may be overridden by one that does not either."""
    app = app_of(returned)
    app.dependency_overrides[returned] = shared_session
    ask(app)


def test_a_part_of_an_argument_is_refused() -> None:
    """An object that holds the session cannot be passed either."""
    given: Any = Depends(sync_session)

    def repository(session: Session = given) -> Order:
        return Order(session)

    with pytest.raises(TypeError, match=refusal("given.part", "sync_session")):
        ask(app_of(repository), "/async")


def test_a_part_of_a_part_is_refused() -> None:
    """So is a service whose repository holds the session, and a dict in a dict."""
    given: Any = Depends(sync_session)

    def service(session: Session = given) -> Order:
        return Order(Order(session))

    def nested(session: Session = given) -> dict[str, Any]:
        return {"a": [{"b": session}]}

    with pytest.raises(TypeError, match=refusal("given.part.part", "sync_session")):
        ask(app_of(service), "/async")
    with pytest.raises(TypeError, match=refusal("given['a'][0]['b']", "sync_session")):
        ask(app_of(nested), "/async")


def test_behind_middleware_and_routers() -> None:
    """It is found wherever the route is, and whatever is around it."""
    router, app = APIRouter(prefix="/v1"), FastAPI(lifespan=setup_async_framework)
    router.include_router(app_of(sync_session).router, prefix="/more")
    app.include_router(router)

    @app.middleware("http")
    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    for path in ("/v1/more/sync", "/v1/more/async"):
        with pytest.raises(TypeError, match=refusal("given", "sync_session")):
            ask(app, path)


def test_in_a_mounted_app() -> None:
    """A request to an app inside another is looked at too."""
    app = FastAPI(lifespan=setup_async_framework)
    app.mount("/sub", app_of(sync_session))
    with pytest.raises(TypeError, match=refusal("given", "sync_session")):
        ask(app, "/sub/sync")


@pytest.mark.skipif(
    "scope" not in inspect.signature(Depends).parameters, reason="newer versions of FastAPI"
)
def test_scopes_of_dependencies() -> None:
    """It is refused whether it is closed before the response or after it."""
    app = FastAPI(lifespan=setup_async_framework)
    scopes: tuple[Any, ...] = ("function", "request")
    for scope in scopes:
        given = Depends(sync_session, scope=scope)

        @app.get(f"/{scope}")
        def route(value: Any = given) -> None:
            work(value)

    found = {scope: told(functools.partial(ask, app, f"/{scope}")) for scope in scopes}
    assert found == dict.fromkeys(scopes, message_of("given", "sync_session"))


@pytest.mark.task_modes("auto", "manual", "virtual", "seeded=1", "threads")
def test_a_session_is_refused_in_tests(asyncframe: Probe) -> None:
    """With the clients of the plugin it is refused as in production, in every mode."""
    for path in ("/sync", "/async"):
        app = app_of(sync_session)
        with (
            pytest.raises(TypeError, match=refusal("given", "sync_session")),
            asyncframe.client(app) as client,
        ):
            client.get(path)


# -- what is not refused


def a_text() -> Iterator[str]:
    """Yield a value that every module may share."""
    text = "a"
    yield text
    SHARED.close()


def settings() -> Iterator[dict[str, Any]]:
    """Yield data."""
    made = {"url": "https://example.com"}
    yield made
    SHARED.close()


async def of_the_app(request: Request) -> AsyncIterator[Session]:
    """Yield what the app has made."""
    with contextlib.suppress(ValueError):
        yield request.app.state.client


def of_the_module() -> Iterator[Session]:
    """Yield what the module has made."""
    with contextlib.suppress(ValueError):
        yield SHARED


def never_closed() -> Iterator[Session]:
    """Yield what nobody closes."""
    session = Session()
    yield session


def returned() -> Session:
    """Return what the garbage collector ends."""
    return Session()


def test_what_outlives_the_request() -> None:
    """What is not closed with the request can be passed."""
    dependencies = (a_text, settings, of_the_app, of_the_module, never_closed, returned)
    found = {
        (dependency.__name__, path): told(functools.partial(ask, app_of(dependency), path))
        for dependency, path in itertools.product(dependencies, ("/sync", "/async"))
    }
    assert found == dict.fromkeys(found, "not refused")


def test_what_a_dependency_was_given() -> None:
    """What a dependency got as an argument is not its own."""
    given: Any = Depends(returned)

    def user(client: Session = given) -> Iterator[Session]:
        with contextlib.suppress(ValueError):
            yield client

    ask(app_of(user))


def test_data_that_holds_a_session() -> None:
    """Data is refused if a part of it can be closed."""

    def session_in_data() -> Iterator[dict[str, Any]]:
        made = {"session": Session()}
        yield made
        made["session"].close()

    with pytest.raises(TypeError, match=refusal("given", session_in_data.__qualname__)):
        ask(app_of(session_in_data))


def test_the_way_out() -> None:
    """With ``check_arguments=False`` everything can be passed."""
    ask(app_of(sync_session, work.options(check_arguments=False)))


@async_task
def on_a_thread(given: Any) -> str:
    """Use what is given."""
    return type(given).__name__


@async_task
async def in_place(given: Any) -> str:
    """Use what is given."""
    return type(given).__name__


def waited_for(given: Any) -> Any:
    """Submit a task and wait."""
    return get_task_manager().submit(work, (given,), wait=True)


WAITING: dict[str, Any] = {
    "on a thread": on_a_thread,
    "in place": in_place,
    "submit": waited_for,
    "limited on a thread": on_a_thread.options(max_running=1),
    "limited in place": in_place.options(max_running=1),
    "special on a thread": on_a_thread.options(priority="high"),
    "special in place": in_place.options(priority="high"),
}


def test_what_a_request_waits_for() -> None:
    """A task that the request waits for may use what is closed with the request."""
    found = {
        way: told(functools.partial(ask, app_of(sync_session, call), "/async"))
        for way, call in WAITING.items()
    }
    assert found == dict.fromkeys(WAITING, "not refused")


def test_a_unique_task_outlives_the_request() -> None:
    """Others may wait for a unique task too, so it may not use what one request closes."""
    call = in_place.options(unique=lambda _: "one")
    with pytest.raises(TypeError, match=refusal("given", "sync_session", "in_place")):
        ask(app_of(sync_session, call), "/async")


async def test_tasks_of_a_request(asyncframe: Probe) -> None:
    """A task may pass on what it has, although it knows the request that made it."""

    @background_task
    def outer(given: Any) -> str:
        return work(given)

    app = app_of(sync_session, outer.options(check_arguments=False))
    async with asyncframe.client(app) as client:
        await client.get("/async")
        await asyncframe.settled()
    asyncframe.assert_submitted(work, times=1)


def test_what_another_request_was_given() -> None:
    """Only the current request's dependencies count."""
    kept: list[Session] = []

    def pass_the_first(given: Session) -> None:
        kept.append(given)
        work(kept[0])

    app = app_of(sync_session, pass_the_first)
    with TestClient(app) as client:
        with pytest.raises(TypeError, match=refusal("given", "sync_session")):
            client.get("/sync")
        assert client.get("/sync").status_code == 200


def test_objects_that_raise_errors() -> None:
    """No code of an argument's class runs when it is looked at."""
    loop: list[Any] = []
    loop.append(loop)
    for given in (Odd(a=1), Proxy(), [Proxy()], loop):
        ask(app_of(sync_session, lambda _, given=given: work(given)))  # type: ignore[misc]  # a default


def test_an_app_or_router_can_be_passed() -> None:
    """They have a `Depends` somewhere, and much else, which is not what they are passed for."""
    app = app_of(sync_session)

    @app.get("/app")
    def route(request: Request, value: Any = Depends(sync_session)) -> None:
        work(request.app)
        work(request.app.router)
        work([request.app.routes, request.headers, request.state])

    ask(app, "/app")


@pytest.mark.parametrize("app", [None, FastAPI()], ids=["no app", "an app"])
async def test_outside_of_requests(monkeypatch: pytest.MonkeyPatch, app: FastAPI | None) -> None:
    """In production a submission outside of a request does not pay for a look at its arguments."""
    looks: list[object] = []
    monkeypatch.setattr(guard, "require_lasting", lambda *call: looks.append(call))
    async with setup_async_framework(app):
        assert await get_task_manager().get_result(work(1)) == "done"
        assert await get_task_manager().get_result(work.options(priority="high")(1)) == "done"
        assert not looks
        token = current_scope.set({"type": "http"})
        await get_task_manager().get_result(work(1))
        current_scope.reset(token)
    assert len(looks) == (app is not None)


def test_scopes_need_no_names_of_fastapi() -> None:
    """Submitting in a request of an app without dependencies finds nothing."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.get("/sync")
    def route() -> None:
        work(Session())

    ask(app)


def test_an_interpreter_with_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is known of a generator's code, its value is let through, and nothing fails."""
    known = dis.get_instructions

    def renamed(code: CodeType) -> list[Any]:
        steps = known(code)
        unknown = [one._replace(opname=f"<{one.opcode}>", argval=None) for one in steps]
        pairs = zip(steps, unknown, strict=True)
        return [one if one.opname == "YIELD_VALUE" else other for one, other in pairs]

    def refuse(_: CodeType) -> list[Any]:
        raise ValueError

    for other in (renamed, refuse):
        yielded._yields.cache_clear()
        monkeypatch.setattr(dis, "get_instructions", other)
        ask(app_of(sync_session))
    yielded._yields.cache_clear()
