"""What must hold at every moment of a test."""

from __future__ import annotations

from framework import background_task
from pytest_asyncframe.probe import Probe

stock = 2
sold: list[str] = []


@background_task
def buy(who: str) -> None:
    """Sell one, if there is one left."""
    if len(sold) < stock:
        sold.append(who)


def test_never_oversold(asyncframe: Probe) -> None:
    """No more is sold than there is, at any moment."""
    sold.clear()
    asyncframe.always(lambda: len(sold) <= stock)
    for who in ("ann", "bob", "eve"):
        buy(who)
    asyncframe.run_until_idle()
    assert sold == ["ann", "bob"]
