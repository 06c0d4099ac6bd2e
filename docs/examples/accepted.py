"""Reports that take a while: a request is answered immediately, and can be repeated safely."""

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router

app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router())


class Report(BaseModel):
    """A finished report."""

    title: str
    pages: int


finished: dict[str, Report] = {}


@background_task
def make_report(title: str) -> Report:
    """Make a report, which takes a while."""
    finished[title] = Report(title=title, pages=12)
    return finished[title]


@app.post("/reports")
async def create_report(title: str) -> Accepted[Report]:
    """Start a report."""
    return make_report(title)


@app.get("/reports/{title}")
async def get_report(title: str) -> Report | Accepted[Report]:
    """Return a report, or start it if there is none yet."""
    return finished.get(title) or make_report(title)


@app.post("/reports/many", status_code=202)
async def create_reports(titles: list[str]) -> list[Accepted[Report]]:
    """Start several reports."""
    return [make_report(title) for title in titles]


def test_follow() -> None:
    """The status is where the response says, and has the result in the end."""
    with TestClient(app) as client:
        accepted = client.post("/reports", params={"title": "July"})
        task = client.get(accepted.headers["Location"], params={"wait": 60}).json()
    assert accepted.status_code == 202
    assert task["status"] == "completed"
    assert task["result"] == {"title": "July", "pages": 12}


def test_repeat() -> None:
    """A request that is repeated with its key gets the same task."""
    with TestClient(app) as client:
        key = {"Idempotency-Key": "0b4cb8a4-3a0f-4d15-8d4e-5d0e9a3f9f0c"}
        first = client.post("/reports", params={"title": "May"}, headers=key)
        again = client.post("/reports", params={"title": "May"}, headers=key)
    assert again.json()["task_id"] == first.json()["task_id"]


def test_either() -> None:
    """A report that is finished is returned as it is."""
    with TestClient(app) as client:
        accepted = client.get("/reports/June")
        client.get(accepted.headers["Location"], params={"wait": 60})
        report = client.get("/reports/June")
    assert (accepted.status_code, report.status_code) == (202, 200)
    assert report.json() == {"title": "June", "pages": 12}


def test_many() -> None:
    """Each of several reports has a status of its own."""
    with TestClient(app) as client:
        response = client.post("/reports/many", json=["April", "March"])
        urls = [accepted["status_url"] for accepted in response.json()]
        tasks = [client.get(url, params={"wait": 60}).json() for url in urls]
    assert response.status_code == 202
    assert [task["result"]["title"] for task in tasks] == ["April", "March"]
