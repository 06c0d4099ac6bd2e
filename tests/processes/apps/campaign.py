"""An app whose web processes and workers are hurt while they share the work; see `campaigns`.

The environment says what it uses: ``CAMPAIGN_STORE`` is the database, ``CAMPAIGN_FILE`` is where
its functions write, ``CAMPAIGN_PLACES`` how many threads a web process has for tasks,
``CAMPAIGN_RATE`` how many throttled calls there may be in a second, and ``CAMPAIGN_STEP`` by how
many seconds a signal sets the wall clock.

Each function appends ``begin <id> <pid> <kind> <key> <nanosecond>`` to the file, and ``end`` or,
when it raises, ``stop`` with the same words. The nanosecond is of the clock that all processes of
the machine share and nobody sets. SIGUSR1 sets the wall clock of a process forward, SIGUSR2 back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from fastapi import FastAPI

from framework import (
    Task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework.exceptions import FrameworkError
from framework.stores.sql import SQLStore
from tests.processes.apps import noting

PAUSE = 0.01
NEVER = threading.Event()
AHEAD = [0.0]
"""How far the wall clock of this process is ahead."""


def set_clock(by: float) -> None:
    """Set the wall clock of this process, as everything in it reads it."""
    AHEAD[0] += by


def step_by_signals() -> None:
    """Let two signals set the wall clock."""
    real = time.time  # noqa: TID251 -- the clock that is set
    time.time = lambda: real() + AHEAD[0]  # noqa: TID251 -- the same
    step = float(os.environ["CAMPAIGN_STEP"])
    signal.signal(signal.SIGUSR1, lambda *_: set_clock(step))
    signal.signal(signal.SIGUSR2, lambda *_: set_clock(-step))


# Before there is a store, which looks at the clock that it finds.
step_by_signals()
store = SQLStore(os.environ["CAMPAIGN_STORE"], durable=True)
app = FastAPI(
    lifespan=setup_async_framework(
        max_workers=int(os.environ["CAMPAIGN_PLACES"]), store=store, graceful_shutdown_timeout=2.0
    )
)


def noted(slot: str) -> AbstractContextManager[str]:
    """Write down that a body begins and ends, and when; yield the id of its task."""
    return noting.noted(os.environ["CAMPAIGN_FILE"], slot, lambda: f" {time.monotonic_ns()}")


def work(slot: str) -> str:
    """Take a moment on a thread."""
    with noted(slot) as task_id:
        NEVER.wait(PAUSE)
    return task_id


async def work_on_loop(slot: str) -> str:
    """Take a moment on the loop."""
    with noted(slot) as task_id:
        paused = asyncio.Event()
        asyncio.get_running_loop().call_later(PAUSE, paused.set)
        await paused.wait()
    return task_id


def fail(slot: str) -> str:
    """Raise."""
    with noted(slot):
        raise LookupError(slot)


def slot_of(slot: str) -> str:
    """Return what a limit counts."""
    return slot


def named(name: str, fn: Any, **options: Any) -> Any:
    """Return a task of a function under a name of its own."""
    given = {"timeout": 60, "on_error": "silent", "on_restart": "requeue", **options}
    return background_task(name=f"campaign.{name}", **given)(fn)


throttled = throttled_task(
    rate_limit=int(os.environ["CAMPAIGN_RATE"]), time_window=1.0, when_limited="wait"
)
retried = retry_task(max_retries=2, retry_delay=0.2)
PLAIN = named("requeued", work)
KINDS: dict[str, Any] = {
    "requeued": PLAIN,
    "high": PLAIN.options(priority="high"),
    "low": PLAIN.options(priority="low"),
    "on_loop": named("on_loop", work_on_loop),
    "again": named("again", work, idempotent=True),
    "limited": named("limited", work, max_running=2, key=slot_of),
    "returned": named("returned", work, unique=True),
    "throttled": named("throttled", throttled(work)),
    "failing": named("failing", fail),
    "retried": named("retried", retried(fail)),
    "delayed": PLAIN.options(delay=1.0),
}


async def submit_one(task_id: str, kind: str, key: int) -> str | None:
    """Submit a task; return its id, or None if it is refused."""
    call = KINDS[kind].options(task_id=task_id)
    try:
        return str(await get_task_manager().submit(call, (f"{kind} {key}",)))
    except FrameworkError:
        return None


@app.post("/submit")
async def submit(wanted: list[tuple[str, str, int]]) -> list[str | None]:
    """Submit tasks, each with an id, a kind and a key; return the ids that they have."""
    return list(await asyncio.gather(*(submit_one(*one) for one in wanted)))


@app.post("/settle/{seconds}")
async def settle(task_ids: list[str], seconds: float) -> bool:
    """Wait for the ends of tasks; False if that takes too long."""
    manager = get_task_manager()
    try:
        await manager.gather(task_ids, timeout=seconds, return_exceptions=True)
    except TimeoutError:
        return False
    found = await asyncio.gather(*map(manager.get_task, task_ids))
    return all(task is not None and task.status.is_final for task in found)


@app.post("/look")
async def look(task_ids: list[str]) -> dict[str, list[Any]]:
    """Return what this process says of each task that it finds."""
    manager = get_task_manager()
    found = await asyncio.gather(*map(manager.get_task, task_ids))
    return {str(task.task_id): said_of(task) for task in found if task is not None}


def said_of(task: Task) -> list[Any]:
    """Return status, result, attempts and reason of a task; its error is part of the reason."""
    return [task.status.value, task.result, task.attempts, f"{task.reason}{task.error or ''}"]
