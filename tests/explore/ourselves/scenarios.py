"""All scenarios."""

from __future__ import annotations

from tests.explore.ourselves import (
    ends,
    metrics,
    places,
    pool,
    remote,
    requeues,
    schedules,
    stores,
    tasks,
    throttles,
    timers,
)
from tests.explore.ourselves.run import Scenario

SCENARIOS: list[Scenario] = [
    *pool.SCENARIOS,
    *tasks.SCENARIOS,
    *timers.SCENARIOS,
    *schedules.SCENARIOS,
    *throttles.SCENARIOS,
    *ends.SCENARIOS,
    *stores.SCENARIOS,
    *remote.SCENARIOS,
    *requeues.SCENARIOS,
    *places.SCENARIOS,
    *metrics.SCENARIOS,
]
