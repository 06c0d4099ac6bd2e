"""The eight journeys of docs/explanation/built.md, traced: ``python -m tests.docs.journeys``.

It prints how many rooms and files each one enters, how often control passes from one room
into another, and how many of these calls lead back into a room that was entered before;
with ``--steps`` the calls too. A journey begins after its set-up, and once it has been made a
few times: no import and nothing that is done only once counts.

To trace another tree, put it first: ``PYTHONPATH=TREE:. python -P -m tests.docs.journeys``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, closing, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from framework import (
    TaskManager,
    TaskTimeoutError,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.protocols import TaskEngine
from tests.docs.tracing import HOME, Journey, Tracer, room_of

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
WARM_UPS = 3
RUNS = 7

Journeys = AsyncGenerator[Journey, None]


# ------------------------------------------------------------------ an app and its tasks


@background_task
def double(number: int) -> int:
    """Return at once."""
    return 2 * number


@background_task
@retry_task(max_retries=1, retry_delay=0.001)
def fail_once(failures: list[str]) -> None:
    """Fail the first time."""
    if not failures:
        failures.append("the first")
        raise ConnectionError


@background_task(timeout=0.01)
async def overrun() -> None:
    """Run past its limit."""
    await asyncio.Event().wait()


@background_task
async def wait_for(event: asyncio.Event) -> None:
    """Say that it runs, and run until it is cancelled."""
    event.set()
    await asyncio.Event().wait()


@background_task
def block_until(started: threading.Event, released: threading.Event) -> None:
    """Say that it runs, and run until it is released."""
    started.set()
    released.wait()


@background_task
async def sleep_for(seconds: float) -> None:
    """Sleep: in virtual time, if for longer than a turn of the loop."""
    await asyncio.sleep(seconds)  # noqa: TID251 -- in virtual time


@asynccontextmanager
async def running_app(engine: TaskEngine | None = None) -> AsyncIterator[TaskManager]:
    """Run an app with the framework."""
    async with setup_async_framework(FastAPI(), engine=engine, graceful_shutdown_timeout=0.02):
        yield get_task_manager()


# ------------------------------------------------------------------ journeys in an app


async def a_background_task(tracer: Tracer) -> Journeys:
    """A background task, from the call to its result."""
    async with running_app() as manager:
        while True:
            with tracer.journey() as journey:
                await manager.get_result(double(2))
            yield journey


async def a_status_read(tracer: Tracer) -> Journeys:
    """A finished task's status, as an endpoint answers it.

    The task was a coroutine: a thread may still be putting itself away when its result is there.
    """
    async with running_app() as manager:
        task_id = sleep_for(0)
        await manager.get_result(task_id)
        while True:
            with tracer.journey() as journey:
                task = await manager.get_task(task_id)
                assert task is not None
                task.to_dict()
            yield journey


async def one_retry(tracer: Tracer) -> Journeys:
    """A background task that fails once, from the call to its result."""
    async with running_app() as manager:
        while True:
            with tracer.journey() as journey:
                await manager.get_result(fail_once([]))
            yield journey


async def a_limit(tracer: Tracer) -> Journeys:
    """A background task that runs past its limit, from the call to the error."""
    async with running_app() as manager:
        while True:
            with tracer.journey() as journey, suppress(TaskTimeoutError):
                await manager.get_result(overrun())
            yield journey


async def a_drain(tracer: Tracer) -> Journeys:
    """The end of an app with three tasks.

    One thread ends in time, a coroutine does not, and a delayed task has not begun.
    """
    while True:
        app = running_app()
        manager = await app.__aenter__()
        started, released, waits = threading.Event(), threading.Event(), asyncio.Event()
        block_until(started, released)
        wait_for(waits)
        manager.submit_nowait(double, (2,), delay=60)
        await waits.wait()
        await asyncio.to_thread(started.wait)
        asyncio.get_running_loop().call_later(0.001, released.set)
        with tracer.journey() as journey:
            await app.__aexit__(None, None, None)
        yield journey


async def a_task_on_celery(tracer: Tracer) -> Journeys:
    """A task that a Celery worker runs, in the app: from the call to its result."""
    from tests.processes.celery.workers import CeleryWorker
    from tests.processes.servers import RedisServer

    path = os.pathsep.join(map(str, [HOME, EXAMPLES]))
    with closing(RedisServer()) as server:
        server.start()
        environment = {"REDIS_URL": server.url, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        os.environ["REDIS_URL"] = server.url
        sys.path.append(str(EXAMPLES))
        shop: Any = importlib.import_module("on_celery")
        worker = CeleryWorker("on_celery:celery_app", server.url, environment=environment)
        with closing(worker):
            worker.begin()
            async with running_app(shop.engine) as manager:
                while True:
                    with tracer.journey() as journey:
                        await manager.get_result(shop.make_report("sales", 0), timeout=60)
                    yield journey


CELERY = "A task on Celery"

IN_APPS = {
    "A background task": a_background_task,
    "A status read": a_status_read,
    "One retry": one_retry,
    "A limit fires": a_limit,
    "A drain at shutdown": a_drain,
    CELERY: a_task_on_celery,
}


async def made(make: Callable[[Tracer], Journeys], tracer: Tracer) -> list[Journey]:
    """Make a journey some times."""
    async with aclosing(make(tracer)) as journeys:
        return [await anext(journeys) for _ in range(WARM_UPS + RUNS)]


# ------------------------------------------------------------------ journeys in a test


async def test_virtual_sleep(asyncframe: Any, tracer: Tracer, journeys: list[Journey]) -> None:
    """A test sleeps for a minute, and a task of it for half a minute."""
    for _ in range(WARM_UPS + RUNS):
        task_id = sleep_for(30)
        with tracer.journey() as journey:
            await asyncio.sleep(60)  # noqa: TID251 -- in virtual time
        await asyncframe.completed(task_id)
        journeys.append(journey)


async def test_completed(asyncframe: Any, tracer: Tracer, journeys: list[Journey]) -> None:
    """A test waits for the task that a route has started, which sleeps."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/tasks")
    async def start() -> dict[str, str]:
        return {"task_id": sleep_for(10)}

    async with asyncframe.client(app) as client:
        for _ in range(WARM_UPS + RUNS):
            response = await client.post("/tasks")
            with tracer.journey() as journey:
                await asyncframe.completed(response)
            journeys.append(journey)


