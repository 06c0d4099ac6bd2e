"""How a task's function declares dependencies, and what its callers see of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Header,
    Path,
    Query,
    Request,
    Response,
    Security,
    WebSocket,
)
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from typing_extensions import TypeAliasType

from framework import (
    TaskId,
    async_task,
    background_task,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.probe import Probe


def get_number() -> int:
    """Return the dependency's value."""
    return 42


Number = Annotated[int, Depends(get_number)]


# -- forms


def first(number: Number, text: str) -> Any:
    """Declare it before an argument."""
    return number, text


def last(text: str, number: int = Depends(get_number)) -> Any:
    """Declare it as a default."""
    return number, text


def by_name(text: str, *, number: Number) -> Any:
    """Declare it by name only."""
    return number, text


def before_more(text: str, number: Number, *more: str) -> Any:
    """Declare it before further positional arguments."""
    return (number, text, *more)


def with_both(text: str, number: Number = Depends()) -> Any:
    """Say with a default that callers leave it out."""
    return number, text


def secured(text: str, number: int = Security(get_number)) -> Any:
    """Declare it with Security."""
    return number, text


async def on_a_loop(number: Number, text: str) -> Any:
    """Declare it on a coroutine function."""
    return number, text


class Shop:
    """Has methods with dependencies."""

    def sell(self, number: Number, text: str) -> Any:
        """Declare it on a method."""
        return number, text

    @staticmethod
    def still(number: Number, text: str) -> Any:
        """Declare it on a static method."""
        return number, text

    @classmethod
    def of_all(cls, number: Number, text: str) -> Any:
        """Declare it on a class method."""
        return number, text

    def __call__(self, number: Number, text: str) -> Any:
        """Declare it on a callable object."""
        return number, text


FORMS: dict[str, Callable[..., Any]] = {
    "first": first,
    "last": last,
    "by name": by_name,
    "before more": before_more,
    "with both": with_both,
    "secured": secured,
    "on a loop": on_a_loop,
    "method": Shop().sell,
    "static method": Shop.still,
    "class method": Shop.of_all,
    "object": Shop(),
    "partial": functools.partial(first),
    "partial of a method": functools.partial(Shop().sell),
}


async def test_decorated(asyncframe: Probe) -> None:
    """However it is declared, a task gets the value, and callers pass the rest."""
    found = {}
    for name, fn in FORMS.items():
        decorated = background_task(fn)
        assert decorated.fn is fn
        results = [
            (await asyncframe.completed(one)).result
            for one in (decorated("a"), decorated(text="a"))
        ]
        results.append(await async_task(fn)("a"))
        found[name] = (results, [*inspect.signature(decorated).parameters][:1])
        assert "number" not in inspect.signature(decorated).parameters, name
    assert found == dict.fromkeys(FORMS, ([(42, "a")] * 3, ["text"]))


async def test_submitted(asyncframe: Probe) -> None:
    """A function that is submitted without a decorator gets the value as well."""
    found = {}
    for name, fn in FORMS.items():
        ids = [await asyncframe.manager.submit(fn, ("a",)) for _ in range(2)]
        found[name] = [(await asyncframe.completed(one)).result for one in ids]
        asyncframe.assert_submitted(fn, "a")
    assert found == dict.fromkeys(FORMS, [(42, "a")] * 2)
    assert asyncframe.manager.get_stats()["submitted"] == 2 * len(FORMS)


async def test_layers(asyncframe: Probe) -> None:
    """Below a retry and a throttle too, and their own signature stays as it is."""
    found, rates = {}, {}
    for name, fn in FORMS.items():
        below: Any = retry_task(throttled_task(rate_limit=10)(fn))
        assert str(inspect.signature(below)) == str(inspect.signature(fn)), name
        assert below.fn.fn is fn
        ids = [background_task(below)("a"), background_task(below)("a")]
        ids.append(await asyncframe.manager.submit(below, ("a",)))
        found[name] = [(await asyncframe.completed(one)).result for one in ids]
        rates[name] = asyncframe.rate(fn).max_in(60)
        await asyncframe.clock.run_for(60)
    assert found == dict.fromkeys(FORMS, [(42, "a")] * 3)
    # All in the one window of the throttle.
    assert rates == dict.fromkeys(FORMS, 3)


async def test_more_positional_arguments(asyncframe: Probe) -> None:
    """Arguments that follow a dependency are passed by position."""
    decorated: Any = background_task(before_more)
    task_id = decorated("a", "b", "c")
    assert (await asyncframe.completed(task_id)).result == (42, "a", "b", "c")


