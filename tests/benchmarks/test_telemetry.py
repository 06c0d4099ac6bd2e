"""The cost of telemetry is measured with every kind of it."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import telemetry


@pytest.mark.parametrize("kind", telemetry.KINDS)
def test_every_kind_is_measured(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A task takes some processor time with each kind."""
    monkeypatch.setattr(telemetry, "SIZE", 20)
    assert asyncio.run(telemetry.measured(kind, 2)) > 0
