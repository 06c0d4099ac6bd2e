"""Functions that the conformance suite runs as tasks, on every store and engine.

A Celery worker imports this module as well; so what a task waits for, and tells of, are
files and pipes whose paths it is given.
"""

from __future__ import annotations

import asyncio
import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from opentelemetry import baggage, trace
from pydantic import BaseModel

from framework import (
    TaskId,
    async_task,
    background_task,
    current_task,
    retry_task,
    throttled_task,
)


class Item(BaseModel):
    """A pydantic model with a nested one."""

    name: str
    price: Decimal
    parent: Item | None = None


@dataclass
class Point:
    """A plain dataclass."""

    x: int
    y: float = 0.5


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


class ShopError(Exception):
    """An error of the user's own."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item = item
        self.left = left


async def a_turn() -> None:
    """Let the loop have a turn."""
    ready = asyncio.Event()
    asyncio.get_running_loop().call_soon(ready.set)
    await ready.wait()


# -- results


@background_task
def add(first: int, second: int = 10, *more: int, factor: int = 1) -> int:
    """Add numbers."""
    return (first + second + sum(more)) * factor


@background_task
async def add_on_loop(first: int, second: int = 10) -> int:
    """Add two numbers after a turn of the loop."""
    await a_turn()
    return first + second


@async_task
def awaited(text: str) -> str:
    """Return a text in capitals."""
    return text.upper()


@async_task
async def awaited_on_loop(text: str) -> str:
    """Return a text in capitals, as a coroutine."""
    await a_turn()
    return text.upper()


@background_task(description="gives back what it gets")
def plain(value: Any) -> Any:
    """Return a value without a type."""
    return value


@background_task
def turned(parts: list[bytes]) -> dict[str, bytes]:
    """Return bytes in reverse, and all of them together."""
    return {"last": parts[-1][::-1], "all": b"".join(parts)}


@background_task
def nothing() -> None:
    """Return None."""


@background_task
def model(item: Item) -> Item:
    """Return a model around the one that it gets."""
    return Item(name=f"box of {item.name}", price=item.price * 2, parent=item)


@background_task
def moments(moment: datetime, day: date, length: timedelta) -> tuple[datetime, date, timedelta]:
    """Move a moment and a day."""
    return moment + length, day + length, length * 2


@background_task
def identifiers(one: uuid.UUID, amount: Decimal) -> dict[str, uuid.UUID | Decimal]:
    """Return what JSON has no type for."""
    assert type(one) is uuid.UUID
    assert type(amount) is Decimal
    return {"id": one, "amount": amount}


@background_task
def point(where: Point, colour: Colour = Colour.RED) -> Point:
    """Move a point."""
    assert colour is Colour.RED
    return Point(where.x + 1, where.y)


@background_task
def models(items: list[Item]) -> dict[str, Item]:
    """Return models by name."""
    return {item.name: item for item in items}


@background_task
def now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


# -- errors


@background_task
def due_of(due: datetime) -> datetime:
    """Return the due time of a scheduled run."""
    return due


@background_task
def fail(kind: str = "value") -> None:
    """Raise an error of some kind."""
    raise {
        "value": ValueError("no such thing", 7),
        "key": KeyError("missing"),
        "own": ShopError("tea", 3),
        "exit": SystemExit(3),
        "os": FileNotFoundError(2, "No such file", "list.txt"),
    }[kind]


@background_task
def fail_once(marker: Path, number: int, *, factor: int = 1) -> int:
    """Fail unless *marker* exists, and create it; else multiply."""
    if marker.exists():
        return number * factor
    marker.touch()
    raise ShopError("not yet", number)


@background_task
async def fail_on_loop() -> None:
    """Raise an error in a coroutine."""
    await a_turn()
    raise ShopError("milk", 0)


@async_task
def awaited_failure() -> None:
    """Raise an error to whoever awaits it."""
    raise ShopError("bread", 1)


@background_task
def long_failure() -> None:
    """Raise an error with a long text."""
    raise ValueError("x" * 100_000)


# -- waiting


def line_of(pipe: str) -> str:
    """Block until a line comes through a named pipe, and return it without its end."""
    with Path(pipe).open(encoding="utf-8") as opened:
        return opened.readline().rstrip("\n")


@background_task
def hold(pipe: str) -> str:
    """Block until a line comes through the named pipe at *pipe*, and return it."""
    return line_of(pipe)


@background_task
async def hold_on_loop() -> None:
    """Suspend until cancelled."""
    await asyncio.Event().wait()


@background_task
def give_way(pipe: str) -> None:
    """Block until the pipe is written to, and ask whether anybody still wants the task."""
    line_of(pipe)
    task = current_task()
    assert task is not None
    task.check_cancelled()


@background_task(on_restart="requeue")
def requeued(number: int) -> int:
    """Return a number, here or in the process that takes this over."""
    return number


# -- a task seen from inside


@background_task
def about_itself() -> dict[str, Any]:
    """Return what a task knows of itself."""
    task = current_task()
    assert task is not None
    return {
        "task_id": task.task_id,
        "name": task.name,
        "status": task.status.value,
        "attempts": task.attempts,
    }


@background_task
def report(pipe: str) -> str:
    """Report progress, and block until the pipe is written to."""
    task = current_task()
    assert task is not None
    task.report_progress(0.25, "a quarter")
    return line_of(pipe)


@background_task
def parent(first: int) -> TaskId[int]:
    """Submit another task and return its id."""
    return add(first, 1)


# -- retries and throttles


@background_task
@retry_task(max_retries=3, retry_delay=0.02, backoff=2.0)
def flaky(failures: int) -> int:
    """Fail so often, then return which attempt this is."""
    task = current_task()
    assert task is not None
    if task.attempts <= failures:
        raise ConnectionError(f"attempt {task.attempts}")
    return task.attempts


@background_task
@retry_task(max_retries=2, retry_delay=0.02)
async def flaky_on_loop(failures: int) -> int:
    """Fail so often, then return which attempt this is, as a coroutine."""
    await a_turn()
    task = current_task()
    assert task is not None
    if task.attempts <= failures:
        raise ConnectionError(f"attempt {task.attempts}")
    return task.attempts


@background_task
@retry_task(max_retries=5, retry_delay=0.02, exceptions=ConnectionError)
def stubborn() -> None:
    """Fail with what is not retried."""
    raise ShopError("tea", 1)


@background_task
@throttled_task(rate_limit=2, time_window=600.0, key=lambda key: key)
def limited(key: str) -> str:
    """Return the key, twice in ten minutes."""
    return key


@background_task
@throttled_task(rate_limit=2, time_window=0.2, when_limited="wait", key=lambda key: key)
def patient(key: str) -> float:
    """Return the present second, for at most two calls in any 0.2 s."""
    return datetime.now(UTC).timestamp()


@background_task
@throttled_task(rate_limit=2, time_window=0.2, when_limited="wait", key=lambda key: key)
async def patient_on_loop(key: str) -> float:
    """Return the present second, for at most two calls in any 0.2 s."""
    return datetime.now(UTC).timestamp()


@background_task
@retry_task(max_retries=3, retry_delay=30.0)
def soon_again() -> None:
    """Fail, and be retried half a minute later."""
    raise ConnectionError("smtp is down")


@background_task
@throttled_task(rate_limit=1, time_window=59.0, when_limited="wait", key=lambda key: key)
def now_and_then(key: str) -> str:
    """Return the key, once in a minute."""
    return key


@background_task
@throttled_task(rate_limit=1, time_window=59.0, when_limited="wait", key=lambda key: key)
async def now_and_then_on_loop(key: str) -> str:
    """Return the key, once in a minute."""
    return key


@background_task
def traced() -> list[str]:
    """Return the current trace, the one that it is linked to, and the caller's baggage."""
    span: Any = trace.get_current_span()
    (link,) = span.links
    found = [f"{one.trace_id:032x}" for one in (span.context, link.context)]
    return [*found, str(baggage.get_baggage("tenant"))]


@background_task
async def traced_on_loop() -> list[str]:
    """Return the same."""
    found: list[str] = traced.fn()
    return found


# -- places


@background_task(unique=True)
def only_one(key: str, pipe: str) -> str:
    """Wait for a line, alone with these arguments."""
    return line_of(pipe)


@background_task(unique=lambda key, _: key)
async def only_one_on_loop(key: str, pipe: str) -> str:
    """Do the same as a coroutine, alone with this key."""
    return await asyncio.to_thread(line_of, pipe)


@background_task(max_running=2, key=lambda key, *_: key)
def two_of_a_key(key: str, number: int, pipe: str, log: str) -> int:
    """Note when it starts and ends, and wait for a line in between."""
    with Path(log).open("a") as file:
        file.write(f"start {number}\n")
    line_of(pipe)
    with Path(log).open("a") as file:
        file.write(f"end {number}\n")
    return number
