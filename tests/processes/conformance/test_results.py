"""What tasks return, and how it is read, on every backend."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from framework import TaskManager
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.tasks import Item, Point

A, B = Item(name="a", price=Decimal(1)), Item(name="b", price=Decimal(2))
TEA = Item(name="tea", price=Decimal("1.50"))
MOMENT, DAY, LENGTH = datetime(2026, 2, 3, 4, 5, 6, 7, UTC), date(2026, 2, 3), timedelta(2.5)
NESTED = {"list": [1, [2.5, None]], "empty": {}, "text": "a\nb"}
PLAIN = (None, True, 7, -(2**70), 0.1, float("inf"), "", "ünï", "\x00", NESTED)
"""Values that JSON has, which no annotation is needed for."""


async def result(manager: TaskManager, task_id: str) -> Any:
    """Wait for a task's result."""
    return await manager.get_result(task_id, timeout=PATIENCE)


async def results(manager: TaskManager, ids: Mapping[str, str]) -> dict[str, Any]:
    """Wait for the results of all these tasks; one that failed has its error."""
    found = await asyncio.gather(*(result(manager, one) for one in ids.values()),
                                 return_exceptions=True)  # fmt: skip
    return dict(zip(ids, found, strict=True))


def seen(value: Any) -> Any:
    """Return what tells a value from an equal one of another type or with other digits."""
    if isinstance(value, dict):
        return {key: seen(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [seen(one) for one in value]
    return type(value), str(value), value


async def test_arguments(manager: TaskManager) -> None:
    """Arguments arrive by position, by name, by default and beyond the parameters."""
    ids = {
        "on a thread": tasks.add(1, 2),
        "on a loop": tasks.add_on_loop(1, 2),
        "by default": tasks.add(1),
        "more": tasks.add(1, 2, 3, 4, factor=2),
        "by name": tasks.add(second=2, first=1),
        "none at all": tasks.nothing(),
    }
    assert await results(manager, ids) == {
        "on a thread": 3, "on a loop": 3, "by default": 11,
        "more": 20, "by name": 3, "none at all": None,
    }  # fmt: skip


async def test_values(manager: TaskManager) -> None:
    """What JSON has comes back as it went, of the same type, without any annotation."""
    found = await results(manager, {repr(value): tasks.plain(value) for value in PLAIN})
    sent = {repr(value): value for value in PLAIN}
    assert {name: seen(one) for name, one in found.items()} == {
        name: seen(one) for name, one in sent.items()
    }


async def test_types(manager: TaskManager) -> None:
    """What has an annotation arrives and comes back as what it is, also inside of others.

    The functions that take it look at what arrives.
    """
    one = uuid.UUID(int=5)
    expected: dict[str, tuple[str, Any]] = {
        "model": (tasks.model(TEA), Item(name="box of tea", price=Decimal("3.00"), parent=TEA)),
        "models": (tasks.models([A, B]), {"a": A, "b": B}),
        "bytes": (
            tasks.turned([b"text", b"\xff\x00\xfe"]),
            {"last": b"\xfe\x00\xff", "all": b"text\xff\x00\xfe"},
        ),
        "moments": (
            tasks.moments(MOMENT, DAY, LENGTH), (MOMENT + LENGTH, DAY + LENGTH, LENGTH * 2),
        ),
        "identifiers": (
            tasks.identifiers(one, Decimal("1.10")), {"id": one, "amount": Decimal("1.10")},
        ),
        "dataclass": (tasks.point(Point(1), tasks.Colour.RED), Point(2)),
    }  # fmt: skip
    found = await results(manager, {name: task_id for name, (task_id, _) in expected.items()})
    assert {name: seen(value) for name, value in found.items()} == {
        name: seen(value) for name, (_, value) in expected.items()
    }
    task = await manager.get_task(expected["model"][0])
    assert task is not None
    shown = task.to_dict()["result"]
    assert isinstance(shown, dict)
    assert shown["price"] == "3.00", "to_dict() has strict JSON"


async def test_ways_to_a_result(manager: TaskManager) -> None:
    """Whoever submits a task in one way or another, and waits in one or another, has its result."""
    named = {"second": 4, "factor": 2}
    task_id = tasks.models([A])
    found = {
        "submit(wait=True)": await manager.submit(tasks.add, (1, 2), wait=True),
        "submit() with names": await manager.submit(tasks.add, (1,), named, wait=True),
        "with a limit": await manager.submit(tasks.add, (1,), timeout=PATIENCE, wait=True),
        "submit_nowait()": await result(manager, manager.submit_nowait(tasks.add, [1, 2])),
        "await": await tasks.awaited("a"),
        "await, on a loop": await tasks.awaited_on_loop("a"),
        "a thread": await asyncio.to_thread(manager.wait_result, tasks.add(1, 2), PATIENCE),
        "once": await result(manager, task_id),
        "once more": await result(manager, task_id),
    }
    assert found == {
        "submit(wait=True)": 3, "submit() with names": 10, "with a limit": 11,
        "submit_nowait()": 3, "await": "A", "await, on a loop": "A",
        "a thread": 3, "once": {"a": A}, "once more": {"a": A},
    }  # fmt: skip


async def test_many_at_once(manager: TaskManager) -> None:
    """A hundred results are each that of their own task."""
    ids = [tasks.add(number, 0) for number in range(100)]
    assert await asyncio.gather(*(result(manager, one) for one in ids)) == list(range(100))


async def test_nested_submission(manager: TaskManager) -> None:
    """A task may submit another, whose id works wherever it is read."""
    inner = await result(manager, tasks.parent(4))
    assert await result(manager, inner) == 5
