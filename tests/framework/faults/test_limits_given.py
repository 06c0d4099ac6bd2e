"""Faults in the limits that a decorator is given: rows A1 to A4 of the fault table."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest

from framework import (
    TaskManager,
    async_task,
    background_task,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.clock import VirtualClock
from tests.framework.faults.refusals import said

NAN = math.nan
BEYOND_FLOAT = 10**400


def plain() -> str:
    """Return a word."""
    return "done"


# -- A1


def shown(value: object) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def test_a1_bad_timeout() -> None:
    """A limit that is none is refused at decoration and by `options`, by name and value."""
    kinds: dict[object, str] = {
        **dict.fromkeys([-1, -0.5, 0, NAN, -math.inf, -BEYOND_FLOAT, BEYOND_FLOAT], "ValueError"),
        **dict.fromkeys(["5", True, 5j, (5,)], "TypeError"),
    }
    ways: dict[str, Callable[..., object]] = {
        "background_task": background_task,
        "background_task.options": background_task(plain).options,
        "async_task": async_task,
        "async_task.options": async_task(plain).options,
    }

    found = {
        (way, value): said(partial(call, timeout=value))
        for way, call in ways.items()
        for value in kinds
    }

    assert found == {
        (
            way,
            value,
        ): f"{kinds[value]}: timeout must be a number above 0 or a timedelta, not {shown(value)}"
        for way, value in found
    }


# -- A2


async def test_a2_endless_timeout(task_manager: TaskManager) -> None:
    """A limit that is infinite or huge lets the task run, and nothing overflows later."""
    for limit in (math.inf, 1e12, 1e308, 10**300):
        task_id = background_task(timeout=limit)(plain)()

        assert await task_manager.get_result(task_id) == "done", limit


async def test_a2_infinity_sets_no_timer(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """An infinite limit overrides the framework's and sets no timer at all."""
    coming: list[str] = []

    @background_task(timeout=math.inf)
    def look() -> None:
        coming.append(task_clock.explain())

    async with setup_async_framework(None, task_timeout=60, cleanup_interval=math.inf):
        await task_manager.get_result(look())

    # But for those of schedules that functions of other tests may have until they are collected.
    timers = [line for line in coming[0].splitlines() if "Schedules." not in line]
    assert timers in ([], ["no pending timers"])


# -- A3 and A4


throttle = partial(throttled_task, rate_limit=1)

BAD_OPTIONS: list[tuple[Callable[..., object], str, str, dict[str, list[object]]]] = [
    (
        throttled_task,
        "rate_limit",
        "a whole number of at least 1",
        {"ValueError": [0, -1], "TypeError": [NAN, 1.5, True, "5"]},
    ),
    (
        throttle,
        "time_window",
        "a number above 0 or a timedelta",
        {"ValueError": [0, -60, NAN, math.inf], "TypeError": ["60", None]},
    ),
    (
        throttle,
        "when_limited",
        "'raise' or 'wait'",
        {"ValueError": ["block", "", None, True, ["wait"]]},
    ),
    (
        throttle,
        "key",
        "a function of the call's arguments or None",
        {"TypeError": ["user"]},
    ),
    (
        retry_task,
        "max_retries",
        "a whole number of at least 0",
        {"ValueError": [-1], "TypeError": [1.5, True, "3"]},
    ),
    (
        retry_task,
        "retry_delay",
        "a number at least 0 or a timedelta",
        {"ValueError": [-0.1, NAN, math.inf], "TypeError": [None]},
    ),
    (retry_task, "backoff", "a number at least 1", {"ValueError": [0.5, 0, NAN]}),
    (
        retry_task,
        "max_delay",
        "a number at least 0 or a timedelta",
        {"ValueError": [-1], "TypeError": ["1"]},
    ),
    (
        retry_task,
        "jitter",
        "a number at least 0 and at most 1",
        {"ValueError": [-0.1, 1.1], "TypeError": [True]},
    ),
    (
        retry_task,
        "exceptions",
        "an exception class, or a tuple or list of them",
        {"TypeError": ["ValueError", ["ValueError"], (ValueError, 5), int, None]},
    ),
]


def test_a3_a4_bad_options() -> None:
    """An option of a throttle or a retry out of range is refused at decoration, by name and value.

    The error says what is allowed.
    """
    wrong = {}
    for decorator, name, allowed, kinds in BAD_OPTIONS:
        for kind, values in kinds.items():
            for value in values:
                found = said(partial(decorator, **{name: value}))
                if found != f"{kind}: {name} must be {allowed}, not {value!r}":
                    wrong[name, repr(value)] = found
    assert wrong == {}


def test_a4_no_exceptions() -> None:
    """An empty tuple of exceptions, with which nothing is ever retried, is refused."""
    with pytest.raises(
        ValueError,
        match=r"^exceptions must contain at least one exception class, not \(\): otherwise "
        r"the function would never be retried$",
    ):
        retry_task(exceptions=())


def test_a4_list_of_exceptions() -> None:
    """A list of exceptions is as good as a tuple of them, and is not changed from outside."""
    given: list[type[BaseException]] = [ConnectionError]
    calls: list[int] = []

    @retry_task(exceptions=given, retry_delay=0)
    def connect() -> None:
        calls.append(1)
        raise ConnectionError("no route")

    given.clear()
    with pytest.raises(ConnectionError, match=r"^no route$"):
        connect()
    assert len(calls) == 4


def test_a4_no_retries_calls_once() -> None:
    """With no retries allowed the function is called once, not never."""
    calls: list[str] = []

    retry_task(max_retries=0)(lambda: calls.append("call"))()

    assert calls == ["call"]
