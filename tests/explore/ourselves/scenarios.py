"""All scenarios."""

from __future__ import annotations

from tests.explore.ourselves import (
    chains,
    couriers,
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

BY_SUBJECT: dict[str, list[Scenario]] = {
    "pool": pool.SCENARIOS,
    "tasks": tasks.SCENARIOS,
    "timers": timers.SCENARIOS,
    "schedules": schedules.SCENARIOS,
    "throttles": throttles.SCENARIOS,
    "ends": ends.SCENARIOS,
    "stores": stores.SCENARIOS,
    "remote": [*couriers.SCENARIOS, *remote.SCENARIOS],
    "requeues": requeues.SCENARIOS,
    "places": [*places.SCENARIOS, *chains.SCENARIOS],
    "metrics": metrics.SCENARIOS,
}

SCENARIOS: list[Scenario] = [one for some in BY_SUBJECT.values() for one in some]
