"""Bugs that need both an order of two tasks and a crash, and their cures: a module of tests.

What an app has in its memory is read from its disk when it starts. So a race may leave the disk
wrong and the memory right, and nobody sees it until the process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI

from framework import background_task, current_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.steps import step
from pytest_asyncframe.probe import Probe


class Disk:
    """What is outside of the process: a database, a bank, a carrier."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.used: dict[str, str] = {}
        self.paid: dict[str, int] = {}


class Memory:
    """What a process knows."""

    def __init__(self) -> None:
        self.taken = set(disk.taken)
        self.used = dict(disk.used)


disk = Disk()
memory = Memory()


@pytest.fixture(autouse=True)
def anew() -> None:
    """Have an empty disk in each run."""
    disk.__init__()  # type: ignore[misc]  # the app has this one


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Begin with what the disk has."""
    memory.__init__()  # type: ignore[misc]  # as of a new process
    async with setup_async_framework(app):
        yield


def app_of(task: Callable[[str], Any]) -> FastAPI:
    """Return an app with a route that submits *task*, and what it is asked for."""
    app = FastAPI(lifespan=lifespan)
    app.include_router(task_router())

    @app.post("/orders/{order}")
    async def place(order: str) -> Accepted[None]:
        accepted: Accepted[None] = task(order)
        return accepted

    @app.get("/taken")
    async def taken() -> list[str]:
        return sorted(memory.taken)

    return app


async def place_both(asyncframe: Probe, client: Any) -> None:
    """Place two orders at once, and wait until both are done."""
    answers = await asyncio.gather(
        *(client.post(f"/orders/{one}", headers={"Idempotency-Key": one}) for one in "ab")
    )
    for answer in answers:
        await asyncframe.completed(answer)


# -- a copy of what is in memory, which is written late


@step
async def write_copy(order: str) -> None:
    """Write all orders as they were before the disk was ready."""
    memory.taken.add(order)
    copy = sorted(memory.taken)
    await asyncio.sleep(0)  # noqa: TID251  # until the disk is ready
    disk.taken = copy


@step
async def write_all(order: str) -> None:
    """Write all orders as they are."""
    memory.taken.add(order)
    await asyncio.sleep(0)  # noqa: TID251
    disk.taken = sorted(memory.taken)


@step
def write_copy_on_thread(order: str) -> None:
    """Write all orders as they were before somebody was told of the progress."""
    memory.taken.add(order)
    copy = sorted(memory.taken)
    task = current_task()
    assert task is not None
    task.report_progress(0.5, "writing")
    disk.taken = copy


@background_task(on_restart="resume")
async def takes_a_copy(order: str) -> None:
    """Take an order: what was written last may be older."""
    await write_copy(order)


@background_task(on_restart="resume")
def takes_a_copy_on_a_thread(order: str) -> None:
    """Take an order: the same with threads."""
    write_copy_on_thread(order)


@background_task(on_restart="resume")
async def takes(order: str) -> None:
    """Take an order."""
    await write_all(order)


async def check_taken(asyncframe: Probe, app: FastAPI) -> None:
    """Place two orders: the shop knows both of them."""
    async with asyncframe.client(app, on_crash="again") as client:
        await place_both(asyncframe, client)
        assert (await client.get("/taken")).json() == ["a", "b"]


# -- who was first is known in memory only


@step
async def pay(order: str, price: int) -> None:
    """Charge a customer, once for each order."""
    disk.paid.setdefault(order, price)


@step
async def note_use(order: str) -> None:
    """Write that the coupon was used."""
    disk.used["coupon"] = order


@step
async def claim(order: str) -> bool:
    """Claim the coupon on the disk; return whether the order has it."""
    return disk.used.setdefault("coupon", order) == order


@background_task(on_restart="resume")
async def uses_coupon_first(order: str) -> None:
    """Give the coupon to who comes first, in each life of the process anew."""
    first = memory.used.setdefault("coupon", order)
    await pay(order, 5 if first == order else 10)
    if first == order:
        await note_use(order)


@background_task(on_restart="resume")
async def claims_coupon(order: str) -> None:
    """Give the coupon to who has claimed it."""
    await pay(order, 5 if await claim(order) else 10)


async def check_coupon(asyncframe: Probe, app: FastAPI) -> None:
    """Place two orders: one of them is cheaper."""
    async with asyncframe.client(app, on_crash="again") as client:
        await place_both(asyncframe, client)
    assert sorted(disk.paid.values()) == [5, 10]


COPY, CURED_COPY = app_of(takes_a_copy), app_of(takes)
COPY_ON_A_THREAD = app_of(takes_a_copy_on_a_thread)
COUPON, CURED_COUPON = app_of(uses_coupon_first), app_of(claims_coupon)


async def test_bug_of_a_copy(asyncframe: Probe) -> None:
    """An older copy is written over a newer one."""
    await check_taken(asyncframe, COPY)


async def test_bug_of_a_copy_on_a_thread(asyncframe: Probe) -> None:
    """The same on two threads."""
    await check_taken(asyncframe, COPY_ON_A_THREAD)


async def test_bug_of_a_coupon(asyncframe: Probe) -> None:
    """After a crash the other one comes first."""
    await check_coupon(asyncframe, COUPON)


async def test_cure_of_a_copy(asyncframe: Probe) -> None:
    """What is written is what is in memory then."""
    await check_taken(asyncframe, CURED_COPY)


async def test_cure_of_a_coupon(asyncframe: Probe) -> None:
    """The disk knows who came first."""
    await check_coupon(asyncframe, CURED_COUPON)
