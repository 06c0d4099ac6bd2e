"""The bank, the carrier and the post of the shops: a file that outlives the shop's process.

Each of them notes what it is asked for in a line: what, which order, and when, by a clock that all
processes share.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

FILE = "SHOP_FILE"
"""Of the environment: where all is noted."""

HOLDS = "SHOP_HOLDS"
"""Of the environment: whether the carrier does not answer when it is first asked for an order."""


async def charge(order: int) -> str:
    """Charge the customer; the bank knows a payment by its order."""
    _note("charge", order)
    return f"payment-{order}"


async def ship(order: int, payment: str) -> str:
    """Hand an order to the carrier."""
    asked = _note("ship", order)
    if asked == 1 and HOLDS in os.environ:
        await asyncio.Event().wait()
    return f"parcel {order}, {payment}"


async def mail(order: int, parcel: str) -> None:
    """Tell the customer."""
    _note("mail", order)


def noted(what: str, order: int) -> list[float]:
    """Return when something was asked for, for an order."""
    path = Path(os.environ[FILE])
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    found = [line.split() for line in lines]
    return [float(at) for one, number, at in found if (one, number) == (what, str(order))]


def _note(what: str, order: int) -> int:
    file = os.open(os.environ[FILE], os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{what} {order} {time.perf_counter()}\n".encode())
    os.close(file)
    return len(noted(what, order))
