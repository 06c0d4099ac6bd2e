"""Labels and meta: what single tasks are about, also by functions of their arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

from framework import (
    TaskManager,
    TaskStatus,
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
    assert await metas_of(task_manager, pay(6), pay.options(meta={"tenant_id": 7})(6)) == [
        {},
        {"tenant_id": 7},
    ]
    kept = task_manager.submit_nowait(order, (5,), meta=Columns(UUID(int=5), TaskStatus.FAILED))
    made = background_task(meta=columns, label=about)(order)
    found = await metas_of(task_manager, kept, made(4), made(0))
    given = {"order_id": str(UUID(int=5)), "kind": "failed"}
    assert found == [given, {"order_id": 4, "rate": 0.5, "paid": True, "note": None}, {}]
    gathered = [pay(one) for one in (1, 2)]
    assert await task_manager.gather(gathered) == ["order 1", "order 2"]


@dataclass
class Columns:
    """What other tables know of an order."""

    order_id: UUID
    kind: TaskStatus


class Order(BaseModel):
    """The same by a model."""

    order_id: int
    rate: float = 0.5
    paid: bool = True
    note: str | None = None


def columns(number: int) -> Order | None:
    """Return the meta of an order; none for the first."""
    return Order(order_id=number) if number else None


async def metas_of(manager: TaskManager, *task_ids: str) -> list[dict[str, Any]]:
    """Return the meta of some tasks."""
    tasks = [await manager.get_task(one) for one in task_ids]
    return [task.meta for task in tasks if task is not None]


def one_over(number: int) -> str:
    """Raise an error for 0."""
    return f"{1 // number}"


WRONG: Any = [5, {5: 5}]

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
        r"^the label function of .*order returned a wrong value: label must be .*, not 3; the .*$",
    ),
    (
        lambda: background_task(meta=lambda number: {"ids": cast(Any, [number])})(order)(3),
        TypeError,
        r"^the meta function of .*order returned a wrong value: meta\['ids'\] must be .*\[3\]: .*$",
    ),
    (lambda: pay.options(meta=WRONG[0]), TypeError, r"^meta must be a mapping, a model .*, not 5$"),
    (lambda: pay.options(meta=WRONG[1]), TypeError, r"^meta must have names of .*, not 5$"),
    (lambda: pay.options(meta={"a-b": 5}), ValueError, r"^meta must have names of .*, not 'a-b'$"),
    (
        lambda: pay.options(meta={"a": nan}),
        ValueError,
        r"^meta\['a'\] must be a finite .*, not nan$",
    ),
    (
        lambda: pay.options(meta={"a": 2**63}),
        ValueError,
        r"^meta\['a'\] must be an integer of 64 .*$",
    ),
    (lambda: pay.options(meta={"a": "\0"}), ValueError, r"^meta\['a'\] must have no NUL .*$"),
    (
        lambda: pay.options(meta={"a": "x" * 2_000}),
        ValueError,
        r"^meta must have at most 2,000 bytes as JSON, not 2,008$",
    ),
    (
        lambda: pay.options(meta={f"a{number}": 1 for number in range(21)}),
        ValueError,
        r"^meta must have at most 20 names, not 21$",
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
        submit = app.state.task_manager.submit_nowait
        ids = [submit(order, (one,), label=about, meta=columns) for one in (7, 8)]
        for one in ids:
            app.state.task_manager.wait_result(one)
        (by_label,) = client.get("/tasks", params={"label": "order 7"}).json()["tasks"]
        (found,) = client.get("/tasks", params={"search": "ORDER 8"}).json()["tasks"]
        rows = client.get("/tasks/dashboard/list").json()["rows"]
        asked = {"meta": '{"order_id": 8, "paid": true}'}
        (by_meta,) = client.get("/tasks", params=asked).json()["tasks"]
        wrong = client.get("/tasks", params={"meta": "order_id"})
        shown = client.get(f"/tasks/{ids[0]}").json()
        text = generate_latest(registry).decode()
    assert (by_label["task_id"], by_label["label"]) == (ids[0], "order 7")
    assert (found["task_id"], shown["label"]) == (ids[1], "order 7")
    assert (by_meta["task_id"], by_meta["meta"]["rate"], shown["meta"]["order_id"]) == (
        ids[1],
        0.5,
        7,
    )
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["query", "meta"])
    assert {row["label"] for row in rows} == {"order 7", "order 8"}
    assert "test_labels.order" in text
    assert "order 7" not in text
    assert "order_id" not in text