def test_outside_of_a_task() -> None:
    """A retry or throttle alone provides nothing: FastAPI does, where it is an endpoint."""
    assert retry_task(first)(1, "a") == (1, "a")
    assert retry_task(last)("a", number=1) == (1, "a")


def test_scheduled(asyncframe: Probe) -> None:
    """A scheduled function gets its dependencies when it is due, and not if it is called."""
    seen: list[int] = []

    def collect(number: int = Depends(get_number)) -> None:
        seen.append(number)

    scheduled = scheduled_task(every=60)(collect)
    scheduled(1)  # type: ignore[call-arg]  # a direct call is that of the plain function
    with asyncframe.client(FastAPI(lifespan=setup_async_framework)):
        asyncframe.clock.advance(61)
        asyncframe.run_until_idle()
    assert seen == [1, 42]


def test_two_functions_of_one_code(asyncframe: Probe) -> None:
    """Functions that one def statement makes have their own dependencies."""

    def made(value: str) -> Callable[..., Any]:
        def provide() -> str:
            return value

        def use(found: str = Depends(provide)) -> str:
            return found

        return use

    ids = [asyncframe.manager.submit_nowait(made(value)) for value in "ab"]
    assert [asyncframe.run_until_complete(one).result for one in ids] == ["a", "b"]


async def test_a_scheduled_function_that_is_submitted(asyncframe: Probe) -> None:
    """A scheduled function that is submitted gets its dependencies."""

    def collect(number: int = Depends(get_number)) -> int:
        return number

    task_id = await asyncframe.manager.submit(scheduled_task(every=60)(collect))
    assert (await asyncframe.completed(task_id)).result == 42


async def test_a_wrapper_of_a_function(asyncframe: Probe) -> None:
    """A wrapper is not taken for the function that it wraps, whose attributes it has."""

    def fn(number: int = Depends(get_number)) -> Any:
        return number

    await asyncframe.completed(await asyncframe.manager.submit(fn))

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return "wrapped", fn(*args, **kwargs)

    task_id = await asyncframe.manager.submit(wrapper)
    assert (await asyncframe.completed(task_id)).result == ("wrapped", 42)


async def test_a_wrapped_dependency(asyncframe: Probe) -> None:
    """A dependency with a decorator that keeps its looks is entered and left."""
    seen: list[str] = []

    def opened() -> Iterator[str]:
        yield "opened"
        seen.append("closed")

    @functools.wraps(opened)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return opened(*args, **kwargs)

    def use(value: str = Depends(wrapper)) -> str:
        return value

    task_id = await asyncframe.manager.submit(use)
    assert (await asyncframe.completed(task_id)).result == "opened"
    assert seen == ["closed"]


Aliased = TypeAliasType("Aliased", Number)


def with_an_alias(text: str, number: Aliased) -> Any:
    """Declare it by an alias, as a type statement makes it."""
    return number, text


async def test_an_alias(asyncframe: Probe) -> None:
    """The annotation may be an alias that a type statement has made."""
    task_id = await asyncframe.manager.submit(with_an_alias, ("a",))
    assert (await asyncframe.completed(task_id)).result == (42, "a")


# -- calls


def test_passing_one(asyncframe: Probe) -> None:
    """A call that passes a dependency is refused, and told what to do."""
    decorated: Any = background_task(last)
    below: Any = background_task(retry_task(last))
    refused = [
        lambda: decorated("a", number=1),
        lambda: below("a", number=1),
        lambda: background_task(functools.partial(last, number=1)),
        lambda: decorated("a", 1),
    ]
    told = []
    for call in refused:
        with pytest.raises(TypeError) as error:
            call()
        told.append(str(error.value))
    said = (
        "{0}() does not take 'number', which Depends provides: leave it out; to pass a value of "
        "your own, call {0}.fn(...), or set app.dependency_overrides in a test"
    )
    assert told == [
        said.format("last"),
        said.format("last"),
        said.format(f"{__name__}.last"),
        (
            "last() takes 1 positional argument but 2 were given (number: not counted, since "
            "Depends provides it)"
        ),
    ]
    assert decorated.fn("a", 1) == (1, "a")
    asyncframe.assert_idle()


async def test_matchers(asyncframe: Probe) -> None:
    """A test asserts on the arguments that were passed, and not on dependencies."""
    decorated: Any = background_task(first)
    await asyncframe.completed(decorated("a"))
    asyncframe.assert_submitted(decorated, "a")
    asyncframe.assert_submitted(decorated, text="a")
    asyncframe.assert_submitted("first", "a", times=1)
    asyncframe.assert_not_submitted(last)


