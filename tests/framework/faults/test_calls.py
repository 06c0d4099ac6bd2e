"""Faults in what is called: rows B1 to B6 of the fault table."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from framework import (
    TaskManager,
    async_task,
    background_task,
    get_thread_pool,
    retry_task,
    throttled_task,
)
from tests.framework.bodies import Held, Hostile, async_pair, pair
from tests.framework.faults.refusals import said_by
from tests.framework.kinds import reached
from tests.patience import PATIENCE

# -- B1

WRONG_CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "missing 1 required positional argument: 'second'": ((1,), {}),
    "takes 2 positional arguments but 3 were given": ((1, 2, 3), {}),
    "got an unexpected keyword argument 'third'": ((1, 2), {"third": 3}),
    "got multiple values for argument 'first'": ((1, 2), {"first": 3}),
}


async def test_b1_wrong_call(task_manager: TaskManager) -> None:
    """A wrong call is a TypeError where it is made, submitted or awaited, and makes no task."""

    async def run(*args: Any, **kwargs: Any) -> str:
        return background_task(pair)(*args, **kwargs)

    async def submit(*args: Any, **kwargs: Any) -> str:
        return await task_manager.submit(pair, args, kwargs)

    ways: dict[str, Callable[..., Awaitable[object]]] = {
        "background": run,
        "submit": submit,
        "awaited thread": async_task(pair),
        "awaited coroutine": async_task(async_pair),
    }
    wrong = {}
    for text, (args, kwargs) in WRONG_CALLS.items():
        for way, call in ways.items():
            found = await said_by(partial(call, *args, **kwargs))
            name = "async_pair" if way == "awaited coroutine" else "pair"
            if found != f"TypeError: {name}() {text}":
                wrong[way, text] = found
    assert wrong == {}
    assert task_manager.get_stats()["submitted"] == 0


def test_b1_traceback(task_manager: TaskManager) -> None:
    """The error of a wrong call begins at the line that makes the call."""
    text = r"^pair\(\) missing 1 required positional argument: 'second'$"
    with pytest.raises(TypeError, match=text) as caught:
        background_task(pair)(1)  # type: ignore[call-arg]  # the point

    assert caught.traceback[0].name == "test_b1_traceback"


def test_b1_retry(task_manager: TaskManager) -> None:
    """A wrong call of a retried function is not retried."""
    stacked = retry_task(retry_delay=60)(pair)

    with pytest.raises(
        TypeError, match=r"^pair\(\) missing 1 required positional argument: 'second'$"
    ):
        stacked(1)  # type: ignore[call-arg]  # the point

    assert "retrying" not in task_manager.get_stats()


# -- B2

OPTION_NAMES = {
    "self": 0,
    "cls": 1,
    "timeout": 2,
    "description": 3,
    "wait": 4,
    "args": 5,
    "kwargs": 6,
    "func": 7,
    "fn": 8,
    "priority": 9,
    "task_id": 10,
    "delay": 11,
    "on_complete": 12,
    "name": 13,
    "key": 14,
    "call": 15,
}


def keywords(**given: object) -> dict[str, object]:
    """Return the keywords."""
    return given


async def async_keywords(**given: object) -> dict[str, object]:
    """Return the keywords, awaited."""
    return given


@pytest.mark.parametrize("fn", [keywords, async_keywords])
async def test_b2_submit(task_manager: TaskManager, fn: Callable[..., Any]) -> None:
    """A task's keywords reach it whatever the framework's own options are called."""
    assert await task_manager.submit(fn, (), OPTION_NAMES, wait=True) == OPTION_NAMES


@pytest.mark.parametrize("fn", [keywords, async_keywords])
async def test_b2_decorated(task_manager: TaskManager, fn: Callable[..., Any]) -> None:
    """Keywords pass through all decorators."""
    inner = retry_task(throttled_task(rate_limit=9, key=lambda **_: 1)(fn))

    assert await task_manager.get_result(background_task(inner)(**OPTION_NAMES)) == OPTION_NAMES
    assert await async_task(inner)(**OPTION_NAMES) == OPTION_NAMES


def test_b2_pool(one_worker: TaskManager) -> None:
    """Keywords pass through the pool's own submit."""
    assert get_thread_pool().submit(keywords, **OPTION_NAMES).result(PATIENCE) == OPTION_NAMES


# -- B3


async def test_b3_coroutine(task_manager: TaskManager) -> None:
    """A coroutine in place of a function is refused and closed, so that nothing warns."""
    coroutine = async_pair(1, 2)

    with pytest.raises(
        TypeError, match=r"^submit needs a function, not the coroutine <coroutine object .*$"
    ):
        await task_manager.submit(coroutine)  # type: ignore[call-overload]  # the point

    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"
    assert task_manager.get_stats()["submitted"] == 0


async def test_b3_no_function(task_manager: TaskManager) -> None:
    """Something that is not a function is refused when it is submitted, and the error shows it."""
    values: list[Any] = [None, 5, "pair", [pair]]

    found = [await said_by(partial(task_manager.submit, value)) for value in values]

    assert found == [
        f"TypeError: submit needs a function or another callable, not {value!r}" for value in values
    ]


