"""The tutorial's app, and its tests."""

import time
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.testclient import TestClient

from framework import background_task, current_task, setup_async_framework
from framework.http import Accepted, task_router

app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router())


@background_task(timeout=30, description="count the words of a text")
def count_words(text: str) -> dict[str, int]:
    """Count how often each word occurs, on a thread of the pool."""
    task = current_task()
    counts: dict[str, int] = {}
    lines = text.splitlines()
    for done, line in enumerate(lines, start=1):
        time.sleep(0.5)  # so that there is something to watch
        for word in line.split():
            counts[word] = counts.get(word, 0) + 1
        if task is not None:
            task.report_progress(done / len(lines), f"line {done} of {len(lines)}")
    return counts


@app.post("/texts")
async def take_text(text: str) -> Accepted[dict[str, int]]:
    """Start counting and answer immediately."""
    return count_words(text)


@app.get("/", include_in_schema=False)
def show_page() -> FileResponse:
    """Return the page with the progress bar."""
    return FileResponse(Path(__file__).with_suffix(".html"))


def test_words_are_counted() -> None:
    """The app accepts a text, and shows the counts when they are there."""
    with TestClient(app) as client:
        accepted = client.post("/texts", params={"text": "red blue\nred"})
        assert accepted.status_code == 202

        task = client.get(accepted.headers["location"], params={"wait": 60}).json()
        assert task["status"] == "completed"
        assert task["result"] == {"red": 2, "blue": 1}
        assert task["progress"] == 1.0