async def test_unique(asyncframe: Probe) -> None:
    """Dependencies are no part of the arguments that a unique task is known by."""
    decorated: Any = background_task(unique=True)(first)
    same = [decorated("a"), decorated(text="a"), decorated("b")]
    assert same[0] == same[1] != same[2]
    await asyncframe.settled()


async def test_run_again(asyncframe: Probe) -> None:
    """A task that runs again gets new values, since none were kept."""
    opened: list[int] = []

    def open_one() -> int:
        opened.append(len(opened))
        return opened[-1]

    @background_task
    def fail(name: str, number: int = Depends(open_one)) -> None:
        raise ValueError(f"{name}{number}")

    failed = await asyncframe.completed(fail("a"), check=False)
    again = await asyncframe.completed(
        await asyncframe.manager.run_again(failed.task_id), check=False
    )
    assert (str(failed.error), str(again.error)) == ("a0", "a1")


# -- endpoints

shop = FastAPI(lifespan=setup_async_framework)
given: list[Any] = []


def get_marker() -> Iterator[str]:
    """Tell when it is opened and closed."""
    given.append("opened")
    yield "marker"
    given.append("closed")


@shop.post("/orders/{order}")
@background_task
def order_task(order: int, marker: Annotated[str, Depends(get_marker)], count: int = 1) -> str:
    """Be an endpoint and a task."""
    given.append((order, count))
    return marker


async def test_an_endpoint(asyncframe: Probe) -> None:
    """A task function that is an endpoint gets its dependencies in the task."""
    given.clear()
    async with asyncframe.client(shop) as client:
        answer = await client.post("/orders/7?count=2")
        assert given == []
        assert (await asyncframe.completed(answer)).result == "marker"
    assert given == ["opened", (7, 2), "closed"]
    parameters = shop.openapi()["paths"]["/orders/{order}"]["post"]["parameters"]
    assert [one["name"] for one in parameters] == ["order", "count"]


def tenant(x_tenant: Annotated[str, Header()] = "public", page: int = 1) -> tuple[str, int]:
    """Read what a request may have."""
    return x_tenant, page


def account(of: Annotated[tuple[str, int], Depends(tenant)], mark: str = Cookie("")) -> str:
    """Depend on that."""
    return f"{of}{mark}"


async def test_what_a_route_loses(asyncframe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """The log names what a request may have for the dependencies of a route that is a task."""

    async def show(account: str = Depends(account)) -> str:
        return account

    app = FastAPI(lifespan=setup_async_framework)
    app.get("/one")(background_task(show))
    app.get("/two")(async_task(retry_task(show)))
    app.get("/kept")(account)
    async with asyncframe.client(app):
        pass
    told = (
        "ignores the cookie 'mark' of account, the header 'x-tenant' of account > tenant, the "
        "parameter 'page' of a request of account > tenant: its dependencies run in the task, not "
        "in the request, and take their defaults there; use them in a route of its own, which "
        "passes their values to the task"
    )
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
        f"the route {path} {told}" for path in ("/one", "/two")
    ]


# -- what a task does not have

scheme = OAuth2PasswordBearer("token")


def of_the_request(request: Request) -> None:
    """Need the request."""


def of_a_websocket(socket: WebSocket) -> None:
    """Need a WebSocket."""


def of_the_response(response: Response) -> None:
    """Need the response."""


def of_background_tasks(tasks: BackgroundTasks) -> None:
    """Need FastAPI's background tasks."""


def of_scopes(scopes: SecurityScopes) -> None:
    """Need the scopes."""


def of_a_header(x_token: Annotated[str, Header()]) -> None:
    """Need a header."""


def of_a_cookie(session_id: str = Cookie()) -> None:
    """Need a cookie."""


def of_a_path(item: Annotated[int, Path()]) -> None:
    """Need a parameter of the path."""


def of_a_query(search: Annotated[str, Query(alias="q")]) -> None:
    """Need a query parameter."""


def of_anything(size: int) -> None:
    """Need what FastAPI would look for in the query."""


def of_a_login(token: Annotated[str, Depends(scheme)]) -> None:
    """Need a security scheme."""


class OfAHeader:
    """Is made from a header."""

    def __init__(self, x_token: Annotated[str, Header()]) -> None:
        self.x_token = x_token


NEEDS: dict[Callable[..., Any], str] = {
    of_the_request: "of_the_request needs the request",
    of_a_websocket: "of_a_websocket needs the request",
    of_the_response: "of_the_response needs the response",
    of_background_tasks: "of_background_tasks needs the background tasks",
    of_scopes: "of_scopes needs the security scopes",
    of_a_header: "of_a_header needs the header 'x-token'",
    of_a_cookie: "of_a_cookie needs the cookie 'session_id'",
    of_a_path: "of_a_path needs the path parameter 'item'",
    of_a_query: "of_a_query needs the query parameter 'q'",
    of_anything: "of_anything needs the parameter 'size' of a request",
    of_a_login: "of_a_login > OAuth2PasswordBearer needs the request",
    OfAHeader: "OfAHeader needs the header 'x-token'",
}


