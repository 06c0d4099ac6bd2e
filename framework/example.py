"""A complete app with a route for every feature of the framework.

``python -m framework.example`` serves it on 127.0.0.1, port 8000 or ``$PORT``. If SQLAlchemy is
installed, the tasks are in a database, and a button kills the process, which is started again.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from framework import (
    TaskId,
    TaskTimeoutError,
    __version__,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    get_thread_pool,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework.http import Accepted, Problem, health_router, task_router
from framework.steps import Message, step

DATABASE: str = os.environ.get("ASYNCFRAME_EXAMPLE_DATABASE", "")
"""The URL of the database of the tasks, for a process that is started again; "" for memory."""


# Windows has no SIGKILL, and ends a process at once by SIGTERM.
KILL: signal.Signals = getattr(signal, "SIGKILL", signal.SIGTERM)


def open_store() -> Any:
    """Return what keeps the tasks; None for memory."""
    if not DATABASE:
        return None
    from framework.stores.sql import SQLStore

    return SQLStore(DATABASE, durable=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the framework while the app runs."""
    settings: dict[str, Any] = {"max_workers": 10, "graceful_shutdown_timeout": 5.0}
    async with setup_async_framework(app, store=open_store(), **settings):
        yield


TOO_MANY: dict[int | str, dict[str, Any]] = {
    429: {"model": Problem, "description": "Rate limit exceeded; see Retry-After"}
}
NO_JSON: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is no text"}
}
BUSY: dict[int | str, dict[str, Any]] = {
    503: {"model": Problem, "description": "The task queue is full; see Retry-After"}
}


def name_of(route: APIRoute) -> str:
    """Return what generated clients call the function of a route."""
    return route.name


app: FastAPI = FastAPI(
    title="asyncframe example",
    version=__version__,
    description=(
        "Background tasks for FastAPI that you can see, stop, scale and test.\n\n"
        "Start a task with one of the `POST` routes below. Each answers 202 with the task's id "
        "immediately. Ask for the task's status with `GET /tasks/{task_id}`. With `?wait=10` the "
        "response comes when the task has ended, or after 10 seconds. `GET /tasks/dashboard` is a "
        "page that shows all tasks."
    ),
    openapi_tags=[
        {"name": "Start a task", "description": "Returns a task id and runs in the background."},
        {"name": "Wait for a result", "description": "Runs as a task that the route awaits."},
        {"name": "tasks", "description": "Status, progress, results and cancellation."},
        {"name": "Upkeep", "description": "The thread pool, and the clean-up of old tasks."},
    ],
    generate_unique_id_function=name_of,
    lifespan=lifespan,
)


@app.exception_handler(RequestValidationError)
async def explain_refusal(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answer 422 without the input, which may be `Infinity`: no JSON response can have that."""
    problems = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
    return JSONResponse({"detail": problems}, status_code=422)


@app.get("/", include_in_schema=False)
def show_page() -> RedirectResponse:
    """Redirect to the page that starts tasks and shows their status."""
    return RedirectResponse("tasks/dashboard")


# Background tasks: the call returns an id, and the function runs later.


class Processed(BaseModel):
    """The result of processing."""

    status: str
    data_id: str


@background_task(timeout=30, description="process some data")
def process_large_data(data_id: str) -> Processed:
    """Work on a thread of the pool, and report progress."""
    task = current_task()
    for part in range(1, 5):
        time.sleep(0.02)  # noqa: TID251  # stands for blocking work
        if task is not None:
            task.check_cancelled()
            task.report_progress(part / 4, f"part {part} of 4")
    return Processed(status="completed", data_id=data_id)


@app.post("/process", tags=["Start a task"], responses=BUSY)
async def start_processing(data_id: str) -> Accepted[Processed]:
    """Start processing, and answer 202 with the task id."""
    return process_large_data(data_id)


# A decorated function can itself be a route; in OpenAPI it returns an id.


@app.post("/reports", status_code=202, tags=["Start a task"], responses=BUSY)
@background_task(description="a report, made on the event loop")
async def make_report(title: str) -> dict[str, str]:
    """Make a report."""
    return {"title": title, "report": "..."}


# Dependencies: a task gets its own, opened when it starts and closed when it ends.


class MailServer:
    """Stands for a connection to a mail server."""

    def send(self, user: str, text: str) -> str:
        """Send a mail."""
        return f"{text}, {user}!"


def connect_to_mail() -> Iterator[MailServer]:
    """Open a connection, and close it after use."""
    yield MailServer()


@background_task(timeout=30, description="a mail to a new user")
def send_welcome(user: str, mail: MailServer = Depends(connect_to_mail)) -> str:
    """Send a mail through a connection of the task's own."""
    return mail.send(user, "Welcome")


@app.post("/users/{user}/welcome", tags=["Start a task"], responses=BUSY)
async def start_welcome(user: str) -> Accepted[str]:
    """Start sending a mail; the caller does not pass the connection."""
    return send_welcome(user)


# Async tasks: await the result of a task.


@async_task(timeout=10)
async def fetch_data(user_id: str) -> dict[str, str]:
    """Fetch some data."""
    return {"user_id": user_id, "data": "..."}


@app.get(
    "/data/{user_id}",
    tags=["Wait for a result"],
    responses={504: {"model": Problem, "description": "The task ran past its time limit"}},
)
async def get_user_data(user_id: str) -> dict[str, str]:
    """Return the fetched data."""
    try:
        return await fetch_data(user_id)
    except TaskTimeoutError as error:
        raise HTTPException(status_code=504, detail="The data did not arrive in time") from error


# Throttled tasks: above the rate limit the response is 429 with Retry-After.


@throttled_task(rate_limit=5, time_window=60)
async def limited_api_call() -> dict[str, str]:
    """Call an API that allows five calls a minute."""
    return {"status": "success"}


@app.get("/limited", tags=["Wait for a result"], responses=TOO_MANY)
async def call_limited() -> dict[str, str]:
    """Call the rate-limited function."""
    return await limited_api_call()


# Retried tasks: the third attempt succeeds.


class Outcome(BaseModel):
    """The result of an operation."""

    status: str
    attempts: int


@background_task(description="fails twice, then succeeds")
@retry_task(max_retries=3, retry_delay=0.1)
async def unreliable_operation() -> Outcome:
    """Fail until the third attempt."""
    task = current_task()
    attempt = 1 if task is None else task.attempts
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt} failed")
    return Outcome(status="success", attempts=attempt)


