"""Labels: what single tasks are about, by a text or by a function of their arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest

from framework import (
    TaskManager,
    async_task,
    background_task,
    current_task,
    retry_task,
    setup_async_framework,
)
from framework.http import task_router
from framework.telemetry.prometheus import PrometheusSink
from tests.framework.http.login import LOGIN


def own() -> str | None:
    """Return the label of the task that runs here."""
    task = current_task()
    return None if task is None else task.label


def order(number: int, *, cents: int = 0) -> str | None:  # it is labelled
    """Return the label of its own task."""
    return own()


def about(number: int, **_: int) -> str | None:
    """Return the label of an order; none for the first."""
    return f"order  {number}\n" if number else None


pay = background_task(label=about)(order)


@background_task(label="parent")
def parent() -> str:
    """Submit a task that has no label of its own."""
    return background_task(own)()


async def test_how_labels_are_given(task_manager: TaskManager) -> None:
    """A label is a text or what a function makes of the arguments, in one line, for one task."""
    long = "x" * 300
    ids = {
        "order 7": pay(7),
        "order 8": pay(number=8, cents=3),
        "order 9": await task_manager.submit(retry_task(order), (9,), label=about),
        None: pay(0),
        "text": pay.options(label="text")(1),
        "x" * 197 + "...": await task_manager.submit(order, (1,), label=long),
    }
    assert [await task_manager.get_result(one) for one in ids.values()] == list(ids)
    assert await async_task(label=about)(order)(5) == "order 5"
    assert await asyncio.to_thread(lambda: task_manager.wait_result(pay(6))) == "order 6"
    child = await task_manager.get_result(parent())
    assert await task_manager.get_result(child) is None
    gathered = [pay(one) for one in (1, 2)]
    assert await task_manager.gather(gathered) == ["order 1", "order 2"]


def one_over(number: int) -> str:
    """Raise an error for 0."""
    return f"{1 // number}"


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: background_task(label=5)(order),  # type: ignore[call-overload]  # no label
        TypeError,
        r"^label must be a string, a function of the call's arguments or None, not 5$",
    ),
    (
        lambda: background_task(label=lambda: "")(order),
        TypeError,
        r"^the label function of .*order takes \(\), but it is called with the arguments of .*",
    ),
    (
        lambda: background_task(label=one_over)(order)(0),
        ValueError,
        r"^the label function of .*order raised ZeroDivisionError: .*; the task was not submitted$",
    ),
    (
        lambda: background_task(label=lambda number: number)(order)(3),
        TypeError,
        r"^the label function of .*order must return a string or None, not 3$",
    ),
]


async def test_labels_that_are_refused(task_manager: TaskManager) -> None:
    """A label that is none is refused, with the name of the function, and nothing is submitted."""
    for call, error, told in REFUSED:
        with pytest.raises(error, match=told):
            call()
    assert task_manager.get_stats()["submitted"] == 0


def test_where_labels_are_shown() -> None:
    """A label is in lists, rows of the page and answers, and is searched; metrics never have it."""
    registry = CollectorRegistry()
    app = FastAPI(lifespan=setup_async_framework(telemetry=[PrometheusSink(registry)]))
    app.include_router(task_router(dependencies=LOGIN))
    with TestClient(app) as client:
        ids = [app.state.task_manager.submit_nowait(order, (one,), label=about) for one in (7, 8)]
        for one in ids:
            app.state.task_manager.wait_result(one)
        (by_label,) = client.get("/tasks", params={"label": "order 7"}).json()["tasks"]
        (found,) = client.get("/tasks", params={"search": "ORDER 8"}).json()["tasks"]
        rows = client.get("/tasks/dashboard/list").json()["rows"]
        shown = client.get(f"/tasks/{ids[0]}").json()
        text = generate_latest(registry).decode()
    assert (by_label["task_id"], by_label["label"]) == (ids[0], "order 7")
    assert (found["task_id"], shown["label"]) == (ids[1], "order 7")
    assert {row["label"] for row in rows} == {"order 7", "order 8"}
    assert "test_labels.order" in text
    assert "order 7" not in text