async def test_b3_coroutine_from_sync(task_manager: TaskManager) -> None:
    """A sync function that returns a coroutine FAILED, and the coroutine is closed."""
    made: list[Any] = []

    def forgetful() -> object:
        made.append(async_pair(1, 2))
        return made[0]

    with pytest.raises(
        TypeError,
        match=r"^\S+forgetful is not an async function but returned a coroutine, "
        r"which nobody would await: submit the async function itself$",
    ):
        await task_manager.submit(forgetful, wait=True)

    assert inspect.getcoroutinestate(made[0]) == "CORO_CLOSED"


# -- B4


async def test_b4_bad_args(task_manager: TaskManager) -> None:
    """Positional arguments that are no tuple or list are refused, not spread."""
    values: list[Any] = ["ab", b"cd", 5, {1, 2}, {"first": 1}, iter([1, 2])]

    found = [await said_by(partial(task_manager.submit, pair, value)) for value in values]

    assert found == [
        "TypeError: args must be a tuple or list of positional arguments, not of type "
        f"{type(value).__name__}; for one argument use args=(value,)"
        for value in values
    ]


async def test_b4_bad_kwargs(task_manager: TaskManager) -> None:
    """Keyword arguments that are no mapping of names are refused."""
    values: list[Any] = [[], "ab", 5, {1: 2}, [("first", 1)]]

    found = [await said_by(partial(task_manager.submit, pair, (), value)) for value in values]

    assert found == [
        "TypeError: kwargs must be a dict with parameter names as keys, not of type "
        f"{type(value).__name__} or with other keys"
        for value in values
    ]


async def test_b4_none_is_empty(task_manager: TaskManager) -> None:
    """None for arguments means none."""
    assert await task_manager.submit(keywords, None, None, wait=True) == {}


async def test_b4_good_args(task_manager: TaskManager) -> None:
    """A tuple and a list are spread."""
    assert await task_manager.submit(pair, (1, 2), wait=True) == (1, 2)
    assert await task_manager.submit(pair, [1, 2], wait=True) == (1, 2)


# -- B5


async def test_b5_arguments_are_shared(one_worker: TaskManager, held_body: Held) -> None:
    """Arguments are shared with the caller, as documented: the task sees a later change."""
    await one_worker.submit(held_body)
    await reached(held_body.running)
    shared: list[str] = []

    task_id = await one_worker.submit(sorted, (shared,))
    shared.append("later")
    held_body.go_on.set()

    assert await one_worker.get_result(task_id) == ["later"]
    assert "They are not copied" in " ".join((TaskManager.submit.__doc__ or "").split())


async def test_b5_containers_are_copied(one_worker: TaskManager, held_body: Held) -> None:
    """The list and dict that hold the arguments are copied."""
    await one_worker.submit(held_body)
    await reached(held_body.running)
    args, kwargs = [1], {"second": 2}

    task_id = await one_worker.submit(pair, args, kwargs)
    args.append(3)
    kwargs.clear()
    held_body.go_on.set()

    assert await one_worker.get_result(task_id) == (1, 2)


# -- B6


class Long:
    """An argument whose text is long."""

    def __init__(self) -> None:
        self.shown = 0

    def __repr__(self) -> str:
        self.shown += 1
        return "x" * 1_000_000


def identity(value: object) -> object:
    """Return the value."""
    return value


async def async_identity(value: object) -> object:
    """Return the value, awaited."""
    return value


@pytest.mark.parametrize("fn", [identity, async_identity])
async def test_b6_hostile_argument(
    task_manager: TaskManager, fn: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An argument and result that raise at every touch go through a task unharmed."""
    hostile = Hostile()
    with caplog.at_level(logging.DEBUG, logger="asyncframe"):
        assert await task_manager.submit(fn, (hostile,), wait=True) is hostile
        assert await task_manager.get_result(background_task(fn)(hostile)) is hostile
        assert await async_task(fn)(hostile) is hostile

    statuses = [task["status"] for task in task_manager.get_all_tasks().values()]
    assert statuses == ["completed"] * 3


async def test_b6_hostile_error(task_manager: TaskManager) -> None:
    """An exception that raises at every touch is kept as it is, and shown by its type."""

    class HostileError(Hostile, Exception):
        pass

    error = HostileError()

    def fail() -> None:
        raise error

    task_id = await task_manager.submit(fail)
    # Its text raises, so that it is known by its identity.
    with pytest.raises(HostileError) as caught:
        await task_manager.get_result(task_id)

    task = await task_manager.get_task(task_id)
    assert task is not None
    assert caught.value is error
    assert task.to_dict()["error_message"] == "<HostileError whose repr raises RuntimeError>"


async def test_b6_long_argument(task_manager: TaskManager) -> None:
    """An argument is never turned into text, so a long one costs nothing."""
    long = Long()

    await task_manager.submit(identity, (long,), wait=True)
    await async_task(async_identity)(long)

    assert long.shown == 0


async def test_b6_long_result_is_cut(task_manager: TaskManager) -> None:
    """A result that has no JSON is shown by a text that is cut."""
    task_id = await task_manager.submit(Long)
    await task_manager.get_result(task_id)

    task = await task_manager.get_task(task_id)
    assert task is not None
    assert task.to_dict()["result"] == "x" * 197 + "..."


def test_b6_hostile_throttle_key(task_manager: TaskManager) -> None:
    """A key that cannot be hashed raises in the caller, and the window goes on working."""
    limited = throttled_task(rate_limit=1, key=lambda value: value)(identity)

    with pytest.raises(RuntimeError, match=r"^hash$"):
        limited(Hostile())

    assert limited(1) == 1
