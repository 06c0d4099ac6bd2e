"""Faults in what is decorated, and how: rows A5 to A14 of the fault table."""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI

import framework
from framework import (
    TaskManager,
    async_task,
    background_task,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)

LAYERS: dict[str, Callable[..., Any]] = {
    "background_task": background_task,
    "async_task": async_task,
    "retry_task": retry_task,
    "throttled_task": throttled_task(rate_limit=5),
    "scheduled_task": scheduled_task(every=5),
}
ORDER = (
    "background_task, async_task or scheduled_task outermost (written first), then "
    "retry_task, then throttled_task, each at most once"
)


def plain() -> str:
    """Return a word."""
    return "done"


async def coroutine_function() -> str:
    """Return a word, awaited."""
    return "done"


def generator_function() -> Iterator[int]:
    """Yield one number."""
    yield 1


async def async_generator_function() -> AsyncIterator[int]:
    """Yield one number, asynchronously."""
    yield 1


# -- A5


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("value", [None, 5, 2.5, "name", [plain], object])
def test_a5_no_function(layer: str, value: object) -> None:
    """Something that is not a function is refused at decoration, and the error shows it."""
    if value is object:
        value = object()
    with pytest.raises(TypeError, match=re.escape(repr(value))):
        LAYERS[layer](value)


@pytest.mark.parametrize("layer", ["background_task", "async_task", "retry_task"])
@pytest.mark.parametrize("value", [None, 5, [plain]])
def test_a5_no_function_in_brackets(layer: str, value: object) -> None:
    """The form with brackets refuses what is no function as the bare one does."""
    message = f"^{layer} needs a function or another callable, not {re.escape(repr(value))}$"
    with pytest.raises(TypeError, match=message):
        LAYERS[layer]()(value)


def test_a5_coroutine() -> None:
    """A coroutine in place of its function is refused and closed, so that nothing warns."""
    coroutine = coroutine_function()

    with pytest.raises(TypeError, match=r"^background_task needs a function, not the coroutine "):
        background_task(coroutine)  # type: ignore[call-overload]  # the point

    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


def test_a5_bare_without_default() -> None:
    """The bare forms of decorators that have no default say what to write."""
    with pytest.raises(TypeError, match=r"^throttled_task has no default rate: use @throttled"):
        throttled_task(plain)
    with pytest.raises(TypeError, match=r"^scheduled_task has no default interval: use @sched"):
        scheduled_task(plain)  # type: ignore[arg-type]  # the point


# -- A6


@pytest.mark.parametrize("form", ["bare", "brackets"])
async def test_a6_background(task_manager: TaskManager, form: str) -> None:
    """A background task works bare and with brackets: its call gives an id."""
    run = background_task(plain) if form == "bare" else background_task()(plain)

    assert await task_manager.get_result(run()) == "done"


@pytest.mark.parametrize("form", ["bare", "brackets"])
async def test_a6_async(task_manager: TaskManager, form: str) -> None:
    """An async task works bare and with brackets: its await gives the result."""
    run = async_task(plain) if form == "bare" else async_task()(plain)

    assert await run() == "done"


@pytest.mark.parametrize("form", ["bare", "brackets"])
def test_a6_retry(form: str) -> None:
    """A retried function works bare and with brackets: its call gives the result."""
    run = retry_task(plain) if form == "bare" else retry_task()(plain)

    assert run() == "done"


@pytest.mark.parametrize("layer", LAYERS)
def test_a6_fn(layer: str) -> None:
    """The undecorated function is kept as it was."""
    assert LAYERS[layer](plain).fn is plain


# -- A7 and A8


GENERATORS = {
    "function": generator_function,
    "async": async_generator_function,
    "partial": functools.partial(generator_function),
    "nested": functools.partial(functools.partial(async_generator_function)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["function", "partial"])
def test_a7_generator(layer: str, form: str) -> None:
    """A generator function is refused at decoration, since its body would never run."""
    with pytest.raises(
        TypeError,
        match=rf"^{layer} cannot take the generator function {__name__}\.generator_function: ",
    ):
        LAYERS[layer](GENERATORS[form])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["async", "nested"])
