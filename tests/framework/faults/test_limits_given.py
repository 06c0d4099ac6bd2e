"""Faults in the limits that a decorator is given: rows A1 to A4 of the fault table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

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

NAN = math.nan
BEYOND_FLOAT = 10**400
TASKS = [background_task, async_task]


def plain() -> str:
    """Return a word."""
    return "done"


# -- A1


@pytest.mark.parametrize("decorator", TASKS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (-0.5, ValueError),
        (0, ValueError),
        (NAN, ValueError),
        (-math.inf, ValueError),
        (-BEYOND_FLOAT, ValueError),
        ("5", TypeError),
        (True, TypeError),
        (5j, TypeError),
        ([5], TypeError),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a1_bad_timeout(
    decorator: Callable[..., Any], value: object, error: type[Exception]
) -> None:
    """A limit that is none is refused at decoration, by name and value."""
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    with pytest.raises(error, match=f"^timeout must be a number above 0, not {re.escape(shown)}$"):
        decorator(timeout=value)


@pytest.mark.parametrize("decorator", TASKS)
def test_a1_bad_timeout_option(decorator: Callable[..., Any]) -> None:
    """`options` checks a limit as the decorator does."""
    with pytest.raises(ValueError, match=r"^timeout must be a number above 0, not 0$"):
        decorator(plain).options(timeout=0)


# -- A2


@pytest.mark.parametrize("limit", [math.inf, 1e12, 1e308, 10**300])
async def test_a2_endless_timeout(task_manager: TaskManager, limit: float) -> None:
    """A limit that is infinite or huge lets the task run, and nothing overflows later."""
    task_id = background_task(timeout=limit)(plain)()

    assert await task_manager.get_result(task_id) == "done"


def test_a2_timeout_beyond_float() -> None:
    """A limit too large for a float is refused at decoration and no OverflowError."""
    with pytest.raises(ValueError, match=r"^timeout must be a number above 0, not 10{76}\.\.\.$"):
        background_task(timeout=BEYOND_FLOAT)


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


# -- A3


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (NAN, TypeError),
        (1.5, TypeError),
        (True, TypeError),
        ("5", TypeError),
    ],
)
def test_a3_bad_rate_limit(value: object, error: type[Exception]) -> None:
    """A rate that is no whole number from 1 on is refused at decoration."""
    shown = re.escape(repr(value))
    with pytest.raises(
        error, match=f"^rate_limit must be a whole number of at least 1, not {shown}$"
    ):
        throttled_task(rate_limit=value)  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-60, ValueError),
        (NAN, ValueError),
        (math.inf, ValueError),
        ("60", TypeError),
        (None, TypeError),
    ],
)
def test_a3_bad_time_window(value: object, error: type[Exception]) -> None:
    """A window that has no length in seconds is refused at decoration."""
    shown = re.escape(repr(value))
    with pytest.raises(error, match=f"^time_window must be a number above 0, not {shown}$"):
        throttled_task(rate_limit=1, time_window=value)  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize("value", ["block", "", None, True, ["wait"]])
def test_a3_bad_when_limited(value: object) -> None:
    """A word that says nothing about waiting is refused with the two that do."""
    shown = re.escape(repr(value))
    with pytest.raises(ValueError, match=f"^when_limited must be 'raise' or 'wait', not {shown}$"):
        throttled_task(rate_limit=1, when_limited=value)  # type: ignore[arg-type]  # the point


def test_a3_bad_key() -> None:
    """A key that is no function is refused at decoration."""
    with pytest.raises(
        TypeError, match=r"^key must be a function of the call's arguments or None, not 'user'$"
    ):
        throttled_task(rate_limit=1, key="user")  # type: ignore[arg-type]  # the point


# -- A4


@pytest.mark.parametrize(
    ("parameter", "value", "error", "allowed"),
    [
        ("max_retries", -1, ValueError, "a whole number of at least 0"),
        ("max_retries", 1.5, TypeError, "a whole number of at least 0"),
        ("max_retries", True, TypeError, "a whole number of at least 0"),
        ("max_retries", "3", TypeError, "a whole number of at least 0"),
        ("retry_delay", -0.1, ValueError, "a number at least 0"),
        ("retry_delay", NAN, ValueError, "a number at least 0"),
        ("retry_delay", math.inf, ValueError, "a number at least 0"),
        ("retry_delay", None, TypeError, "a number at least 0"),
        ("backoff", 0.5, ValueError, "a number at least 1"),
        ("backoff", 0, ValueError, "a number at least 1"),
        ("backoff", NAN, ValueError, "a number at least 1"),
        ("max_delay", -1, ValueError, "a number at least 0"),
        ("max_delay", "1", TypeError, "a number at least 0"),
        ("jitter", -0.1, ValueError, "a number at least 0 and at most 1"),
        ("jitter", 1.1, ValueError, "a number at least 0 and at most 1"),
        ("jitter", True, TypeError, "a number at least 0 and at most 1"),
        ("exceptions", "ValueError", TypeError, "an exception class or a tuple of them"),
        ("exceptions", ["ValueError"], TypeError, "an exception class or a tuple of them"),
        ("exceptions", (ValueError, 5), TypeError, "an exception class or a tuple of them"),
        ("exceptions", int, TypeError, "an exception class or a tuple of them"),
        ("exceptions", None, TypeError, "an exception class or a tuple of them"),
    ],
)
def test_a4_bad_retry(parameter: str, value: object, error: type[Exception], allowed: str) -> None:
    """A retry's parameter out of range is refused at decoration, by name and value."""
    shown = re.escape(repr(value))
    with pytest.raises(error, match=f"^{parameter} must be {allowed}, not {shown}$"):
        retry_task(**{parameter: value})  # type: ignore[call-overload]  # the point


def test_a4_no_exceptions() -> None:
    """An empty tuple of exceptions, with which nothing is ever retried, is refused."""
    with pytest.raises(
        ValueError, match=r"^exceptions must contain at least one exception class, not \(\): .*$"
    ):
        retry_task(exceptions=())


def test_a4_no_retries_calls_once() -> None:
    """With no retries allowed the function is called once, not never."""
    calls: list[str] = []

    retry_task(max_retries=0)(lambda: calls.append("call"))()

    assert calls == ["call"]
