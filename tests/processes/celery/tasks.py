"""Tasks that the tests of the Celery engine run, in a worker's processes.

What they do is counted in lists of Redis, by which the tests also wait for them; a list
is a gate as well: whoever takes from it waits until something is put there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import redis
from celery.exceptions import Ignore, Reject, Retry, WorkerLostError
from opentelemetry import baggage, trace

from framework import (
    TaskId,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    throttled_task,
)
from tests.patience import PATIENCE

MINE: ContextVar[str] = ContextVar("MINE", default="default")

_GATE = 60
"""Seconds after which whoever waits at a gate gives up; the tests are over by then."""


def client() -> Any:
    """Return a client of the tests' Redis."""
    return redis.Redis.from_url(
        os.environ["ASYNCFRAME_TEST_REDIS"], decode_responses=True, socket_timeout=None
    )


def tell(key: str, value: object = "done") -> None:
    """Put something in a list."""
    with client() as redis_client:
        redis_client.rpush(key, str(value))


def plain(first: int) -> int:
    """Add one; no decorator."""
    return first + 1


def tick() -> None:
    """Count a run; no decorator."""
    tell("ticks", "tick")


def unknown(first: int) -> int:
    """Add one; no decorator, and no worker knows of it."""
    return first + 1


@background_task
def mark(key: str, value: str = "done") -> str:
    """Put something in a list."""
    tell(key, value)
    return value


@background_task
def hold(key: str) -> int:
    """Tell of the start and wait at the gate; return the process's id."""
    tell(f"{key}:started", os.getpid())
    with client() as redis_client:
        redis_client.blpop([f"{key}:gate"], timeout=_GATE)
    tell(f"{key}:done", os.getpid())
    return os.getpid()


@background_task
async def hold_on_loop(key: str) -> None:
    """Tell of the start and wait for ever; tell of a cancellation."""
    tell(f"{key}:started", os.getpid())
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        tell(f"{key}:cancelled")
        raise


@background_task
async def cling(key: str) -> None:
    """Swallow every cancellation."""
    tell(f"{key}:started", os.getpid())
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            tell(f"{key}:cancelled")


@background_task
def seize(key: str) -> None:
    """Hold the interpreter's lock in one endless call."""
    tell(f"{key}:started", os.getpid())
    re.match(r"(a+)+$", "a" * 60 + "b")


@background_task
def ask(key: str) -> str:
    """Tell of the start, pass the gate, and give way if not wanted."""
    task = current_task()
    assert task is not None
    tell(f"{key}:started", os.getpid())
    with client() as redis_client:
        redis_client.blpop([f"{key}:gate"], timeout=_GATE)
    task.check_cancelled()
    return "went on"


@background_task
def context() -> str:
    """Return a context variable."""
    return MINE.get()


@background_task
def large(length: int) -> str:
    """Return a long text."""
    return "x" * length


@background_task
def opaque() -> object:
    """Return what JSON has nothing for."""
    return threading_lock()


def threading_lock() -> object:
    """Return a lock."""
    import threading

    return threading.Lock()


@background_task
def exits() -> None:
    """Raise SystemExit."""
    raise SystemExit(3)


@background_task
def steps(key: str) -> None:
    """Report progress and wait at the gate."""
    task = current_task()
    assert task is not None
    task.report_progress(0.25, "a quarter")
    with client() as redis_client:
        redis_client.blpop([f"{key}:gate"], timeout=_GATE)


@background_task
@retry_task(max_retries=2, retry_delay=0.05, backoff=3.0)
def fails(key: str) -> None:
    """Count the attempt and fail."""
    task = current_task()
    assert task is not None
    tell(key, f"{task.attempts}:{os.getpid()}")
    raise ConnectionError(f"attempt {task.attempts}")


@background_task
@retry_task(max_retries=1, retry_delay=30.0)
def fails_for_long(key: str) -> None:
    """Count the attempt and fail; the next one comes late."""
    tell(key)
    raise ConnectionError("away")


@background_task(name="logged")
@retry_task(max_retries=1, retry_delay=0.05)
def logged() -> list[str]:
    """Fail once; then return what a log record says of the task."""
    task = current_task()
    assert task is not None
    if task.attempts == 1:
        raise ConnectionError("away")
    record = logging.getLogger().makeRecord("", logging.INFO, "", 0, "", (), None)
    return [str(vars(record)[name]) for name in ("task_id", "task_name", "task_attempt")]


@background_task(name="traced")
@retry_task(max_retries=1, retry_delay=0.05)
def traced(key: str) -> list[str | None]:
    """Fail once; then return the trace of the current span, and the caller's baggage."""
    task = current_task()
    assert task is not None
    if task.attempts == 1:
        raise ConnectionError("away")
    tenant = baggage.get_baggage("tenant")
    span = trace.get_current_span().get_span_context()
    return [f"{span.trace_id:032x}", None if tenant is None else str(tenant)]


