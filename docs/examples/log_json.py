"""Log lines as JSON, with the task in each of them; only the standard library."""

import io
import json
import logging

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework

logger = logging.getLogger("shop")


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; it has the task only inside a task."""
        line: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "task_id", None) is not None:
            for name in ("task_id", "task_name", "task_attempt"):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


app = FastAPI(lifespan=setup_async_framework)


@background_task(name="ship")
def ship(order: str) -> None:
    """Log as usual."""
    logger.warning("shipping %s", order)


@app.post("/orders", status_code=202)
def create(order: str) -> TaskId[None]:
    """Log outside a task, too."""
    logger.warning("order %s", order)
    return ship(order)


def test_lines() -> None:
    """The line of the task has its id, and the line of the request has none."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    try:
        with TestClient(app) as client:
            task_id = client.post("/orders", params={"order": "A1"}).json()
            get_task_manager().wait_result(task_id)
    finally:
        logger.removeHandler(handler)
    request, task = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert "task_id" not in request
    assert task["message"] == "shipping A1"
    assert (task["task_id"], task["task_name"], task["task_attempt"]) == (task_id, "ship", 1)
