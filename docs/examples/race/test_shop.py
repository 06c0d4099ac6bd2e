"""Two people want the same ticket."""

import asyncio

import pytest
import shop

from pytest_asyncframe.probe import Probe


@pytest.fixture(autouse=True)
def one_ticket() -> None:
    """Have one ticket to sell, in each run."""
    shop.stock["ticket"] = 1
    shop.sold.clear()


@pytest.mark.interleave
async def test_one_ticket_is_sold_once(asyncframe: Probe) -> None:
    """Whatever happens in which order, nobody gets a ticket that was sold."""
    async with asyncframe.client(shop.app) as client:
        answers = await asyncio.gather(client.post("/tickets/ann"), client.post("/tickets/bob"))
        for answer in answers:
            await asyncframe.completed(answer)

    assert len(shop.sold) == 1