def test_a8_async_generator(layer: str, form: str) -> None:
    """An async generator function is refused at decoration."""
    with pytest.raises(
        TypeError,
        match=rf"^{layer} cannot take the generator function {__name__}\.async_generator_",
    ):
        LAYERS[layer](GENERATORS[form])


def test_a7_generator_method() -> None:
    """A callable object whose call is a generator is refused as well."""

    class Numbers:
        def __call__(self) -> Iterator[int]:
            yield 1

    with pytest.raises(TypeError, match=r"^background_task cannot take the generator function "):
        background_task(Numbers())


# -- A9


class Account:
    """Methods of every kind, decorated."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    @background_task
    def balance(self, extra: int) -> tuple[str, int]:
        """Return the owner and a number."""
        return self.owner, extra

    @async_task
    async def owed(self, extra: int) -> tuple[str, int]:
        """Return the owner and a number, in place."""
        return self.owner, extra

    @classmethod
    @background_task
    def above_class(cls, extra: int) -> tuple[str, int]:
        """Return the class's name and a number."""
        return cls.__name__, extra

    @background_task
    @classmethod
    def below_class(cls, extra: int) -> tuple[str, int]:
        """Return the class's name and a number."""
        return cls.__name__, extra

    @staticmethod
    @background_task
    def above_static(extra: int) -> tuple[str, int]:
        """Return a word and a number."""
        return "static", extra

    @background_task
    @staticmethod
    def below_static(extra: int) -> tuple[str, int]:
        """Return a word and a number."""
        return "static", extra

    @throttled_task(rate_limit=1)
    def limited(self) -> str:
        """Return the owner, once a minute."""
        return self.owner

    @throttled_task(rate_limit=1, key=lambda self: self.owner)
    def limited_each(self) -> str:
        """Return the owner, once a minute for each owner."""
        return self.owner

    @retry_task(retry_delay=0)
    def retried(self, extra: int) -> tuple[str, int]:
        """Return the owner and a number."""
        return self.owner, extra


@pytest.mark.parametrize("call", ["instance", "class", "bound"])
async def test_a9_method(task_manager: TaskManager, call: str) -> None:
    """A decorated method gets its instance once, however it is called."""
    account = Account("Ann")
    ways: dict[str, Callable[[], str]] = {
        "instance": lambda: account.balance(1),
        "class": lambda: Account.balance(account, 1),
        "bound": lambda: (account.balance)(extra=1),
    }

    assert await task_manager.get_result(ways[call]()) == ("Ann", 1)


@pytest.mark.parametrize("name", ["above_class", "below_class", "above_static", "below_static"])
@pytest.mark.parametrize("through", ["class", "instance"])
async def test_a9_class_and_static(task_manager: TaskManager, name: str, through: str) -> None:
    """Class and static methods work with the decorator above and below."""
    holder = Account if through == "class" else Account("Ann")
    first = "Account" if "class" in name else "static"

    task_id = getattr(holder, name)(1)

    assert await task_manager.get_result(task_id) == (first, 1)


async def test_a9_other_layers(task_manager: TaskManager) -> None:
    """Awaited and retried methods get their instance once as well."""
    account = Account("Ann")

    assert await account.owed(1) == ("Ann", 1)
    assert account.retried(2) == ("Ann", 2)


def test_a9_throttle_is_shared(task_manager: TaskManager) -> None:
    """A throttled method is limited over all instances, as its docstring says."""
    Account("Ann").limited()

    with pytest.raises(framework.RateLimitExceededError):
        Account("Bob").limited()

    assert "if it is a method, so do all instances" in " ".join(
        (throttled_task.__doc__ or "").split()
    )


def test_a9_throttle_by_instance(task_manager: TaskManager) -> None:
    """A key made of the instance limits each instance by itself."""
    Account("Ann").limited_each()
    Account("Bob").limited_each()

    with pytest.raises(framework.RateLimitExceededError):
        Account("Ann").limited_each()


# -- A10


class CallableObject:
    """An object that can be called."""

    def __call__(self, number: int) -> int:
        """Return the number."""
        return number

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class AsyncCallable:
    """An object whose call is a coroutine function."""

    async def __call__(self, number: int) -> int:
        """Return the number."""
        return number


