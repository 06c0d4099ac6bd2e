"""Responses of the app's own: one model shows a task in every route, in events and in OpenAPI."""

from __future__ import annotations

from typing import Any, Generic, Literal, Self, TypeVar

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import Field, field_validator

from framework import background_task, get_task_manager, setup_async_framework
from framework.http import Accepted, TaskResponse, TaskView, task_router
from pytest_asyncframe.probe import Probe
from tests.framework.http.reports import Report
from tests.framework.http.streams import events

T = TypeVar("T")

_WORDS: dict[str, Literal["PENDING", "SUCCESS", "FAILURE"]] = {
    "pending": "PENDING",
    "running": "PENDING",
    "completed": "SUCCESS",
}


class Job(TaskResponse, Generic[T]):
    """What the clients of this app know."""

    job_uuid: str
    task_status: Literal["PENDING", "SUCCESS", "FAILURE"]
    task_result: T | None
    why: str

    @classmethod
    def from_view(cls, view: TaskView[Any]) -> Self:
        """Say it in the words of the clients."""
        return cls(
            job_uuid=view.task_id,
            task_status=_WORDS.get(view.status, "FAILURE"),
            task_result=view.result,
            why=f"{view.reason} {view.error_message}",
        )


@background_task
def make_known_report(title: str) -> Report:
    """Make a report, or fail."""
    if title == "bad":
        raise ValueError("a secret")
    return Report(title=title)


def _app() -> FastAPI:
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/jobs")
    async def create(title: str) -> Accepted[Report]:
        return make_known_report(title)

    @app.post("/maybe")
    async def maybe(title: str) -> str | Accepted[Report]:
        return make_known_report(title) if title else "nothing"

    @app.get("/own/{task_id}")
    async def show(task_id: str) -> Job[Report]:
        return Job[Report].of(await get_task_manager().wait(task_id, 10))

    # The routes above were set up before it is known what shows their tasks.
    app.include_router(task_router(view=Job, owner=_user))
    return app


def _user(request: Request) -> str | None:
    return request.headers.get("x-user")


def test_one_model_shows_a_task_everywhere() -> None:
    """Accepting, status and own routes and events show the app's model, to the owner alone."""
    with TestClient(_app(), headers={"x-user": "ann"}) as client:
        for path in ("/jobs", "/maybe"):
            accepted = client.post(path, params={"title": "a"})
            assert accepted.status_code == 202
            assert set(accepted.json()) == {"job_uuid", "task_status", "task_result", "why"}
            url = accepted.headers["location"]
            assert url == f"/tasks/{accepted.json()['job_uuid']}"
            shown = client.get(url, params={"wait": 10}).json()
            assert (shown["task_status"], shown["task_result"]["title"]) == ("SUCCESS", "a")
            assert client.get(f"/own/{shown['job_uuid']}").json() == shown
            last = list(events(client.get(f"{url}/events").text.splitlines()))[-1]
            assert last.data == shown
            assert client.get(url, headers={"x-user": "bob"}).status_code == 404
        bad = client.post("/jobs", params={"title": "bad"}).headers["location"]
        failed = client.get(bad, params={"wait": 10})
        assert failed.json()["task_status"] == "FAILURE"
        assert "secret" not in failed.text
        assert client.post("/maybe", params={"title": ""}).json() == "nothing"


def test_openapi_describes_the_app_s_model(asyncframe: Probe) -> None:
    """OpenAPI has the model, with the result's type, and tests find a task by its response."""
    document = _app().openapi()
    paths = document["paths"]

    def ref(path: str, method: str, code: str) -> str:
        content = paths[path][method]["responses"][code]["content"]
        return str(content["application/json"]["schema"]["$ref"]).rpartition("/")[2]

    assert ref("/jobs", "post", "202") == ref("/maybe", "post", "202") == "Job_Report_"
    assert ref("/tasks/{task_id}", "get", "200") == "Job"
    # A link takes the id from the body, and nobody knows where this one has it.
    assert "links" not in paths["/jobs"]["post"]["responses"]["202"]
    stream = paths["/tasks/{task_id}/events"]["get"]["responses"]["200"]["content"]
    schema = stream["text/event-stream"]["x-itemSchema"]["properties"]["data"]["contentSchema"]
    assert schema["anyOf"][0] == {"$ref": "#/components/schemas/Job"}
    assert "Job" in document["components"]["schemas"]
    assert "TaskView" not in document["components"]["schemas"]
    with asyncframe.client(_app(), headers={"x-user": "ann"}) as client:
        accepted = client.post("/jobs", params={"title": "a"})
        assert asyncframe.run_until_complete(accepted).result == Report(title="a")
    with pytest.raises(TypeError, match=r"^view must be a model that is derived from "):
        task_router(view=Report)  # type: ignore[arg-type]


class Named(TaskResponse):
    """A response with other names alone."""

    status: Literal["no status of a task"]
    job_uuid: str = Field(validation_alias="task_id")
    since: str = ""


class Misnamed(Named):
    """A response with a field that no task has."""

    job: str


def test_a_field_that_no_task_has() -> None:
    """A field that nothing can fill is refused before a task is accepted and cannot be shown."""
    told = r"^view must have fields that a task has, not job of Misnamed: override from_view, or "
    assert task_router(view=Named).routes
    with pytest.raises(TypeError, match=told):
        task_router(view=Misnamed)


def test_a_view_whose_validator_is_surprised() -> None:
    """A view is accepted whose validator fails for values that a task may not have."""

    class Named(TaskResponse):
        name: str

        @field_validator("name", mode="before")
        @classmethod
        def _shorten(cls, name: str) -> str:
            return name.rpartition(".")[2]

    task_router(view=Named)
