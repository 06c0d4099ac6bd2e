"""The page of tasks, for those who may see it, with a button that starts one."""

import secrets
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.testclient import TestClient

from framework import TaskId, background_task, setup_async_framework
from framework.http import task_router

PASSWORD = "correct horse"  # from your settings


def log_in(given: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    """Let the browser ask for a password."""
    if not secrets.compare_digest(given.password.encode(), PASSWORD.encode()):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})


app = FastAPI(lifespan=setup_async_framework)
app.include_router(
    task_router(dependencies=[Depends(log_in)], buttons={"Monthly report": "/reports"})
)


@background_task(description="The report of this month")
def make_report() -> str:
    """Make a report."""
    return "reports/november.pdf"


@app.post("/reports", status_code=202, dependencies=[Depends(log_in)])
def start_report() -> TaskId[str]:
    """Start a report."""
    return make_report()


@background_task(label=lambda order: f"order {order}")
def ship(order: int) -> str:
    """Ship an order."""
    return f"{order} is on its way"


@app.post("/orders/{number}", status_code=202, dependencies=[Depends(log_in)])
def take_order(number: int) -> TaskId[str]:
    """Ship an order."""
    return ship(number)


def test_the_page() -> None:
    """Those who know the password see the page, and its button starts a task."""
    with TestClient(app) as client:
        assert client.get("/tasks/dashboard").status_code == 401
        client.auth = ("", PASSWORD)
        assert client.get("/tasks/dashboard").status_code == 200
        (button,) = client.get("/tasks/dashboard/facts").json()["buttons"]
        task_id = client.post(button["path"]).json()
        (row,) = client.get(f"/tasks/dashboard/list?search={task_id}").json()["rows"]
        assert row["text"] == "The report of this month"


def test_tasks_are_found_by_what_they_are_about() -> None:
    """The search finds the task of one order."""
    with TestClient(app) as client:
        client.auth = ("", PASSWORD)
        ids = [client.post(f"/orders/{number}").json() for number in (7, 8)]
        (row,) = client.get("/tasks/dashboard/list?search=order 8").json()["rows"]
        assert (row["id"], row["label"]) == (ids[1], "order 8")
