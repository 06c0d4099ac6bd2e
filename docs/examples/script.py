"""Tasks in a script, without FastAPI."""

import asyncio

import pytest

from framework import (
    FrameworkNotStartedError,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
    throttled_task,
)


@background_task
def square(number: int) -> int:
    """Square a number, on a thread."""
    return number * number


@async_task(timeout=60)
def parse(text: str) -> int:
    """Parse a number, on a thread; the caller awaits the result."""
    return int(text)


@throttled_task(rate_limit=1_000, time_window=1)
def look_up(name: str) -> str:
    """Look up a name, at a limited rate; this needs no framework."""
    return name.upper()


async def main() -> list[int]:
    """Start all tasks, and wait for their results in order."""
    async with setup_async_framework(None, max_workers=4):
        manager = get_task_manager()
        ids = [square(number) for number in range(5)]
        squares = [await manager.get_result(task_id) for task_id in ids]
        return [*squares, await parse("42")]


def test_a_script() -> None:
    """A script needs no app, only an event loop."""
    assert asyncio.run(main()) == [0, 1, 4, 9, 16, 42]


def test_what_works_without_a_framework() -> None:
    """Throttles work without a framework; a task raises an error that says what it needs."""
    assert look_up("ann") == "ANN"
    assert square.fn(3) == 9
    with pytest.raises(FrameworkNotStartedError, match=r"^no task framework is running here: "):
        square(3)