def same(number: int, *, factor: int = 1) -> int:
    """Return a number."""
    return number * factor


async def async_same(number: int) -> int:
    """Return a number, awaited."""
    return number


ODD: dict[str, tuple[Callable[..., Any], Any, Any, str]] = {
    "lambda": (lambda number: number, 3, 3, f"{__name__}.<lambda>"),
    "partial": (functools.partial(same, factor=2), 3, 6, f"{__name__}.same"),
    "async partial": (functools.partial(async_same), 3, 3, f"{__name__}.async_same"),
    "object": (CallableObject(), 3, 3, f"{__name__}.CallableObject"),
    "async object": (AsyncCallable(), 3, 3, f"{__name__}.AsyncCallable"),
    "builtin": (len, "abc", 3, "builtins.len"),
    "bound builtin": ("abc".count, "b", 1, "str.count"),
    "class": (int, "3", 3, "builtins.int"),
    "no signature": (max, [1, 3], 3, "builtins.max"),
}


@pytest.mark.parametrize("odd", ODD)
async def test_a10_background(task_manager: TaskManager, odd: str) -> None:
    """Every kind of callable works as a background task and has a name."""
    fn, argument, result, name = ODD[odd]

    task_id = background_task(fn)(argument)

    assert await task_manager.get_result(task_id) == result
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert task.name == name


@pytest.mark.parametrize("odd", ODD)
async def test_a10_async(task_manager: TaskManager, odd: str) -> None:
    """Every kind of callable works as an async task."""
    fn, argument, result, _ = ODD[odd]

    assert await async_task(fn)(argument) == result


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("layer", ["retry_task", "throttled_task"])
async def test_a10_policies(task_manager: TaskManager, odd: str, layer: str) -> None:
    """Retry and throttle keep the colour of every kind of callable."""
    fn, argument, result, _ = ODD[odd]

    given = LAYERS[layer](fn)(argument)

    assert (await given if "async" in odd else given) == result


# -- A11


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("retry_task", "background_task"),
        ("retry_task", "async_task"),
        ("retry_task", "scheduled_task"),
        ("throttled_task", "retry_task"),
        ("throttled_task", "background_task"),
        ("throttled_task", "async_task"),
        ("background_task", "async_task"),
        ("async_task", "background_task"),
        ("background_task", "scheduled_task"),
        ("scheduled_task", "background_task"),
        ("background_task", "background_task"),
        ("async_task", "async_task"),
        ("retry_task", "retry_task"),
        ("throttled_task", "throttled_task"),
        ("scheduled_task", "scheduled_task"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["direct", "partial"])
def test_a11_wrong_order(outer: str, inner: str, wrapped: bool) -> None:
    """Decorators in a wrong order, or twice, are refused with the order that is right."""
    below = LAYERS[inner](plain)
    with pytest.raises(
        TypeError,
        match=f"^{outer} cannot decorate a function that is decorated with {inner}; "
        f"the order is {re.escape(ORDER)}$",
    ):
        LAYERS[outer](functools.partial(below) if wrapped else below)


@pytest.mark.parametrize("outer", [background_task, async_task])
async def test_a11_full_stack_counts_once(
    task_manager: TaskManager, outer: Callable[..., Any]
) -> None:
    """In the right order attempts count once, throttled calls too, and one task is made."""
    calls: list[int] = []

    @outer
    @retry_task(max_retries=2, retry_delay=0)
    @throttled_task(rate_limit=10)
    def stacked() -> None:
        calls.append(len(calls))
        raise ValueError(len(calls))

    given = stacked()
    with pytest.raises(ValueError, match=r"^3$"):
        await (given if outer is async_task else task_manager.get_result(given))

    (task,) = task_manager.get_all_tasks().values()
    assert calls == [0, 1, 2]
    assert task["attempts"] == 3


async def test_a11_submit_decorated(task_manager: TaskManager) -> None:
    """A decorated function that is submitted makes one task and not two."""
    result = await task_manager.submit(background_task(plain), wait=True)

    assert result == "done"
    assert task_manager.get_stats()["submitted"] == 1


