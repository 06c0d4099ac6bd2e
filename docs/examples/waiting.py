"""Why tasks wait, and until when."""

import asyncio
import re
import threading

from framework import (
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)

go_on = threading.Event()


@background_task
@retry_task(max_retries=3, retry_delay=60)
def fetch(url: str) -> None:
    """Fail, and be retried a minute later."""
    raise ConnectionError(f"{url} refused the connection")


@background_task
@throttled_task(rate_limit=1, time_window=50, when_limited="wait")
def send_email(to: str) -> str:
    """Send one email in 50 seconds."""
    return to


@background_task
def block() -> None:
    """Keep a thread busy."""
    go_on.wait(60)


async def status(task_id: str) -> str:
    """Answer why a task waits, or how it ended."""
    task = await get_task_manager().get_task(task_id)
    return "unknown" if task is None else task.explain()


async def waiting(task_id: str, kind: str) -> str:
    """Return the status of a task once it has paused."""
    manager, paused, loop = get_task_manager(), asyncio.Event(), asyncio.get_running_loop()
    unsubscribe = manager.subscribe(
        lambda event: event.task_id == task_id and loop.call_soon_threadsafe(paused.set),
        kinds=[kind],
    )
    await asyncio.wait_for(paused.wait(), 60)
    unsubscribe()
    return await status(task_id)


async def test_a_task_between_two_attempts() -> None:
    """It says what happened, and when the next attempt is due."""
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        words = await waiting(fetch("example.com"), "retrying")
        assert words.startswith(
            "attempt 1 of 4 failed with ConnectionError: example.com refused the connection; "
        )


async def test_a_throttled_task() -> None:
    """It names the throttle, and says when its turn comes."""
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        await get_task_manager().get_result(send_email("ann"))
        words = await waiting(send_email("bob"), "throttled")
        assert re.search(r"send_email 1/50 s is full; next slot in [\d.]+ s$", words)


async def test_a_queued_task() -> None:
    """It says which position it has in the queue."""
    async with setup_async_framework(None, max_workers=1):
        block()
        tasks = [send_email("ann") for _ in range(3)]
        assert await status(tasks[0]) in ("queued 2nd of 4", "queued 1st of 3")
        go_on.set()
