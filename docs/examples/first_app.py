"""The tutorial's app, and a test of it."""

import threading

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from framework import background_task, current_task, get_task_manager, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)


@background_task(timeout=30, description="count the words of a text")
def count_words(text: str) -> dict[str, int]:
    """Count how often each word occurs, on a thread of the pool."""
    task = current_task()
    counts: dict[str, int] = {}
    lines = text.splitlines()
    for done, line in enumerate(lines, start=1):
        for word in line.split():
            counts[word] = counts.get(word, 0) + 1
        if task is not None:
            task.report_progress(done / len(lines), f"line {done} of {len(lines)}")
    return counts


@app.post("/texts", status_code=202)
async def take_text(text: str) -> dict[str, str]:
    """Start counting and answer immediately."""
    return {"task_id": count_words(text)}


@app.get("/tasks/{task_id}")
async def show_task(task_id: str) -> dict[str, object]:
    """Return the status of a task."""
    task = await get_task_manager().get_task(task_id)
    if task is None:
        raise HTTPException(status_code=404, detail="Task not found")
    return task.to_dict()


@app.delete("/tasks/{task_id}")
async def stop_task(task_id: str) -> dict[str, bool]:
    """Cancel a task, and tell whether that worked."""
    return {"cancelled": await get_task_manager().cancel_task(task_id)}


def test_words_are_counted() -> None:
    """The app returns an id, and later the counts."""
    with TestClient(app) as client:
        answer = client.post("/texts", params={"text": "red blue\nred"})
        assert answer.status_code == 202
        task_id = answer.json()["task_id"]

        counts = app.state.task_manager.wait_result(task_id, timeout=10)
        assert counts == {"red": 2, "blue": 1}

        shown = client.get(f"/tasks/{task_id}").json()
        assert shown["status"] == "completed"
        assert shown["result"] == {"red": 2, "blue": 1}
        assert shown["progress"] == 1.0


def test_an_unknown_id_is_404() -> None:
    """The app answers 404 for an unknown id."""
    with TestClient(app) as client:
        assert client.get("/tasks/unknown").status_code == 404


def test_counting_needs_no_framework() -> None:
    """The undecorated function can be called without a framework."""
    assert count_words.fn("red") == {"red": 1}


def test_a_task_needs_a_text() -> None:
    """A call with missing arguments raises in the caller, not in the background."""
    with TestClient(app), pytest.raises(TypeError, match="missing 1 required positional argument"):
        count_words()  # type: ignore[call-arg]


def test_a_delayed_count_can_be_cancelled() -> None:
    """A delayed task that is cancelled never starts."""
    started = threading.Event()
    with TestClient(app) as client:
        manager = app.state.task_manager
        task_id = manager.submit_nowait(started.set, delay=60)
        assert client.delete(f"/tasks/{task_id}").json() == {"cancelled": True}
        assert client.get(f"/tasks/{task_id}").json()["status"] == "cancelled"
    assert not started.is_set()