IN_TESTS = {"A virtual sleep": "test_virtual_sleep", "completed(response)": "test_completed"}


class Fixtures:
    """What those tests ask for, as a plugin of the run."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.seen: dict[str, list[Journey]] = {}

    @pytest.fixture
    def tracer(self) -> Tracer:
        """The tracer."""
        return self._tracer

    @pytest.fixture
    def journeys(self, request: pytest.FixtureRequest) -> list[Journey]:
        """Where a test puts the journeys that it has made."""
        return self.seen.setdefault(request.node.name, [])


def made_in_tests(tracer: Tracer) -> dict[str, list[Journey]]:
    """Run this file's tests, with the plugin."""
    fixtures = Fixtures(tracer)
    settings = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function")
    words = ["-c", os.devnull, "--import-mode=importlib", "-p", "no:cacheprovider", "-qq"]
    words += [word for setting in settings for word in ("-o", setting)]
    printed = StringIO()
    with redirect_stdout(printed):
        status = pytest.main([*words, __file__], plugins=[fixtures])
    assert status == 0, printed.getvalue()
    return {name: fixtures.seen[test] for name, test in IN_TESTS.items()}


# ------------------------------------------------------------------ the program


def trace(names: list[str]) -> dict[str, Journey]:
    """Make the journeys of these names; give of each one that was as most were."""
    with Tracer() as tracer:
        found = {
            name: asyncio.run(made(make, tracer)) for name, make in IN_APPS.items() if name in names
        }
        if not IN_TESTS.keys().isdisjoint(names):
            found |= made_in_tests(tracer)
    return {name: _usual(found[name][WARM_UPS:]) for name in names}


def _usual(runs: list[Journey]) -> Journey:
    """Return a run with the middle number of crossings: a thread may be quicker once."""
    return sorted(runs, key=lambda run: len(run.crossings))[len(runs) // 2]


def table(found: dict[str, Journey]) -> str:
    """Return the numbers, a line for each journey, and after them the rooms."""
    lines = [f"{'journey':20} rooms files crossings returns"]
    for name, run in found.items():
        numbers = len(run.rooms), len(run.files), len(run.crossings), run.returns
        lines.append("{:20}{:6}{:6}{:10}{:8}".format(name, *numbers))
    lines += ["", *(f"{name}: {', '.join(run.rooms)}" for name, run in found.items())]
    return "\n".join(lines)


def steps(run: Journey) -> str:
    """Return each call from one room into another once, with its number."""
    calls = Counter((a, b) for a, b in run.calls if a is None or room_of(a) != room_of(b))
    return "\n".join(f"{n:6}  {a or 'outside'} -> {b}" for (a, b), n in calls.items())


def main() -> None:
    """Print what was traced."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs.journeys")
    parser.add_argument("--only", action="append", choices=[*IN_APPS, *IN_TESTS])
    parser.add_argument("--steps", action="store_true", help="show the calls between rooms")
    parser.add_argument("--json", action="store_true", help="print the rooms of each, as JSON")
    options = parser.parse_args()
    # An app that ends with tasks unfinished says so, which is what one journey is about.
    logging.getLogger("asyncframe").addHandler(logging.NullHandler())
    found = trace(options.only or [*IN_APPS, *IN_TESTS])
    if options.json:
        print(json.dumps({name: run.rooms for name, run in found.items()}))
        return
    print(table(found))
    if options.steps:
        for name, run in found.items():
            print(f"\n{name}\n{steps(run)}")


if __name__ == "__main__":
    main()
