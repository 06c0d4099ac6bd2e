"""The app of a shop on the pictures of the page: what it does in half an hour, on a clock.

Its tasks wait on the framework's clock, so that half an hour takes no time and is always the same.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from fastapi import FastAPI

from framework import (
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework.http import task_router
from framework.steps import Message, step
from tests.framework.exact import ExactClock

NOW: Final = datetime(2026, 11, 24, 14, 3, 20, tzinfo=UTC).timestamp()
"""When the pictures are taken."""

PAST: Final = 1_800.0
"""How many seconds of the shop's life are behind it then."""


class ShownClock(ExactClock):
    """A clock that stands still until it is moved, also for coroutines and idle threads."""

    def time(self) -> float:
        """Return the date on the pictures."""
        return NOW + self._now

    async def asleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by so many seconds."""
        over = asyncio.Event()
        self.call_at(self._now + seconds, over.set)
        await over.wait()

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait until somebody notifies; no time passes meanwhile."""
        return condition.wait()

    async def pass_until(self, when: float) -> None:
        """Move the clock, and let everything that happens until then happen at its time."""
        while self._heap and self._heap[0][0] <= when:
            self.advance_to(self._heap[0][0])
            await turns(30)
        self.advance_to(when)
        await turns(30)


async def turns(number: int) -> None:
    """Let the event loop turn some times."""
    for _ in range(number):
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await turned.wait()


CLOCK: Final = ShownClock(-PAST)
HELD: Final = threading.Event()
"""Holds threads as long as the pictures are taken."""


F = TypeVar("F", bound=Callable[..., Any])


def of_the_shop(fn: F) -> F:
    """Name a function as one of the shop's, and not of these tests."""
    fn.__module__ = "shop"
    return fn


async def take(seconds: float, pages: int = 0) -> None:
    """Take some time, with a report of progress after each page."""
    task = current_task()
    assert task is not None
    for page in range(pages):
        task.report_progress(page / pages, f"page {page} of {pages}")
        await get_task_manager().clock.asleep(seconds / pages)
    if not pages:
        await get_task_manager().clock.asleep(seconds)


@background_task(name="images.resize", description="Product photo in five sizes")
async def resize(seconds: float) -> dict[str, int]:
    """Resize an image."""
    await take(seconds)
    return {"sizes": 5}


@background_task(name="mail.receipt", description="Receipt for an order")
@throttled_task(rate_limit=20, time_window=60, when_limited="wait")
@of_the_shop
async def receipt(seconds: float) -> dict[str, bool]:
    """Send a receipt."""
    await take(seconds)
    return {"sent": True}


@background_task(
    name="payments.capture",
    description="Take the money of an order",
    meta={"tenant_id": 12, "kind": "payment"},
)
@retry_task(max_retries=4, retry_delay=15, backoff=2)
async def capture(seconds: float, failures: int) -> dict[str, str]:
    """Capture a payment."""
    await take(seconds)
    task = current_task()
    assert task is not None
    if task.attempts <= failures:
        raise ConnectionError("the bank does not answer")
    return {"state": "captured"}


@background_task(name="reports.monthly", description="November, for the accountant")
async def report(seconds: float) -> dict[str, Any]:
    """Build a report."""
    await take(seconds, pages=24)
    return {"pages": 24, "file": "reports/2026-11.pdf"}


@background_task(name="orders.export", description="All orders as a table")
async def export(seconds: float) -> dict[str, int]:
    """Export orders."""
    await take(seconds)
    return {"rows": 18_204}


@background_task(name="search.index", timeout=20, description="Products in the search index")
async def index(seconds: float) -> None:
    """Build the index."""
    await take(seconds)


@background_task(name="catalogue.import", description="Prices of a supplier")
def load() -> None:
    """Hold a thread."""
    HELD.wait()


@background_task(name="stock.check")
async def check(seconds: float) -> None:
    """Fail."""
    await take(seconds)
    raise KeyError("warehouse 7")


