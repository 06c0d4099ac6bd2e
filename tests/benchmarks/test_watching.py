"""The cost of watching a loop is measured on an idle loop and on a busy one."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import watching


@pytest.mark.parametrize("wake_ups", watching.WAKE_UPS)
def test_each_loop_is_measured(wake_ups: int) -> None:
    """A measurement ends after its time, and finds that some processor time was spent."""
    assert 0 < asyncio.run(watching.spent(0.1, wake_ups, 0.2)) < 1
