"""Tasks in the JSON that the clients of an older app know, and a test of it."""

from typing import Any, Literal, Self

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, setup_async_framework
from framework.http import Accepted, TaskResponse, TaskView, task_router

app = FastAPI(lifespan=setup_async_framework)


@background_task(timeout=30)
def resize(file: str) -> str:
    """Make a small picture."""
    return f"small-{file}"


class Job(TaskResponse):
    """A task, as the clients know it."""

    job_uuid: str
    task_status: Literal["PENDING", "STARTED", "SUCCESS", "FAILURE"]
    task_result: str | None

    @classmethod
    def from_view(cls, view: TaskView[Any]) -> Self:
        """Say in these words what a task is."""
        status: Literal["PENDING", "STARTED", "SUCCESS", "FAILURE"]
        match view.status:
            case "pending":
                status = "PENDING"
            case "running":
                status = "STARTED"
            case "completed":
                status = "SUCCESS"
            case _:
                status = "FAILURE"
        return cls(job_uuid=view.task_id, task_status=status, task_result=view.result)


@app.post("/jobs")
async def start(file: str) -> Accepted[str]:
    """Start a job."""
    return resize(file)


app.include_router(task_router(prefix="/jobs", view=Job))


def test_a_job() -> None:
    """A job is accepted and shown in the words of its clients."""
    with TestClient(app) as client:
        accepted = client.post("/jobs", params={"file": "a.png"})
        job = accepted.json()
        shown = client.get(f"/jobs/{job['job_uuid']}", params={"wait": 10}).json()
    assert accepted.headers["location"] == f"/jobs/{job['job_uuid']}"
    assert set(job) == {"job_uuid", "task_status", "task_result"}
    assert (shown["task_status"], shown["task_result"]) == ("SUCCESS", "small-a.png")
