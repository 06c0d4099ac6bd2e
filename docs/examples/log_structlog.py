"""The task in the log lines of structlog."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from structlog.typing import EventDict, WrappedLogger

from framework import background_task, current_task, get_task_manager, setup_async_framework

logger = structlog.get_logger()


def add_task(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the task in which the line was logged; a processor."""
    task = current_task()
    if task is not None:
        event["task_id"] = task.task_id
        event["task_name"] = task.name
        event["task_attempt"] = task.attempts
    return event


structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        add_task,
        structlog.processors.add_log_level,
        structlog.processors.JSONRenderer(),
    ]
)


@background_task(name="ship")
async def ship(order: str) -> None:
    """Log as usual."""
    logger.info("shipping", order=order)


@contextmanager
def lines() -> Iterator[list[EventDict]]:
    """Collect lines instead of printing them, for the test."""
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars, add_task]
    ) as found:
        yield found


def test_lines() -> None:
    """A line has its task, and what was bound where the task was submitted."""

    async def main() -> str:
        async with setup_async_framework(None):
            with structlog.contextvars.bound_contextvars(request_id="r1"):
                task_id = ship("A1")
            await get_task_manager().get_result(task_id)
            logger.info("outside")
            return task_id

    with lines() as found:
        task_id = asyncio.run(main())

    assert found == [
        {
            "event": "shipping",
            "order": "A1",
            "log_level": "info",
            "request_id": "r1",
            "task_id": task_id,
            "task_name": "ship",
            "task_attempt": 1,
        },
        {"event": "outside", "log_level": "info"},
    ]
