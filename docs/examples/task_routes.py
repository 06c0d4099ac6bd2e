"""Tasks over HTTP: one router shows, awaits, cancels and repeats them."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import Task, TaskId, background_task, get_task_manager, setup_async_framework
from framework.http import Problem, TaskView, task_router


def require_key(x_api_key: Annotated[str, Header()] = "") -> None:
    """Refuse requests without the key."""
    if x_api_key != "secret":
        raise HTTPException(401, "Send the header X-API-Key")


app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(dependencies=[Depends(require_key)]))


class Report(BaseModel):
    """What the task returns."""

    title: str
    pages: int


@background_task
def make_report(title: str) -> Report:
    """Make a report."""
    return Report(title=title, pages=len(title))


@app.post("/reports", status_code=202)
async def create(title: str) -> TaskId[Report]:
    """Start to make a report."""
    return make_report(title)


@app.get("/reports/{task_id}", response_model=TaskView[Report], responses={404: {"model": Problem}})
async def show(task_id: str) -> Task:
    """Return the state of a report."""
    return await get_task_manager().wait(task_id, timeout=0)


@background_task
def measure() -> dict[str, Any]:
    """Return what is no report."""
    return {"seconds": 1.5}


KEY = {"X-API-Key": "secret"}


def test_the_routes_of_tasks() -> None:
    """A client waits for the result, and cancels with the header that other sites cannot send."""
    with TestClient(app, headers=KEY) as client:
        task_id = client.post("/reports", params={"title": "Sales"}).json()
        shown = client.get(f"/tasks/{task_id}", params={"wait": 60}).json()
        assert shown["status"] == "completed"
        assert shown["result"] == {"title": "Sales", "pages": 5}
        assert client.get("/tasks", params={"status": "completed"}).json()["total"] == 1
        assert client.get("/tasks/stats").json()["completed"] == 1
        assert client.delete(f"/tasks/{task_id}").status_code == 403
        answer = client.delete(f"/tasks/{task_id}", headers={"X-Requested-With": "example"})
        assert answer.json() == {
            "cancelled": False,
            "status": "completed",
            "outcome": "cannot",
            "why": "it has ended: completed",
        }
        assert client.get("/tasks/unknown").status_code == 404
        assert client.get("/tasks", headers={"X-API-Key": "guess"}).status_code == 401


def test_a_route_of_ones_own() -> None:
    """A route that returns a task shows a result of its type, or says why not."""
    with TestClient(app) as client:
        task_id = client.post("/reports", params={"title": "Sales"}).json()
        client.get(f"/tasks/{task_id}", params={"wait": 60}, headers=KEY)
        assert client.get(f"/reports/{task_id}").json()["result"] == {"title": "Sales", "pages": 5}
        manager = app.state.task_manager
        other = manager.submit_nowait(measure)
        manager.wait_result(other)
        shown = client.get(f"/reports/{other}").json()
        assert shown["result"] is None
        assert shown["result_problem"] == "its type, dict, is not what this response shows"
