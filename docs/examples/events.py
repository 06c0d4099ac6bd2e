"""Events, and log records that contain the id of their task."""

import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, get_task_manager, setup_async_framework
from framework.protocols import TaskEvent

logger = logging.getLogger("shop")


class EventCounter:
    """A sink that counts events. It runs wherever they happen, so it must be fast."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def __call__(self, event: TaskEvent) -> None:
        """Count one event."""
        self.kinds[event.kind] += 1


counter = EventCounter()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Subscribe as soon as the framework runs."""
    async with setup_async_framework(app):
        get_task_manager().subscribe(counter)
        yield


app = FastAPI(lifespan=lifespan)


@background_task
def ship(order: str) -> None:
    """Log something; the record contains the task id automatically."""
    logger.warning("shipping %s", order)


@background_task
def fail() -> None:
    """Fail, with nobody waiting for the result."""
    raise ValueError("out of stock")


class Kept(logging.Handler):
    """A logging handler that keeps its records, for the tests below."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.records.append(record)


def test_a_log_record_knows_its_task() -> None:
    """record.task_id is the id, so a format may contain %(task_id)s."""
    kept = Kept()
    logger.addHandler(kept)
    try:
        with TestClient(app):
            task_id = app.state.task_manager.submit_nowait(ship, ("7",))
            app.state.task_manager.wait_result(task_id, timeout=60)
    finally:
        logger.removeHandler(kept)
    (record,) = kept.records
    assert record.getMessage() == "shipping 7"
    assert vars(record)["task_id"] == task_id


def test_events_are_heard() -> None:
    """A task that completes has the events submitted, started and completed."""
    counter.kinds.clear()
    ids: list[str | None] = []
    completed = threading.Event()

    def note_completion(event: TaskEvent) -> None:
        ids.append(event.task_id)
        completed.set()

    with TestClient(app):
        manager = app.state.task_manager
        unsubscribe = manager.subscribe(note_completion, kinds={"completed"})
        task_id = manager.submit_nowait(ship, ("8",))
        assert completed.wait(60)
        unsubscribe()
    assert ids == [task_id]
    assert counter.kinds == {"submitted": 1, "started": 1, "completed": 1}


def test_a_failure_is_logged() -> None:
    """It is logged once, at ERROR, when the task ends, since nobody waits for it."""
    kept = Kept()
    logging.getLogger("asyncframe").addHandler(kept)
    try:
        with TestClient(app):
            app.state.task_manager.submit_nowait(fail)
    finally:
        logging.getLogger("asyncframe").removeHandler(kept)
    (record,) = [one for one in kept.records if one.levelno == logging.ERROR]
    assert "fail) failed: ValueError: out of stock (submitted at " in record.getMessage()