APPROVAL: Final = Message("approval", bool)
SETTLES: Final = asyncio.Event()
"""Set once a refund is begun, which takes a thread a moment of real time."""


@step
@of_the_shop
async def find_payment(seconds: float) -> None:
    """Find what was paid."""
    await take(seconds)


@step
@of_the_shop
async def check_parcel(seconds: float) -> None:
    """Ask whether the parcel has come back."""
    await take(seconds)


@step
@of_the_shop
async def estimate(seconds: float) -> None:
    """Say how much it is worth."""
    await take(seconds)


@step
@of_the_shop
async def pay_back(seconds: float) -> None:
    """Pay back."""
    await take(seconds)


@background_task(name="refunds.settle", on_restart="resume", description="Refund of order 1042")
async def refund() -> None:
    """Look, ask a person, and pay."""
    SETTLES.set()
    await find_payment(2.2)
    async with asyncio.TaskGroup() as group:
        group.create_task(check_parcel(4.6))
        group.create_task(estimate(2.9))
    if await APPROVAL.receive():
        await pay_back(0.4)


@scheduled_task(every=300, name="stats.roll_up")
async def roll_up() -> None:
    """Add up figures."""
    await take(0.8)


@scheduled_task(every=86_400, name="carts.forget")
async def forget() -> None:
    """Remove old carts."""


app = FastAPI(lifespan=lambda app: setup_async_framework(app, max_workers=8, clock=CLOCK))
app.include_router(
    task_router(
        buttons={"Import prices": "/prices", "Monthly report": "/reports"}, messages=[APPROVAL]
    ),
)

_Start = tuple[float, Callable[[], object]]


def plan() -> list[_Start]:
    """Return what is submitted, and how many seconds before or after the pictures."""
    rng = random.Random(11)
    starts: list[_Start] = []

    def often(number: int, begin: Callable[[], object]) -> None:
        starts.extend((-PAST + rng.random() * (PAST - 90), begin) for _ in range(number))

    def soon() -> float:
        return rng.lognormvariate(-3.2, 1.3)

    often(110, lambda: resize.options(delay=soon())(rng.lognormvariate(-0.4, 0.6)))
    often(60, lambda: receipt.options(delay=soon())(rng.lognormvariate(-1.6, 0.5)))
    often(26, lambda: capture(rng.lognormvariate(-0.9, 0.4), int(rng.random() * 1.3)))
    often(8, lambda: export.options(delay=soon())(rng.lognormvariate(2.2, 0.5)))
    often(5, lambda: report(90 + 40 * rng.random()))
    often(3, lambda: check(0.2))
    starts += [
        (-64.0, lambda: resize(0.9)),
        (-60.0, lambda: check(0.2)),
        *((-55.0 + 2 * one, lambda: receipt(0.2)) for one in range(20)),
        (-48.0, load),
        (-40.0, load),
        (-37.0, load),
        (-33.0, lambda: report(38)),
        (-15.5, refund),
        (-31.0, lambda: check(0.2)),
        (-28.5, lambda: index(60)),
        (-27.0, lambda: export(11.2)),
        (-21.0, lambda: capture(0.4, 1)),
        (-17.0, lambda: resize(0.7)),
        (-14.0, lambda: receipt(0.2)),
        (-13.5, lambda: receipt(0.2)),
        (-11.0, lambda: report(26)),
        (-8.0, lambda: resize(1.2)),
        (-6.0, lambda: capture(0.6, 3)),
        (-4.0, lambda: capture(0.5, 0)),
        (-1.5, lambda: resize(4)),
    ]
    return heapq.nsmallest(len(starts), starts, key=lambda start: start[0])


async def live() -> None:
    """Let the shop live until the moment of the pictures."""
    for when, begin in plan():
        await CLOCK.pass_until(when)
        begin()
        await turns(3)
        if begin is refund:
            await SETTLES.wait()
    await CLOCK.pass_until(0.0)
