"""Tasks sell a ticket twice though they call nothing in between: level "line"."""

from __future__ import annotations

import threading

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe


class Box:
    """A ticket office with one ticket left."""

    def __init__(self) -> None:
        self.left = 1
        self.sold: list[str] = []
        self.lock = threading.Lock()


@background_task
def racy_sale(box: Box, buyer: str) -> None:
    """Sell the ticket if there is one left."""
    if box.left:
        box.left -= 1
        box.sold.append(buyer)


@background_task
def correct_sale(box: Box, buyer: str) -> None:
    """Sell the ticket with a lock around check and sale."""
    with box.lock:
        if box.left:
            box.left -= 1
            box.sold.append(buyer)


@pytest.mark.interleave(level="line")
def test_racy(asyncframe: Probe) -> None:
    """Two people buy the last ticket; only one gets it."""
    box = Box()
    for buyer in ("ann", "bob"):
        racy_sale(box, buyer)
    asyncframe.run_until_idle()
    assert len(box.sold) == 1


@pytest.mark.interleave(level="line")
def test_correct(asyncframe: Probe) -> None:
    """Two people buy the last ticket; only one gets it."""
    box = Box()
    for buyer in ("ann", "bob"):
        correct_sale(box, buyer)
    asyncframe.run_until_idle()
    assert len(box.sold) == 1