@background_task
@throttled_task(rate_limit=4, time_window=0.4, when_limited="wait")
def measured(key: str) -> None:
    """Put the time in a list, so often in a window."""
    # Read first: the way to Redis takes longer one time than another.
    began = datetime.now(UTC).timestamp()
    tell(key, f"{began:.6f}")


@background_task
@throttled_task(rate_limit=1, time_window=30.0, when_limited="wait", key=lambda key: key)
def once(key: str) -> None:
    """Count the call; the second one waits for long."""
    tell(key)


@background_task
@throttled_task(rate_limit=1, time_window=0.3, when_limited="wait", key=lambda key: key)
def briefly(key: str) -> None:
    """Count the call; the second one waits for a moment."""
    tell(key)


@background_task
@throttled_task(rate_limit=1, time_window=4.0, when_limited="wait", key=lambda key: key)
def slowly(key: str) -> None:
    """Count the call; the second one waits for longer than the broker has patience."""
    tell(key)


@throttled_task(rate_limit=1, time_window=0.3, when_limited="wait", key=lambda key: key)
def measured_inside(key: str) -> None:
    """Count the call."""
    tell(key)


@throttled_task(rate_limit=1, time_window=0.3, when_limited="wait", key=lambda key: key)
async def measured_on_loop(key: str) -> None:
    """Count the call."""
    tell(key)


@background_task
def body(key: str) -> None:
    """Count the body's beginning, and call what is throttled twice."""
    tell(f"{key}:body")
    measured_inside(key)
    measured_inside(key)


@background_task
async def body_on_loop(key: str) -> None:
    """The same with coroutines."""
    tell(f"{key}:body")
    await measured_on_loop(key)
    await measured_on_loop(key)


@async_task
async def inner(first: int) -> int:
    """Add one."""
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0)
    return first + 1


@background_task
async def awaits(first: int) -> int:
    """Await a task where this one runs."""
    return await inner(first)


@background_task
def submits(key: str) -> TaskId[str]:
    """Submit another task and wait for it on another process of the worker."""
    task_id = mark(key)
    get_task_manager().wait_result(task_id, timeout=PATIENCE)
    return task_id


@background_task
def dies(key: str) -> None:
    """Count the delivery and end the process."""
    tell(key)
    os.kill(os.getpid(), signal.SIGKILL)


@background_task
async def awaited() -> None:
    """Do nothing, as a coroutine."""


class Evil(Exception):  # noqa: N818 -- it is one
    """Ends whatever unpickles it, but for the process that raised it."""

    def __reduce__(self) -> Any:
        return _unless_in, (os.getpid(),)


def _unless_in(pid: int) -> Exception:
    if os.getpid() != pid:
        raise RuntimeError("it was unpickled elsewhere")
    return Evil()


class Mute(Exception):  # noqa: N818 -- as above
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("it cannot be shown")

    __str__ = __repr__


def _circle() -> Exception:
    first, second = ValueError("first"), ValueError("broken")
    first.__cause__, second.__cause__ = second, first
    return second


@background_task
def breaks(what: str) -> None:
    """Fail in one of several ways."""
    errors: dict[str, BaseException] = {
        "value": ValueError("broken"),
        "memory": MemoryError("broken"),
        "evil": Evil("broken"),
        "ignore": Ignore("broken"),
        "reject": Reject("broken", requeue=True),
        "retry": Retry("broken"),
        "exit": SystemExit(3),
        "lost": WorkerLostError("broken"),
        "long": ValueError("x" * 200_000),
        "mute": Mute(),
        "circle": _circle(),
        "group": ExceptionGroup("broken", [ValueError("first"), Evil("second")]),
    }
    raise errors[what]


@background_task
async def breaks_on_loop() -> None:
    """Fail in a coroutine."""
    raise KeyError("broken")


@background_task(on_error="silent")
def breaks_in_silence() -> None:
    """Fail in a way that is nothing for the log."""
    raise KeyError("silent")


@background_task
def submits_unique(key: str) -> TaskId[str]:
    """Submit a task of which there is one at a time."""
    return get_task_manager().submit_nowait(mark, (key,), unique=True, max_running=1)


@background_task(max_running=1, key=lambda key: key)
def alone(key: str) -> None:
    """Tell of the beginning and of the end."""
    tell(key, "begin")
    tell(key, "end")


@background_task(max_running=1, key=lambda key: key)
def dies_alone(key: str) -> None:
    """Tell of the beginning, end the process the first time, and tell of the end."""
    tell(key, "begin")
    task = current_task()
    assert task is not None
    if task.attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    tell(key, "end")


@background_task(max_running=1, key=lambda key, _: key)
def one_by_one(key: str, name: str) -> str:
    """Tell of the start, pass the gate, and tell of the run."""
    tell(f"{key}:started", name)
    with client() as redis_client:
        redis_client.blpop([f"{key}:gate"], timeout=_GATE)
    tell(f"{key}:ran", name)
    return name