# -- A12


def wraps_like_users_do(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate with ``functools.wraps``, which sets ``__wrapped__``."""

    @functools.wraps(fn)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return inner


def word(text: Annotated[str, "a text"] = "hello") -> str:
    """Repeat a text."""
    return text


async def async_word(text: str = "hello") -> str:
    """Repeat a text, awaited."""
    return text


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run the framework for *app* and give a client of it."""
    transport = httpx.ASGITransport(app)
    async with (
        setup_async_framework(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


DEPENDED = async_task(word)
ENDPOINTS: dict[str, Callable[..., Any]] = {
    "sync": background_task(word),
    "async": background_task(async_word),
    "wrapped": background_task(wraps_like_users_do(async_word)),
    "retried": background_task(retry_task(async_word)),
}


@pytest.mark.parametrize("kind", ENDPOINTS)
async def test_a12_endpoint(kind: str) -> None:
    """A background task is an endpoint: it answers with its id, and OpenAPI says so."""
    app = FastAPI()
    app.post("/run")(ENDPOINTS[kind])

    async with serving(app) as client:
        answer = await client.post("/run", params={"text": "hi"})
        operation = (await client.get("/openapi.json")).json()["paths"]["/run"]["post"]

    assert answer.status_code == 200
    assert re.fullmatch("[0-9a-f]{32}", answer.json())
    assert [parameter["name"] for parameter in operation["parameters"]] == ["text"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["type"] == "string"


@pytest.mark.parametrize("layer", ["async_task", "retry_task", "throttled_task"])
async def test_a12_endpoint_of_result(layer: str) -> None:
    """Other decorated functions are endpoints that answer with the result."""
    app = FastAPI()
    app.get("/run")(LAYERS[layer](async_word))

    async with serving(app) as client:
        assert (await client.get("/run", params={"text": "hi"})).json() == "hi"


async def test_a12_dependency() -> None:
    """A decorated function is a dependency with its own parameters."""
    app = FastAPI()

    @app.get("/run")
    async def run(text: Annotated[str, Depends(DEPENDED)]) -> str:
        return text

    async with serving(app) as client:
        assert (await client.get("/run", params={"text": "hi"})).json() == "hi"


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "scheduled_task"])
def test_a12_looks(layer: str) -> None:
    """Name, docstring and module are those of the function, and nothing is unwrapped."""
    decorated = LAYERS[layer](wraps_like_users_do(async_word))

    assert decorated.__name__ == "async_word"
    assert decorated.__doc__ == "Repeat a text, awaited."
    assert decorated.__module__ == __name__
    assert not hasattr(decorated, "__wrapped__")


# -- A13

IMPORT = """
import asyncio, sys, threading
import framework
from framework import *

@background_task
def one(): ...

@async_task
@retry_task
@throttled_task(rate_limit=1)
async def two(): ...

@scheduled_task(every=1, run_at_start=True)
def three(): ...

assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert asyncio._get_running_loop() is None
try:
    one()
except framework.FrameworkNotStartedError:
    print("refused")
"""


def test_a13_import_starts_nothing() -> None:
    """Decorating at import starts neither thread nor loop, and a call says what is missing."""
    root = str(Path(framework.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {root!r}){IMPORT}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.stdout, ended.stderr) == ("refused\n", "")


# -- A14


async def test_a14_recursion(task_manager: TaskManager) -> None:
    """A background task that calls itself submits one further task each time."""
    ids: list[str] = []

    @background_task
    def countdown(left: int) -> int:
        if left:
            ids.append(countdown(left - 1))
        return left

    ids.append(countdown(3))
    results = []
    while ids:
        results.append(await task_manager.get_result(ids.pop(0)))

    assert results == [3, 2, 1, 0]
    assert task_manager.get_stats()["submitted"] == 4


async def test_a14_direct_recursion(task_manager: TaskManager) -> None:
    """Inside a task `.fn` calls the function itself, without a further task."""

    @background_task
    def factorial(number: int) -> int:
        return number * factorial.fn(number - 1) if number else 1

    assert await task_manager.get_result(factorial(5)) == 120
    assert task_manager.get_stats()["submitted"] == 1