def test_what_only_a_request_has() -> None:
    """A dependency that needs a request is refused at decoration, and the chain is named."""
    found = {}
    for needed in NEEDS:

        def between(value: Any = Depends(needed)) -> Any:
            return value

        def report(size: int, value: Any = Depends(between)) -> None:
            raise AssertionError

        with pytest.raises(TypeError) as refused:
            background_task(report)
        found[needed] = str(refused.value)
    assert found == {
        needed: f"report cannot run as a task, because its dependency between > {told}, which a "
        "task does not have: use that dependency in the route, and pass its value to the task as "
        "an argument"
        for needed, told in NEEDS.items()
    }


def with_defaults(
    request: Request = None,  # type: ignore[assignment]  # as FastAPI's users write it
    page: int = 1,
    size: int = Query(10),
    token: Annotated[str, Header()] = "none",
    tags: list[str] = Query(default_factory=list),
    names: list[str] = Query(["a"]),
) -> Any:
    """Need nothing that has no default."""
    names.append("b")
    return request, page, size, token, tags, names


class Paging:
    """A class as a dependency."""

    def __init__(self, page: int = 1, number: Number = 0) -> None:
        self.page, self.number = page, number


async def test_defaults(asyncframe: Probe) -> None:
    """Parameters with defaults take them, and a class is made with its own dependencies."""

    def use(
        found: Any = Depends(with_defaults), paging: Any = Depends(Paging, use_cache=False)
    ) -> Any:
        return found, paging.page, paging.number

    for _ in range(2):
        task = await asyncframe.completed(await asyncframe.manager.submit(use))
        assert task.result == ((None, 1, 10, "none", [], ["a", "b"]), 1, 42)


def of_class(paging: Annotated[Paging, Depends()]) -> int:
    """Name the class in the annotation only."""
    return paging.number


async def test_a_class_in_the_annotation(asyncframe: Probe) -> None:
    """Depends() without a function takes the class of the annotation."""
    task_id = await asyncframe.manager.submit(of_class)
    assert (await asyncframe.completed(task_id)).result == 42


# -- mistakes


def test_a_circle() -> None:
    """Dependencies that go round in a circle are refused."""

    def one(value: Any = None) -> None:
        raise AssertionError

    one.__defaults__ = (Depends(one),)

    def use(value: Any = Depends(one)) -> None:
        raise AssertionError

    with pytest.raises(
        TypeError, match=r"^the dependencies of use go round in a circle, through one$"
    ):
        background_task(use)


def test_an_annotation_that_cannot_be_evaluated() -> None:
    """An annotation with an unknown name is refused if it has a dependency."""

    def use(value: Annotated[Unknown, Depends(get_number)]) -> None:  # type: ignore[name-defined]  # noqa: F821
        raise AssertionError

    said = (
        r"^the annotation of 'value' in \S+\.use cannot be evaluated: .+; define its names in the "
        r"module, outside of functions and of 'if TYPE_CHECKING'$"
    )
    with pytest.raises(TypeError, match=said):
        background_task(use)


def test_two_dependencies() -> None:
    """One in the annotation and another one as the default are refused."""

    def use(value: Number = Depends(get_number)) -> None:
        raise AssertionError

    said = (
        r"^'value' in \S+\.use has two dependencies, in its annotation and as its default: remove "
        r"one; 'Depends\(\)' as the default only tells type checkers that callers leave it out$"
    )
    with pytest.raises(TypeError, match=said):
        background_task(use)


def test_no_function() -> None:
    """Depends() without a function and without a class is refused."""

    def use(value=Depends()):
        raise AssertionError

    said = (
        r"^'value' in \S+\.use has 'Depends\(\)' without a function, and no class as its "
        r"annotation: use Depends\(<function>\)$"
    )
    with pytest.raises(TypeError, match=said):
        background_task(use)


def test_positional_only() -> None:
    """A dependency that cannot be passed by name is refused."""

    def use(value: Any = Depends(get_number), /) -> None:
        raise AssertionError

    said = (
        r"^the dependency 'value' of use stands before '/', but dependencies are passed by name: "
        r"move it behind the '/'$"
    )
    with pytest.raises(TypeError, match=said):
        background_task(use)


def test_a_return_type() -> None:
    """The signature says that a call returns an id of the function's result."""
    assert inspect.signature(background_task(of_class)).return_annotation == TaskId[int]
