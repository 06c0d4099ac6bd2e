"""Routes that show and cancel tasks, written by hand, and tests of them."""

from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import background_task, get_task_manager, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)


@background_task(timeout=30)
def convert(file: str) -> str:
    """Convert a file."""
    if not file.endswith(".png"):
        raise ValueError(f"{file} is not a picture")
    return file.replace(".png", ".jpg")


class Conversion(BaseModel):
    """What this app shows of a task."""

    id: str
    state: str
    file: str | None = None
    error: str | None = None


@app.post("/conversions", status_code=202)
async def start(file: str) -> Conversion:
    """Start a conversion."""
    return Conversion(id=convert(file), state="pending")


@app.get("/conversions/{task_id}")
async def show(task_id: str, wait: Annotated[float, Query(ge=0, le=60)] = 0) -> Conversion:
    """Return a conversion, when it has ended or after some seconds."""
    task = await get_task_manager().wait(task_id, timeout=wait)
    if task.status in ("failed", "timeout"):
        return Conversion(id=task_id, state=task.status, error="The file cannot be converted")
    return Conversion(id=task_id, state=task.status, file=task.result)


@app.delete("/conversions/{task_id}")
async def stop(task_id: str) -> dict[str, bool]:
    """Cancel a conversion, and tell whether that worked."""
    return {"cancelled": await get_task_manager().cancel_task(task_id)}


@app.get("/conversions")
async def latest(after: str | None = None) -> dict[str, object]:
    """Return twenty conversions, the newest first, and where the next page begins."""
    page = await get_task_manager().list_tasks(limit=20, after=after)
    shown = [Conversion(id=task.task_id, state=task.status) for task in page.tasks]
    return {"conversions": shown, "next": page.next}


def test_a_conversion() -> None:
    """A conversion is shown with its file, and a failed one without its error's text."""
    with TestClient(app) as client:
        answers = [client.post("/conversions", params={"file": file}) for file in ("a.png", "b")]
        good, bad = (
            client.get(f"/conversions/{answer.json()['id']}", params={"wait": 60}).json()
            for answer in answers
        )
        listed = client.get("/conversions").json()
    assert (good["state"], good["file"], good["error"]) == ("completed", "a.jpg", None)
    assert (bad["state"], bad["error"]) == ("failed", "The file cannot be converted")
    assert [one["id"] for one in listed["conversions"]] == [bad["id"], good["id"]]


def test_an_unknown_id() -> None:
    """An unknown id is 404, and cannot be cancelled."""
    with TestClient(app) as client:
        assert client.get("/conversions/unknown").status_code == 404
        assert client.delete("/conversions/unknown").json() == {"cancelled": False}
