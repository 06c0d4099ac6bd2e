"""The cost of telemetry is measured with every kind of it."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import telemetry


def test_every_kind_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task takes some processor time with each kind."""
    monkeypatch.setattr(telemetry, "SIZE", 20)
    found = {kind: asyncio.run(telemetry.measured(kind, 2)) for kind in telemetry.KINDS}
    assert min(found.values()) > 0, found
