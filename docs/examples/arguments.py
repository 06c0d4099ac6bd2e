"""What becomes of the arguments of a task."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from framework import async_task, background_task, get_task_manager, setup_async_framework
from framework.protocols import decode_call, encode_call


class Order(BaseModel):
    """A pydantic model is a plain value: it has its data with it."""

    number: int
    items: list[str]


@background_task
def pack(order: Order) -> str:
    """Pack an order."""
    return f"{order.number}: {', '.join(order.items)}"


@async_task
def total(prices: list[int]) -> int:
    """Add prices."""
    return sum(prices)


async def quote(prices: list[int]) -> int:
    """Pass a copy, because the caller goes on using its list."""
    return await total(list(prices))


@background_task
def import_rows(file: Path) -> int:
    """Get the path of a large file, and not its contents."""
    with file.open() as rows:
        return sum(1 for _ in rows)


SECRETS = {"mail": "hunter2"}
"""Stands for a vault, or for environment variables."""


@background_task
def send(account: str, text: str) -> str:
    """Get the name of an account, and look up its password where it is needed."""
    password = SECRETS[account]
    return f"sent {text} with {len(password)} characters"


@background_task(keep_arguments=False)
def log_in(user: str, password: str) -> None:
    """Get a password, which is freed when the task ends."""


class Account(BaseModel):
    """Where to send something."""

    address: str
    password: SecretStr


@background_task(show_arguments=True)
def send_from(account: Account, text: str) -> None:
    """Send a text; people see all but the password."""


@background_task(show_arguments=("text",))
def send_some(account: Account, text: str) -> None:
    """Send a text; people see it alone."""


async def test_what_people_see() -> None:
    """Arguments are shown where the function says so, without secrets."""
    ann = Account(address="ann@example.com", password=SecretStr("hunter2"))
    async with setup_async_framework(None):
        manager = get_task_manager()
        tasks = [
            await manager.get_task(one) for one in (send_from(ann, "hi"), send_some(ann, "ho"))
        ]
        account = {"address": "ann@example.com", "password": "**********"}
        shown = [task.arguments for task in tasks if task]
    assert shown == [{"account": account, "text": "hi"}, {"text": "ho"}]


async def test_a_task_in_memory_gets_the_same_objects() -> None:
    """A list that is changed after the call is changed in the task as well."""
    async with setup_async_framework(None):
        prices = [1, 2]
        task_id = await get_task_manager().submit(sum, (prices,))
        prices.append(3)
        assert await get_task_manager().get_result(task_id) == 6
        assert await quote(prices) == 6


async def test_plain_values() -> None:
    """A model, a path and the name of a secret arrive as they were."""
    async with setup_async_framework(None):
        get = get_task_manager().get_result
        assert await get(pack(Order(number=7, items=["tea", "milk"]))) == "7: tea, milk"
        assert await get(import_rows(Path(os.devnull))) == 0
        assert await get(send("mail", "hi")) == "sent hi with 7 characters"


def test_what_travels_as_json() -> None:
    """By the annotations a model is one again on the other side; a lambda cannot travel."""
    text = encode_call(pack, (Order(number=7, items=["tea"]),), None)
    assert text == '[[{"number":7,"items":["tea"]}],{}]'
    assert decode_call(pack, text) == ((Order(number=7, items=["tea"]),), {})
    with pytest.raises(TypeError, match=r"^argument 'prices' of .*total does not fit: given a"):
        encode_call(total, (lambda: None,), None)
