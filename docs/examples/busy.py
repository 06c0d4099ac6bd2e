"""Tasks that compute: use a shorter switch interval, and run one at a time."""

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, setup_async_framework


@contextmanager
def switch_interval(seconds: float) -> Iterator[None]:
    """Set the interpreter's switch interval for the whole process."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the framework so that the event loop gets the GIL sooner."""
    with switch_interval(0.0005):
        async with setup_async_framework(app):
            yield


app = FastAPI(lifespan=lifespan)

computing = threading.Lock()


@background_task
def add_squares(below: int) -> int:
    """Compute while no other task does. Keep code that only waits outside the lock."""
    with computing:
        return sum(number * number for number in range(below))


@app.post("/sums", status_code=202)
async def start(below: int) -> str:
    """Start a computation."""
    return add_squares(below)


def test_the_interval_holds_while_the_app_runs() -> None:
    """The interval is set before the first task and restored at the end."""
    before = sys.getswitchinterval()
    with TestClient(app) as client:
        assert round(sys.getswitchinterval(), 6) == 0.0005
        ids = [client.post("/sums", params={"below": below}).json() for below in (3, 4)]
        manager = app.state.task_manager
        assert [manager.wait_result(task_id, timeout=60) for task_id in ids] == [5, 14]
    assert sys.getswitchinterval() == before
