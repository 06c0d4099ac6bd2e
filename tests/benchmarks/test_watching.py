"""The cost of watching a loop is measured ."""

from __future__ import annotations

import asyncio

from benchmarks import watching


def test_a_busy_loop_is_measured() -> None:
    """A measurement ends after its time, and finds that some processor time was spent."""
    assert asyncio.run(watching.spent(0.1, max(watching.WAKE_UPS), 0.01)) > 0