@app.post("/unreliable", tags=["Start a task"], responses=BUSY)
async def start_unreliable() -> Accepted[Outcome]:
    """Start an operation that fails twice and then succeeds."""
    return unreliable_operation()


# Scheduled tasks: the framework runs them at an interval.


@scheduled_task(every=60, run_at_start=True)
def heartbeat() -> str:
    """Show that schedules run."""
    return "alive"


# What the buttons of the page start.

demo: APIRouter = APIRouter(prefix="/demo", include_in_schema=False)


@background_task(timeout=60, name="demo.slow", description="ten seconds, step by step")
async def work_slowly() -> dict[str, int]:
    """Work on the event loop, and report progress; it can be cancelled at any time."""
    parts = 50
    for part in range(1, parts + 1):
        await asyncio.sleep(0.2)  # noqa: TID251  # stands for work
        if task := current_task():
            task.report_progress(part / parts, f"part {part} of {parts}")
    return {"parts": parts}


@demo.post("/slow")
async def start_slow() -> Accepted[Any]:
    """Start a task that shows its progress."""
    return work_slowly()


@background_task(timeout=60, name="demo.failing", description="asks a service that is down")
@retry_task(max_retries=3, retry_delay=1.0, backoff=2.0)
async def ask_broken_service() -> None:
    """Fail with every attempt, after 0, 1, 3 and 7 seconds."""
    raise ConnectionError("the service does not respond")


@demo.post("/failing")
async def start_failing() -> Accepted[Any]:
    """Start a task that fails, is tried again three times, and fails for good."""
    return ask_broken_service()


@background_task(timeout=60, name="demo.throttled", description="two may go out in 5 s")
@throttled_task(rate_limit=2, time_window=5.0, when_limited="wait")
async def send_message(number: int) -> str:
    """Send one of several messages."""
    return f"message {number} is sent"


@demo.post("/throttled", status_code=202)
async def start_throttled() -> list[TaskId[str]]:
    """Start six tasks, most of which wait for the rate limit."""
    return [send_message(number) for number in range(1, 7)]


@background_task(timeout=60, name="demo.resize", description="one of a hundred")
def resize_image(number: int) -> str:
    """Block a thread of the pool for a while."""
    time.sleep(0.2 + number % 10 / 20)  # noqa: TID251  # stands for blocking work
    return f"image {number} is resized"


@demo.post("/hundred", status_code=202)
async def start_hundred() -> list[TaskId[str]]:
    """Start a hundred tasks at once, of which ten run at a time."""
    return [resize_image(number) for number in range(1, 101)]


@background_task(timeout=2, name="demo.overrun", description="5 s of work, with a limit of 2 s")
def overrun() -> None:
    """Run past the time limit: the task ends then, and its thread three seconds later."""
    time.sleep(5)  # noqa: TID251  # stands for work that cannot be stopped


@demo.post("/overrun")
async def start_overrun() -> Accepted[Any]:
    """Start a task that its time limit ends."""
    return overrun()


