"""A charge that may run again, in tests that try what may go wrong."""

from __future__ import annotations

import threading

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe

bank: list[int] = []
writing = threading.Lock()


@background_task(on_restart="requeue", idempotent=True)
def charge(order: int) -> None:
    """Charge an order, unless that was done already."""
    with writing:
        if order not in bank:
            bank.append(order)


@pytest.mark.interleave(faults=True, seeds=50)
async def test_each_order_is_charged_once(asyncframe: Probe) -> None:
    """Whatever goes wrong, and in which order, nobody pays twice."""
    bank.clear()
    charge(7)
    charge(8)
    await asyncframe.settled()

    assert sorted(bank) == [7, 8]
