"""What tasks return, and how it is read, on every backend."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from framework import TaskManager
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.tasks import Item, Point


async def result(manager: TaskManager, task_id: str) -> Any:
    """Wait for a task's result."""
    return await manager.get_result(task_id, timeout=PATIENCE)


async def test_sync_function(manager: TaskManager) -> None:
    """A sync function's result is what it returned."""
    assert await result(manager, tasks.add(1, 2)) == 3


async def test_async_function(manager: TaskManager) -> None:
    """A coroutine function's result is what it returned."""
    assert await result(manager, tasks.add_on_loop(1, 2)) == 3


async def test_defaults(manager: TaskManager) -> None:
    """A parameter that is left out has its default."""
    assert await result(manager, tasks.add(1)) == 11


async def test_further_arguments(manager: TaskManager) -> None:
    """Arguments beyond the parameters, and those by name, arrive."""
    assert await result(manager, tasks.add(1, 2, 3, 4, factor=2)) == 20


async def test_named_arguments(manager: TaskManager) -> None:
    """Parameters may be given by name."""
    assert await result(manager, tasks.add(second=2, first=1)) == 3


async def test_none(manager: TaskManager) -> None:
    """A function that returns nothing has None as its result."""
    assert await result(manager, tasks.nothing()) is None


@pytest.mark.parametrize("value", [True, 7, -(2**70), 0.1, float("inf"), "", "ünï", "\x00"])
async def test_scalar(manager: TaskManager, value: object) -> None:
    """A scalar comes back as it went, of the same type."""
    found = await result(manager, tasks.plain(value))
    assert found == value
    assert type(found) is type(value)


async def test_nested(manager: TaskManager) -> None:
    """Lists and dicts come back as they went, without any annotation."""
    value = {"list": [1, [2.5, None]], "empty": {}, "text": "a\nb"}
    assert await result(manager, tasks.plain(value)) == value


async def test_model(manager: TaskManager) -> None:
    """A pydantic model arrives as one and comes back as one."""
    item = Item(name="tea", price=Decimal("1.50"))
    found = await result(manager, tasks.model(item))
    assert found == Item(name="box of tea", price=Decimal("3.00"), parent=item)
    assert isinstance(found, Item)


async def test_models_inside(manager: TaskManager) -> None:
    """Models inside of lists and dicts are models on both ways."""
    items = [Item(name="a", price=Decimal(1)), Item(name="b", price=Decimal(2))]
    assert await result(manager, tasks.models(items)) == {"a": items[0], "b": items[1]}


async def test_bytes(manager: TaskManager) -> None:
    """Bytes are bytes on both ways, whether or not they are text."""
    found = await result(manager, tasks.turned([b"text", b"\xff\x00\xfe"]))
    assert found == {"last": b"\xfe\x00\xff", "all": b"text\xff\x00\xfe"}


async def test_moments(manager: TaskManager) -> None:
    """Moments, days and lengths of time keep their types and their time zone."""
    moment, day, length = datetime(2026, 2, 3, 4, 5, 6, 7, UTC), date(2026, 2, 3), timedelta(2.5)
    found = await result(manager, tasks.moments(moment, day, length))
    assert found == (moment + length, day + length, length * 2)
    assert [type(one) for one in found] == [datetime, date, timedelta]


async def test_identifiers(manager: TaskManager) -> None:
    """UUIDs and decimals keep type and digits."""
    one = uuid.UUID(int=5)
    found = await result(manager, tasks.identifiers(one, Decimal("1.10")))
    assert found == {"id": one, "amount": Decimal("1.10")}
    assert str(found["amount"]) == "1.10"


async def test_dataclass(manager: TaskManager) -> None:
    """A dataclass and an enumeration arrive as what they are."""
    assert await result(manager, tasks.point(Point(1), tasks.Colour.RED)) == Point(2)


async def test_read_twice(manager: TaskManager) -> None:
    """A result can be read again and again."""
    task_id = tasks.models([Item(name="a", price=Decimal(1))])
    assert await result(manager, task_id) == await result(manager, task_id)


async def test_submit_and_wait(manager: TaskManager) -> None:
    """submit(wait=True) gives the result in place of the id."""
    found: Any = await manager.submit(tasks.add, (1, 2), wait=True)
    assert found == 3


async def test_submitted_with_names(manager: TaskManager) -> None:
    """submit() takes arguments by position and by name."""
    named = {"second": 4, "factor": 2}
    found: Any = await manager.submit(tasks.add, (1,), named, wait=True)
    assert found == 10


async def test_submit_nowait(manager: TaskManager) -> None:
    """submit_nowait() takes a task in without being awaited."""
    assert await result(manager, manager.submit_nowait(tasks.add, [1, 2])) == 3


async def test_awaited(manager: TaskManager) -> None:
    """Awaiting an async_task gives its result."""
    assert await tasks.awaited("a") == "A"


async def test_awaited_on_loop(manager: TaskManager) -> None:
    """A coroutine function under async_task gives its result as well."""
    assert await tasks.awaited_on_loop("a") == "A"


async def test_wait_result(manager: TaskManager) -> None:
    """A thread can block for a result."""
    task_id = tasks.add(1, 2)
    assert await asyncio.to_thread(manager.wait_result, task_id, PATIENCE) == 3


async def test_many_at_once(manager: TaskManager) -> None:
    """A hundred results are each that of their own task."""
    ids = [tasks.add(number, 0) for number in range(100)]
    assert await asyncio.gather(*(result(manager, one) for one in ids)) == list(range(100))


async def test_nested_submission(manager: TaskManager) -> None:
    """A task may submit another, whose id works wherever it is read."""
    inner = await result(manager, tasks.parent(4))
    assert await result(manager, inner) == 5


async def test_result_in_the_dict(manager: TaskManager) -> None:
    """to_dict() has the result as strict JSON."""
    task_id = tasks.model(Item(name="tea", price=Decimal("1.50")))
    await result(manager, task_id)
    task = await manager.get_task(task_id)
    assert task is not None
    shown = task.to_dict()["result"]
    assert isinstance(shown, dict)
    assert shown["price"] == "3.00"
