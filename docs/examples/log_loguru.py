"""The task in the log lines of loguru."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from loguru import logger

from framework import background_task, current_task, get_task_manager, setup_async_framework

if TYPE_CHECKING:
    from loguru import Record

FORMAT = "{level} {extra[task_name]} {extra[task_id]} {extra[task_attempt]}: {message}"


def add_task(record: Record) -> None:
    """Add the task in which the line was logged; a patcher."""
    task = current_task()
    record["extra"].update(
        task_id=None if task is None else task.task_id,
        task_name=None if task is None else task.name,
        task_attempt=None if task is None else task.attempts,
    )


@background_task(name="ship")
def ship(order: str) -> None:
    """Log as usual."""
    logger.info("shipping {}", order)


def test_lines() -> None:
    """A line has the task in which it was logged."""
    stream = io.StringIO()
    logger.configure(handlers=[{"sink": stream, "format": FORMAT}], patcher=add_task)

    async def main() -> str:
        async with setup_async_framework(None):
            task_id = ship("A1")
            await get_task_manager().get_result(task_id)
            logger.info("outside")
            return task_id

    task_id = asyncio.run(main())

    assert stream.getvalue().splitlines() == [
        f"INFO ship {task_id} 1: shipping A1",
        "INFO None None None: outside",
    ]
