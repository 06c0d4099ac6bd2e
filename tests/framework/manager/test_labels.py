"""Labels and meta: what single tasks are about, also by functions of their arguments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from math import nan
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field, SecretBytes, SecretStr, field_serializer

from framework import (
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    current_task,
    get_task_manager,
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
        "\u0645\u06cc\u200c\u062e 1\ufffd": pay.options(label="\u0645\u06cc\u200c\u062e\n1\u202e")(
            1
        ),
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


def session() -> str:
    """Provide what is never shown."""
    return "4711"


PROVIDED: Any = Depends(session)

WRONG: Any = [5, {5: 5}, "number"]


def order_by(number: int, by: str = PROVIDED) -> None:
    """Take a dependency."""


class Card(BaseModel):
    """What somebody pays with."""

    model_config = ConfigDict(extra="allow")

    number: SecretStr
    code: str = Field(repr=False)
    cvc: str = Field(default="4711", exclude=True)
    names: list[str] = []

    @field_serializer("number")
    def dump(self, number: SecretStr) -> str:
        """Return it as it is, as an app does that stores it."""
        return number.get_secret_value()


@dataclass
class Bill:
    """A dataclass, with a model and secrets in it."""

    card: Card
    keys: dict[str, SecretBytes]
    token: str = field(default="4711", repr=False)
    above: Bill | None = None


@background_task(show_arguments=True)
def charge(bill: Bill, *ids: object, cents: int = 5, by: str = PROVIDED, **more: object) -> None:
    """Take many arguments."""


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
        lambda: background_task(label=lambda number, cents: f"{number}{cents}")(order)(0),
        ValueError,
        r"^the label function of .* not submitted; give those of its parameters a default that .*$",
    ),
    (
        lambda: background_task(label=lambda number: number)(order)(3),
        TypeError,
        r"^the label function of .*order returned a wrong value: label must be .*, not 3; the .*$",
    ),
    (
        lambda: background_task(meta=lambda number: {"ids": cast(Any, [number])})(order)(3),
        TypeError,
        r"^the meta function of .*order returned .*: meta\['ids'\] must .*\[3\]: store its .*$",
    ),
    (
        lambda: pay.options(show_arguments=("order", "cents")),
        ValueError,
        r"^show_arguments must have names of parameters of .*order, number, cents, not 'order'$",
    ),
    (
        lambda: background_task(show_arguments=("by",))(order_by),
        ValueError,
        r"^show_arguments must have names of parameters of .*order_by, number, not 'by'$",
    ),
    (
        lambda: pay.options(show_arguments=WRONG[2]),
        TypeError,
        r"^show_arguments must be True, False or a tuple of names of parameters, not 'number'$",
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
    (
        lambda: pay.options(meta={"a": cast(Any, timedelta(1))}),
        TypeError,
        r"^meta\['a'\] must be .*, not .*: store it as a string or a number$",
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


async def test_what_is_refused_and_hidden(task_manager: TaskManager) -> None:
    """What is no label or meta is refused, and arguments are shown if asked, without secrets."""
    for call, error, told in REFUSED:
        with pytest.raises(error, match=told):
            call()
    assert task_manager.get_stats()["submitted"] == 0

    card = Card.model_validate(
        {"number": "4711", "code": "4711", "names": ["a"] * 22, "pin": SecretStr("4711")}
    )
    bill = Bill(card, {"key": SecretBytes(b"4711")})
    bill.above = bill
    ids = [
        charge(bill, UUID(int=5), object(), ["x" * 300], note=TaskStatus.FAILED),
        charge.options(show_arguments=("cents", "note"))(bill, cents=3),
        pay(1),
        task_manager.submit_nowait(order, (5,), show_arguments=["number"]),
        charge(bill, *(["y" * 190] * 20,) * 2, cents=4),
    ]
    tasks = [await task_manager.get_task(one) for one in ids]
    first, second, third, fourth, last = [task.to_dict()["arguments"] for task in tasks if task]
    shown = {"card": first["bill"]["card"], "keys": {"key": "*" * 10}, "token": "*" * 10}
    assert first["bill"].items() >= shown.items()
    assert first["bill"]["card"] == {
        "number": "*" * 10,
        "code": "*" * 10,
        "cvc": "*" * 10,
        "names": ["a"] * 20 + ["<2 more>"],
        "pin": "*" * 10,
    }
    assert first["ids"] == [str(UUID(int=5)), "<object>", ["x" * 197 + "..."]]
    assert (first["note"], first.keys()) == ("failed", {"bill", "ids", "note"})
    assert (second, third, fourth) == ({"cents": 3}, {}, {"number": 5})
    assert (last["ids"], last["cents"]) == ("<too long>", 4)
    assert "4711" not in json.dumps([first, last])


async def test_arguments_shown_by_default() -> None:
    """An app shows the arguments of all tasks that do not say it, and hides secrets as they do."""
    shows: list[dict[str, Any]] = []

    def keep(number: int, pin: SecretStr | None = None) -> None:
        task = current_task()
        assert task is not None
        shows.append(task.arguments)
        assert number != 2

    kept = background_task(on_error="silent")(keep)
    for default in (True, False):
        async with setup_async_framework(None, max_workers=1, show_arguments=default):
            manager = get_task_manager()
            ids = [
                kept(1, SecretStr("4711")),
                kept.options(show_arguments=False)(2),
                kept.options(show_arguments=("number",), label="x")(3, SecretStr("4711")),
                kept.options(show_arguments=[])(4),
                manager.submit_nowait(keep, (5,), label=about),
            ]
            for one in ids:
                await manager.wait(one)
            await manager.wait(await manager.run_again(ids[1]))
            await async_task(keep)(7)
            for submitted in (manager.submit_nowait(pow, (2, 3)), pay(6)):
                task = await manager.get_task(submitted)
                assert task is not None
                shows.append(task.arguments)
    on = [{"number": 1, "pin": "*" * 10}, {}, {"number": 3}, {}, {"number": 5}, {}, {"number": 7}]
    off: list[dict[str, Any]] = [{}, {}, {"number": 3}, {}, {}, {}, {}]
    builtin = {"base": 2, "exp": 3}
    assert shows == [*on, builtin, {"number": 6}, *off, {}, {}]


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
