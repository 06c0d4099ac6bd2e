"""Failed tasks: logged at once, listed, and run again."""

import logging
import threading

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from framework import (
    Task,
    TaskNotFoundError,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.exceptions import RunAgainError

app = FastAPI(lifespan=setup_async_framework)
server = {"up": False}
alerts: list[str] = []


@background_task
def send(to: str, text: str) -> str:
    """Send a mail, unless the server is down."""
    if not server["up"]:
        raise RuntimeError("smtp is down")
    return f"{text} -> {to}"


def alert(task: Task) -> None:
    """Tell somebody. It reads `task.error`, so the failure is not logged as well."""
    alerts.append(f"{task.name} failed: {task.error}")


@background_task(on_error=alert)
def charge(order: int) -> None:
    """Charge for an order; somebody is told if that fails."""
    raise RuntimeError(f"card refused for order {order}")


@background_task(on_error="silent")
def warm_cache() -> None:
    """Do what nobody needs to know about if it fails."""
    raise ConnectionError("cache is away")


@background_task(keep_arguments=False)
def log_in(user: str, password: str) -> str:
    """Log a user in; the password is not kept."""
    if not server["up"]:
        raise RuntimeError("directory is down")
    return f"{user}: {len(password)} characters"


@app.post("/mails", status_code=202)
async def post_mail(to: str, text: str) -> dict[str, str]:
    """Send a mail in the background."""
    return {"task_id": send(to, text)}


@app.get("/failures")
async def list_failures(hours: float = 24, after: str | None = None) -> dict[str, object]:
    """List what failed in the last hours, newest first."""
    page = await get_task_manager().failed(hours * 3_600, limit=20, after=after)
    return {"tasks": [task.to_dict() for task in page.tasks], "next": page.next}


@app.post("/failures/{task_id}/again", status_code=202)
async def again(task_id: str) -> dict[str, str]:
    """Run a task again, with the same arguments."""
    try:
        return {"task_id": await get_task_manager().run_again(task_id)}
    except TaskNotFoundError:
        raise HTTPException(404, "no such task") from None
    except RunAgainError as error:
        raise HTTPException(409, error.reason) from None


class Lines(logging.Handler):
    """Keeps the lines of the log, for the tests below."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def test_failures_are_logged_listed_and_run_again() -> None:
    """A mail that was not sent is in the log and in the list, and can be sent again."""
    seen = Lines()
    logging.getLogger("asyncframe").addHandler(seen)
    try:
        with TestClient(app) as client:
            manager = app.state.task_manager
            failed = threading.Event()
            manager.subscribe(lambda _: failed.set(), kinds={"failed"})
            first = client.post("/mails", params={"to": "ann", "text": "hi"}).json()["task_id"]
            assert failed.wait(60)
            (listed,) = client.get("/failures").json()["tasks"]
            assert (listed["task_id"], listed["error_message"]) == (first, "smtp is down")

            server["up"] = True
            second = client.post(f"/failures/{first}/again").json()["task_id"]
            assert manager.wait_result(second, timeout=60) == "hi -> ann"
            refused = client.post(f"/failures/{second}/again")
            assert (refused.status_code, refused.json()["detail"]) == (
                409,
                "it completed, and the arguments of such tasks are not kept",
            )
            assert client.post("/failures/unknown/again").status_code == 404
    finally:
        server["up"] = False
        logging.getLogger("asyncframe").removeHandler(seen)
    (line,) = seen.lines
    assert line.startswith(f"task {first} ({send.__module__}.send) failed: RuntimeError: smtp is")


def test_hooks_and_silence() -> None:
    """A hook that reads the error, and `on_error="silent"`, keep the log clean."""
    seen = Lines()
    logging.getLogger("asyncframe").addHandler(seen)
    try:
        with TestClient(app):
            app.state.task_manager.submit_nowait(charge, (7,))
            app.state.task_manager.submit_nowait(warm_cache)
    finally:
        logging.getLogger("asyncframe").removeHandler(seen)
    assert seen.lines == []
    assert alerts == [f"{charge.__module__}.charge failed: card refused for order 7"]


def test_a_password_is_not_kept() -> None:
    """A task whose arguments are not kept cannot run again."""
    with TestClient(app) as client:
        manager = app.state.task_manager
        task_id = manager.submit_nowait(log_in, ("ann", "hunter2"))
        with pytest.raises(RuntimeError, match=r"^directory is down$"):
            manager.wait_result(task_id, timeout=60)
        refused = client.post(f"/failures/{task_id}/again").json()["detail"]
    assert refused == "its arguments were not kept: its option keep_arguments is False"
