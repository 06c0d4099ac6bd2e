"""The server that `request` loads: one endpoint, in one way after the other.

All ways are served by one process, since two processes of the same code differ by up to 5 %.
The ways that stop early show what the later steps of a task cost: they replace a part of the
framework for as long as they are loaded.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import uvicorn
from fastapi import BackgroundTasks, FastAPI

from benchmarks.floors import THREADS
from benchmarks.peers import CREATE_TASK
from benchmarks.served_app import (
    BACKGROUND_ASYNC,
    BACKGROUND_SYNC,
    FLOOR,
    NO_ID,
    listener,
)
from framework import background_task, get_task_manager, setup_async_framework
from framework._app.requests import Requests
from framework._manager.core import Core

INSIDE = "an app with the framework, no task"
SUBMITTED = "submitted, handed to nobody"
STAGED = "handed over once per turn of the loop"
WOKEN = "a thread woken, the task not run"
THREAD = "run on a thread"
LOOP_STAGED = "an asyncio task started, the task not run"
LOOP = "run on the loop"
LOOP_WAITS = "run on the loop, suspended once"
AGAIN = "no job, once more"
BACKGROUND_AGAIN = "BackgroundTasks, async function, once more"
BACKGROUND_WAITS = "BackgroundTasks, suspended once"

RAN: list[None] = []
"""One entry for each job that has run; appending needs no lock."""

ASIDE: list[Any] = []
"""Tasks that were submitted and will not run."""

Scope = dict[str, Any]
ASGIApp = Callable[[Scope, Any, Any], Awaitable[None]]


def job() -> None:
    """Do nothing but be counted."""
    RAN.append(None)


async def async_job() -> None:
    """Do nothing but be counted."""
    RAN.append(None)


async def waiting_job() -> None:
    """Be suspended once, as functions are that ask a database or another service."""
    await asyncio.sleep(0)  # noqa: TID251  # gives way once; no time has to pass
    RAN.append(None)


class _Aside:
    """An engine, and what an engine calls with a task: puts tasks aside."""

    def __init__(self, core: Core) -> None:
        self._engine = core.engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start(self, task: Any, *_: Any) -> None:
        """Put a task aside that was submitted."""
        ASIDE.append(task)

    def __call__(self, task: Any) -> bool:
        """Put a task aside that was handed over."""
        ASIDE.append(task)
        return False

    def together(self, first: Any, tasks: Iterator[Any]) -> asyncio.Task[None]:
        """Put tasks aside in the asyncio task that they would share."""

        async def put_aside() -> None:
            ASIDE.extend(tasks)

        task: asyncio.Task[None] = first.loop.create_task(put_aside())
        return task


def forget() -> None:
    """Forget the tasks that were put aside, as if they had never been submitted."""
    tasks = ASIDE.copy()
    # A thread may put more aside meanwhile.
    del ASIDE[: len(tasks)]
    for task in tasks:
        ledger = task.home.core.ledger
        with ledger.lock:
            del task.home.live[task.task_id]
            ledger.pending -= 1
    RAN.extend([None] * len(tasks))


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _cut(core: Core, way: str) -> Iterator[None]:
    """Let tasks of *core* go as far as *way* says."""
    aside, runs, engine = _Aside(core), core.runner.runs, core.engine
    kept = runs.copy()
    with ExitStack() as stack:
        if way == SUBMITTED:
            stack.enter_context(_replaced(core.runner, "engine", aside))
        elif way == STAGED:
            stack.enter_context(_replaced(engine, "_dispatch", ASIDE.extend))
        elif way in (WOKEN, LOOP_STAGED):
            runs["thread"] = runs["loop"] = aside
        try:
            yield
        finally:
            runs.update(kept)


@dataclass
class Served:
    """One way to serve ``POST /start``.

    Attributes:
        app: The app whose endpoint goes this way.
        core: Of the framework, if a part of it is replaced meanwhile; otherwise None.
        way: Its name.
    """

    app: ASGIApp
    way: str
    core: Core | None = None

    def entered(self) -> ExitStack:
        """Replace what this way replaces, until the stack is closed."""
        stack = ExitStack()
        if self.core is not None:
            stack.enter_context(_cut(self.core, self.way))
        return stack


class Switch:
    """An ASGI app that serves ``POST /start`` in the way that was chosen last.

    ``GET /turn/<number>`` chooses one, and ``GET /figures`` gives the processor time in
    nanoseconds that this thread and all others have used, and how many jobs have run.
    """

    def __init__(self, ways: list[Served]) -> None:
        self._ways = ways
        self._stack = ExitStack()
        self._control = FastAPI(openapi_url=None)
        self._control.get("/turn/{number}", response_model=None)(self.turn)
        self._control.get("/figures", response_model=None)(self.figures)
        self._current: ASGIApp = ways[0].app

    def __call__(self, scope: Scope, receive: Any, send: Any) -> Awaitable[None]:
        """Serve one request; not a coroutine function, to add no frame to what is measured."""
        app = self._current if scope["path"] == "/start" else self._control
        return app(scope, receive, send)

    async def turn(self, number: int) -> dict[str, int]:
        """Serve in the way with this number from now on."""
        self._stack.close()
        chosen = self._ways[number]
        self._stack = chosen.entered()
        self._current = chosen.app
        return await self.figures()

    async def figures(self) -> dict[str, int]:
        """Return the times, and the number of jobs."""
        loop = time.thread_time_ns()
        threads = time.process_time_ns() - loop
        # Only now, since it takes time too.
        forget()
        return {"loop": loop, "threads": threads, "ran": len(RAN)}


def _app_of(endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.post("/start", response_model=None)(endpoint)
    return app


async def _no_job() -> dict[str, str]:
    return {"task_id": NO_ID}


async def _background_sync(tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(job)
    return {"task_id": NO_ID}


async def _background_async(tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(async_job)
    return {"task_id": NO_ID}


async def _background_waiting(tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(waiting_job)
    return {"task_id": NO_ID}


_TASKS: set[asyncio.Task[None]] = set()


async def _create_task() -> dict[str, str]:
    task = asyncio.create_task(async_job())
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)
    return {"task_id": NO_ID}


def _started(begin: Callable[[], str]) -> Callable[[], Awaitable[dict[str, str]]]:
    async def start() -> dict[str, str]:
        return {"task_id": begin()}

    return start


OTHERS: dict[str, Callable[..., Any]] = {
    FLOOR: _no_job,
    AGAIN: _no_job,
    BACKGROUND_SYNC: _background_sync,
    BACKGROUND_ASYNC: _background_async,
    BACKGROUND_AGAIN: _background_async,
    BACKGROUND_WAITS: _background_waiting,
    CREATE_TASK: _create_task,
}
OURS = (INSIDE, SUBMITTED, STAGED, WOKEN, THREAD, LOOP_STAGED, LOOP, LOOP_WAITS)
WAYS = [*OTHERS, *OURS]
JOBLESS = {FLOOR, AGAIN, INSIDE}


@asynccontextmanager
async def ways() -> AsyncIterator[list[Served]]:
    """Yield all ways; those that submit tasks have an app each, and one framework."""
    sync_task, async_task = background_task(job), background_task(async_job)
    begins = {LOOP_STAGED: async_task, LOOP: async_task, LOOP_WAITS: background_task(waiting_job)}
    found = [Served(_app_of(endpoint), way) for way, endpoint in OTHERS.items()]
    async with setup_async_framework(None, max_workers=THREADS):
        core = get_task_manager()._core
        for way in OURS:
            app = _app_of(_no_job if way == INSIDE else _started(begins.get(way, sync_task)))
            # As for an app of its own, which would have a framework of its own.
            Requests(app, core.intake.home())
            found.append(Served(app, way, core))
        yield found


async def serve(switch: Callable[[list[Served]], ASGIApp], http: Any) -> None:
    """Serve all ways on a free loopback port, which is told on stdout, until SIGTERM."""
    async with ways() as found:
        with listener() as sock:
            config = uvicorn.Config(
                switch(found),
                interface="asgi3",
                lifespan="off",
                http=http,
                log_level="critical",
                access_log=False,
            )
            await uvicorn.Server(config).serve(sockets=[sock])


def run(switch: Callable[[list[Served]], ASGIApp], loop: str, http: str) -> None:
    """Serve with this event loop and parser."""
    runner: Any = import_module(loop)
    runner.run(serve(switch, http))


if __name__ == "__main__":
    run(Switch, *sys.argv[1:])
