"""Faults in what is decorated, and how: rows A5 to A14 of the fault table."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
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
from tests.children import python
from tests.framework.faults.refusals import said
from tests.framework.running.messages import LIMITED

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


def test_a5_no_function() -> None:
    """What is no function is refused at decoration, bare or in brackets, and the error shows it."""
    ways = LAYERS | {
        "background_task()": background_task(),
        "async_task()": async_task(),
        "retry_task()": retry_task(),
    }
    values: list[object] = [None, 5, 2.5, "name", [plain], object()]

    found = {(way, repr(one)): said(partial(ways[way], one)) for way in ways for one in values}

    by_name = {
        ("background_task", "5"): "timeout=5",
        ("background_task", "2.5"): "timeout=30",
        ("background_task", "'name'"): "description='name'",
        ("async_task", "5"): "timeout=5",
        ("async_task", "2.5"): "timeout=30",
        ("async_task", "'name'"): "description='name'",
        ("retry_task", "5"): "max_retries=5",
        ("retry_task", "2.5"): "max_retries=3",
        ("retry_task", "'name'"): "max_retries=3",
    }
    assert found == {
        (way, shown): f"TypeError: {way.removesuffix('()')} needs a function or another callable, "
        f"not {shown}"
        for way, shown in found
    } | {
        (way, shown): f"TypeError: {way} takes its options by name, as in @{way}({example}), "
        f"not {shown}"
        for (way, shown), example in by_name.items()
    }


def test_a5_coroutine() -> None:
    """A coroutine in place of its function is refused and closed, so that nothing warns."""
    coroutine = coroutine_function()

    text = r"^background_task needs a function, not the coroutine <coroutine object .*>: pass the "
    with pytest.raises(TypeError, match=text + r"function itself and its arguments, as in .*$"):
        background_task(coroutine)  # type: ignore[call-overload]  # the point

    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


def test_a5_bare_without_default() -> None:
    """The bare forms of decorators that have no default say what to write."""
    text = "throttled_task has no default rate: use @throttled_task(rate_limit=5, time_window=60), "
    with pytest.raises(TypeError, match=f"^{re.escape(text)}not @throttled_task$"):
        throttled_task(plain)
    text = r"^scheduled_task has no default interval: use @scheduled_task\(every=60\), "
    with pytest.raises(TypeError, match=text + r"not @scheduled_task$"):
        scheduled_task(plain)  # type: ignore[arg-type]  # the point


# -- A6


async def test_a6_bare_and_in_brackets(task_manager: TaskManager) -> None:
    """Each decorator with defaults works bare and with brackets, and keeps its function."""
    for submitted in (background_task(plain), background_task()(plain)):
        assert await task_manager.get_result(submitted()) == "done"
    for awaited in (async_task(plain), async_task()(plain)):
        assert await awaited() == "done"
    for retried in (retry_task(plain), retry_task()(plain)):
        assert retried() == "done"
    assert {name: layer(plain).fn for name, layer in LAYERS.items()} == dict.fromkeys(LAYERS, plain)


# -- A7 and A8


class Numbers:
    """An object whose call is a generator."""

    def __call__(self) -> Iterator[int]:
        """Yield one number."""
        yield 1


GENERATORS: dict[Callable[..., Any], str] = {
    generator_function: "generator_function",
    async_generator_function: "async_generator_function",
    partial(generator_function): "generator_function",
    partial(partial(async_generator_function)): "async_generator_function",
    Numbers(): "Numbers",
}


def test_a7_a8_generators() -> None:
    """Generators of every kind are refused at decoration, since their body would never run."""
    found = {
        (layer, name): said(partial(LAYERS[layer], fn))
        for layer in LAYERS
        for fn, name in GENERATORS.items()
    }

    assert found == {
        (layer, name): f"TypeError: {layer} cannot take the generator function {__name__}.{name}: "
        "its code would never run as a task; return a list, or iterate inside the task"
        for layer, name in found
    }


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """Be one."""
    yield


@contextlib.asynccontextmanager
async def opened_on_loop() -> AsyncIterator[None]:
    """Be one on a loop."""
    yield


def test_context_managers() -> None:
    """Context managers are refused as the generators that they are, and what wraps one is not."""

    @functools.wraps(generator_function)
    def all_of_it() -> list[int]:
        return list(generator_function())

    managers: tuple[Any, ...] = (opened, opened_on_loop, partial(opened))
    for layer, decorate in LAYERS.items():
        for fn in managers:
            assert said(partial(decorate, fn)).startswith(
                f"TypeError: {layer} cannot take the context manager {__name__}.opened"
            )
        decorate(all_of_it)


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


async def test_a9_method(task_manager: TaskManager) -> None:
    """A decorated method gets its instance once, however it is called."""
    account = Account("Ann")
    bound = account.balance
    ids = [account.balance(1), Account.balance(account, 1), bound(extra=1)]

    assert [await task_manager.get_result(one) for one in ids] == [("Ann", 1)] * 3


async def test_a9_class_and_static(task_manager: TaskManager) -> None:
    """Class and static methods work with the decorator above and below, however reached."""
    expected = {
        (holder, name): ("Account" if "class" in name else "static", 1)
        for holder in (Account, Account("Ann"))
        for name in ("above_class", "below_class", "above_static", "below_static")
    }

    found = {
        (holder, name): await task_manager.get_result(getattr(holder, name)(1))
        for holder, name in expected
    }

    assert found == expected


async def test_a9_other_layers(task_manager: TaskManager) -> None:
    """Awaited and retried methods get their instance once as well."""
    account = Account("Ann")

    assert await account.owed(1) == ("Ann", 1)
    assert account.retried(2) == ("Ann", 2)


def test_a9_throttle_is_shared(task_manager: TaskManager) -> None:
    """A throttled method is limited over all instances, as its docstring says."""
    Account("Ann").limited()

    with pytest.raises(framework.RateLimitExceededError, match=LIMITED):
        Account("Bob").limited()

    assert "if it is a method, so do all instances" in " ".join(
        (throttled_task.__doc__ or "").split()
    )


def test_a9_throttle_by_instance(task_manager: TaskManager) -> None:
    """A key made of the instance limits each instance by itself."""
    Account("Ann").limited_each()
    Account("Bob").limited_each()

    with pytest.raises(framework.RateLimitExceededError, match=LIMITED):
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
    "partial": (partial(same, factor=2), 3, 6, f"{__name__}.same"),
    "async partial": (partial(async_same), 3, 3, f"{__name__}.async_same"),
    "object": (CallableObject(), 3, 3, f"{__name__}.CallableObject"),
    "async object": (AsyncCallable(), 3, 3, f"{__name__}.AsyncCallable"),
    "builtin": (len, "abc", 3, "builtins.len"),
    "bound builtin": ("abc".count, "b", 1, "str.count"),
    "class": (int, "3", 3, "builtins.int"),
    "no signature": (max, [1, 3], 3, "builtins.max"),
}


async def test_a10_background(task_manager: TaskManager) -> None:
    """Every kind of callable works as a background task and has a name."""
    found = {}
    for odd, (fn, argument, _, _) in ODD.items():
        task_id = background_task(fn)(argument)
        result = await task_manager.get_result(task_id)
        task = await task_manager.get_task(task_id)
        found[odd] = result, task and task.name

    assert found == {odd: (result, name) for odd, (_, _, result, name) in ODD.items()}


async def test_a10_async(task_manager: TaskManager) -> None:
    """Every kind of callable works as an async task."""
    found = {odd: await async_task(fn)(argument) for odd, (fn, argument, _, _) in ODD.items()}

    assert found == {odd: result for odd, (_, _, result, _) in ODD.items()}


async def test_a10_policies(task_manager: TaskManager) -> None:
    """Retry and throttle keep the colour of every kind of callable."""
    for layer in ("retry_task", "throttled_task"):
        found = {}
        for odd, (fn, argument, _, _) in ODD.items():
            given = LAYERS[layer](fn)(argument)
            found[odd] = await given if "async" in odd else given

        assert found == {odd: result for odd, (_, _, result, _) in ODD.items()}, layer


# -- A11


WRONG_ORDERS = [
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
    *((layer, layer) for layer in LAYERS),
]


def test_a11_wrong_order() -> None:
    """Decorators in a wrong order, or twice, are refused with the order that is right."""
    found = {}
    for outer, inner in WRONG_ORDERS:
        below = LAYERS[inner](plain)
        found[outer, inner, "direct"] = said(partial(LAYERS[outer], below))
        found[outer, inner, "partial"] = said(partial(LAYERS[outer], partial(below)))

    assert found == {
        (outer, inner, how): f"TypeError: {outer} cannot decorate a function that is decorated "
        f"with {inner}; the order is {ORDER}"
        for outer, inner, how in found
    }


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


async def test_a12_endpoint() -> None:
    """A background task is an endpoint: it answers with its id, and OpenAPI says so."""
    app = FastAPI()
    for kind, endpoint in ENDPOINTS.items():
        app.post(f"/{kind}")(endpoint)

    async with serving(app) as client:
        answers = {kind: await client.post(f"/{kind}", params={"text": "hi"}) for kind in ENDPOINTS}
        paths = (await client.get("/openapi.json")).json()["paths"]

    found = {}
    for kind, answer in answers.items():
        operation = paths[f"/{kind}"]["post"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        names = [parameter["name"] for parameter in operation["parameters"]]
        is_id = re.fullmatch("[0-9a-f]{32}", answer.json()) is not None
        found[kind] = answer.status_code, is_id, names, schema["type"]
    assert found == dict.fromkeys(ENDPOINTS, (200, True, ["text"], "string"))


async def test_a12_endpoint_of_result() -> None:
    """Other decorated functions are endpoints that answer with the result."""
    app = FastAPI()
    layers = ("async_task", "retry_task", "throttled_task")
    for layer in layers:
        app.get(f"/{layer}")(LAYERS[layer](async_word))

    async with serving(app) as client:
        answers = [await client.get(f"/{layer}", params={"text": "hi"}) for layer in layers]

    assert [answer.json() for answer in answers] == ["hi"] * 3


async def test_a12_dependency() -> None:
    """A decorated function is a dependency with its own parameters."""
    app = FastAPI()

    @app.get("/run")
    async def run(text: Annotated[str, Depends(DEPENDED)]) -> str:
        return text

    async with serving(app) as client:
        assert (await client.get("/run", params={"text": "hi"})).json() == "hi"


def test_a12_looks() -> None:
    """Name, docstring and module are those of the function, and nothing is unwrapped."""
    layers = [name for name in LAYERS if name != "scheduled_task"]
    found = {}
    for layer in layers:
        one = LAYERS[layer](wraps_like_users_do(async_word))
        found[layer] = one.__name__, one.__doc__, one.__module__, hasattr(one, "__wrapped__")

    looks = ("async_word", "Repeat a text, awaited.", __name__, False)
    assert found == dict.fromkeys(layers, looks)


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


@pytest.mark.extended("processes")
def test_a13_import_starts_nothing() -> None:
    """Decorating at import starts neither thread nor loop, and a call says what is missing."""
    ended = python("-W", "error", "-c", IMPORT)

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
