"""The crash test of the shop with asyncframe: at every point."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.stepping import _world
from benchmarks.stepping.shop_ours import app
from pytest_asyncframe.probe import Probe


@pytest.mark.crash_points
async def test_an_order_goes_on(
    asyncframe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process dies, the customer has the parcel, and is charged once more at most."""
    monkeypatch.setenv(_world.FILE, str(tmp_path / "world"))
    async with asyncframe.client(app, on_crash="again") as client:
        response = await client.post("/orders/7", headers={"Idempotency-Key": "order-7"})
        task = await asyncframe.completed(response.json())
    assert task.result == "parcel 7, payment-7"
    assert len(_world.noted("charge", 7)) <= 1 + len(asyncframe.crashes)
