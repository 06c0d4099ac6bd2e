"""An order app with the mistakes that teams make, and their cures: a module of tests."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.steps import step
from pytest_asyncframe.probe import Probe

KEY = {"Idempotency-Key": "order-7"}


class Outside:
    """What is outside of the process: a bank, a carrier, a mail server."""

    def __init__(self) -> None:
        self.payments: dict[str, int] = {}
        self.parcels: list[int] = []
        self.mails: list[str] = []


outside = Outside()


@pytest.fixture(autouse=True)
def anew() -> None:
    """Clear all of it for each run."""
    outside.__init__()  # type: ignore[misc]  # the app has this one


@step
async def charge(order: int, key: str) -> None:
    """Charge, once for each key."""
    outside.payments.setdefault(key, order)


@step
async def ship(order: int) -> None:
    """Ship, whatever was done before."""
    outside.parcels.append(order)


@step
async def ship_once(order: int) -> None:
    """Ship, unless that was done."""
    if order not in outside.parcels:
        outside.parcels.append(order)


@step
async def draw_key() -> str:
    """Draw a key."""
    return uuid.uuid4().hex


@step
async def ask_price() -> int:
    """Ask for a price that changes all the time."""
    return random.randrange(10**9)


@step
async def today() -> str:
    """Read the clock."""
    return datetime.now().isoformat()  # noqa: DTZ005  # as teams do


@background_task(on_restart="resume")
async def right(order: int) -> None:
    """Charge and ship, each in a step that knows what it has done."""
    await charge(order, f"order-{order}")
    await ship_once(order)


@background_task(on_restart="resume")
async def charges_between_steps(order: int) -> None:
    """Charge outside of a step, without a key."""
    outside.payments[uuid.uuid4().hex] = order
    await ship_once(order)


@background_task(on_restart="resume")
async def key_made_anew(order: int) -> None:
    """Charge with a key of each run."""
    await charge(order, uuid.uuid4().hex)
    await ship_once(order)


@background_task(on_restart="resume")
async def key_of_a_step(order: int) -> None:
    """Charge with a key that a step has made."""
    await charge(order, await draw_key())


@background_task(on_restart="resume")
async def ships_blindly(order: int) -> None:
    """Ship in a step that does not know what it has done."""
    await charge(order, f"order-{order}")
    await ship(order)


@background_task(on_restart="resume")
async def price_between_steps(order: int) -> None:
    """Charge what is drawn outside of a step."""
    price = random.randrange(10**9)
    await ship_once(order)
    await charge(order, f"{order} for {price}")


@background_task(on_restart="resume")
async def price_of_a_step(order: int) -> None:
    """Charge what is drawn in a step."""
    price = await ask_price()
    await charge(order, f"{order} for {price}")


@background_task(on_restart="resume")
async def date_between_steps(order: int) -> None:
    """Charge with the time of each run."""
    await ship_once(order)
    await charge(order, datetime.now().isoformat())  # noqa: DTZ005


@background_task(on_restart="resume")
async def date_of_a_step(order: int) -> None:
    """Charge with the time of the first run."""
    await charge(order, await today())


@background_task(on_restart="resume")
async def mails_at_its_end(order: int) -> None:
    """Mail after the last step."""
    await ship_once(order)
    outside.mails.append(f"order {order}")


@background_task
async def does_not_go_on(order: int) -> None:
    """Charge in a task that its process takes along."""
    await charge(order, f"order-{order}")


def app_of(task: Callable[[int], Any], before: Callable[[], object] = lambda: None) -> FastAPI:
    """Return an app whose route calls *before*, and then submits *task*."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router())

    @app.post("/orders/{order}")
    async def place(order: int) -> Accepted[None]:
        before()
        accepted: Accepted[None] = task(order)
        return accepted

    return app


async def order(asyncframe: Probe, app: FastAPI, key: dict[str, str] = KEY, **client: Any) -> None:
    """Order something, and wait for all that comes of it; each effect is there once."""
    async with asyncframe.client(app, **{"on_crash": "again", **client}) as http:
        await asyncframe.completed(await http.post("/orders/7", headers=key))
        await asyncframe.settled()
    assert len(outside.payments) <= 1
    assert outside.parcels in ([], [7])
    assert len(outside.mails) <= 1


BUGS: dict[str, FastAPI] = {
    "charge between steps": app_of(charges_between_steps),
    "key made anew": app_of(key_made_anew),
    "step that is not idempotent": app_of(ships_blindly),
    "random between steps": app_of(price_between_steps),
    "now between steps": app_of(date_between_steps),
    "effect after the last step": app_of(mails_at_its_end),
    "effect before the commit": app_of(right, lambda: outside.mails.append("thank you")),
    "task that does not go on": app_of(does_not_go_on),
}

CURES: dict[str, FastAPI] = {
    "each effect in a step": app_of(right),
    "key of a step": app_of(key_of_a_step),
    "random of a step": app_of(price_of_a_step),
    "now of a step": app_of(date_of_a_step),
}


@pytest.mark.crash_points
@pytest.mark.parametrize("name", [*BUGS])
async def test_bug(asyncframe: Probe, name: str) -> None:
    """Each effect takes place once."""
    await order(asyncframe, BUGS[name])


@pytest.mark.crash_points
async def test_bug_of_a_client_that_does_not_repeat(asyncframe: Probe) -> None:
    """An order arrives."""
    await order(asyncframe, app_of(right), on_crash="raise")


@pytest.mark.crash_points
async def test_bug_of_a_client_without_a_key(asyncframe: Probe) -> None:
    """An order is one order."""
    await order(asyncframe, app_of(ships_blindly), key={})


@pytest.mark.crash_points(depth=2)
@pytest.mark.parametrize("name", [*CURES])
async def test_cure(asyncframe: Probe, name: str) -> None:
    """Each effect takes place once."""
    await order(asyncframe, CURES[name])
    assert len(outside.payments) == 1