@demo.post("/delayed")
async def start_delayed() -> Accepted[Any]:
    """Start a task that begins in half a minute."""
    return work_slowly.options(delay=30, description="begins in 30 s")()


# Tasks of several steps: after a crash they go on where they stopped.

approval: Message[bool] = Message("approval", bool)


@step
async def charge(order: str) -> str:
    """Charge a card, which must happen once."""
    await asyncio.sleep(1.5)  # noqa: TID251  # stands for a bank
    return f"payment of {order}"


@step
async def ship(order: str) -> str:
    """Hand an order to the carrier."""
    await asyncio.sleep(8)  # noqa: TID251  # stands for a carrier
    return f"parcel of {order}"


@background_task(name="demo.order", description="asks for approval", on_restart="resume")
async def fulfil(order: str) -> list[str]:
    """Charge, ask a person, and ship: what has ended is not done again."""
    payment = await charge(order)
    if not await approval.receive():
        return [payment, "refused"]
    return [payment, await ship(order)]


@demo.post("/order")
async def start_order() -> Accepted[Any]:
    """Start a task that waits for a person."""
    return fulfil("a chair")


# Else nobody would start the process again.
if DATABASE:

    @demo.post("/kill", status_code=202)
    async def kill() -> None:
        """Let this process end as by ``kill -9``, once this is answered."""
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), KILL)


app.include_router(demo)


# Routes and a page that show, follow and cancel tasks.

app.include_router(
    task_router(
        # Nobody else sees this app. Yours needs dependencies=[Depends(...)] that refuse strangers.
        expose_errors=True,
        buttons={
            "Slow, with progress": "/demo/slow",
            "Fails after three retries": "/demo/failing",
            "Six, throttled": "/demo/throttled",
            "A hundred at once": "/demo/hundred",
            "Ended by its time limit": "/demo/overrun",
            "Delayed by half a minute": "/demo/delayed",
            "Waits for approval": "/demo/order",
            **({"Kill the process": "/demo/kill"} if DATABASE else {}),
        },
        messages=[approval],
    )
)
app.include_router(health_router())


# The pool, and the clean-up.


@app.get("/pool-stats", tags=["Upkeep"])
def get_thread_pool_stats() -> dict[str, Any]:
    """Return the pool's statistics."""
    return get_thread_pool().get_stats()


@app.post("/cleanup", tags=["Upkeep"])
def cleanup(max_age: Annotated[float, Query(ge=0)] = 3600.0) -> dict[str, int]:
    """Forget finished tasks that are older than `max_age` seconds."""
    return {"removed": get_task_manager().cleanup_completed_tasks(max_age=max_age)}


# Custom tasks: submit any function.


class CustomParameters(BaseModel):
    """Arguments of the custom task."""

    # Every client can read these numbers: JavaScript has no larger integers.
    arg1: int = Field(ge=-(2**52), le=2**52)
    arg2: int = Field(ge=-(2**52), le=2**52)
    option: str | None = None
    delay: float = Field(default=0.0, ge=0.0, le=86_400.0, strict=True)


class Sum(BaseModel):
    """What the custom task returns."""

    sum: int
    option: str | None


def my_custom_function(first: int, second: int, option: str | None = None) -> Sum:
    """Add two numbers, on a thread of the pool."""
    return Sum(sum=first + second, option=option)


@app.post("/custom-task", tags=["Start a task"], responses=NO_JSON | BUSY)
async def create_custom_task(params: CustomParameters) -> Accepted[Sum]:
    """Submit a function that has no decorator."""
    return await get_task_manager().submit(
        func=my_custom_function,
        args=(params.arg1, params.arg2),
        kwargs={"option": params.option},
        timeout=30,
        description="Custom task",
        wait=False,
        delay=params.delay,
    )


def main() -> None:
    """Serve the app, in a process that is started again when it was killed."""
    if importlib.util.find_spec("uvicorn") is None:
        sys.exit("the example needs uvicorn, which is not installed: pip install uvicorn")
    if DATABASE or importlib.util.find_spec("sqlalchemy") is None:
        serve()
        return
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/tasks.db"
        environment = {**os.environ, "ASYNCFRAME_EXAMPLE_DATABASE": database}
        # Ctrl+C ends the child, and with it this.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status: int = KILL
        # Such a status is negative, but for Windows.
        while abs(status) == KILL:
            with subprocess.Popen(
                [sys.executable, "-m", "framework.example"], env=environment
            ) as child:
                signal.signal(signal.SIGTERM, lambda *_: child.terminate())
                status = child.wait()
    sys.exit(status)


def serve() -> None:
    """Serve the app in this process."""
    import uvicorn

    # With a limit for open requests, tasks get their own time at shutdown.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ.get("PORT", "8000")),
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
