"""Each lock of the framework is needed: without it, a scenario fails."""

from __future__ import annotations

import pytest

from tests.explore.ourselves import ends, pool, stores, tasks, throttles, timers
from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.run import Scenario

NEEDED: dict[str, Scenario] = {
    "Backlog._lock": stores.note_or_end,
    "CleanUp._lock": timers.start_clean_up_twice,
    "Crew.lock": pool.put_or_close,
    "Deadlines._lock": timers.deadline_or_close,
    "Delays._lock": timers.delay_held_up,
    "Elsewhere._condition": stores.ask_or_close,
    "Events.lock": tasks.cancel_twice,
    "Gate._lock": throttles.first_calls,
    "Gates._lock": throttles.purge,
    "Mailbox._dropping": ends.post_or_close,
    "Mailboxes._lock": ends.mailboxes_of_loops,
    "MemoryStore._lock": stores.remove_twice,
    "Mirror._keeping": stores.mirror_counts,
    "Mirror._lock": stores.mirror_counts,
    "Outbox.publishing": tasks.limit_or_fail,
    "Reader._lock": stores.labels,
    "Schedules._lock": timers.schedule_or_leave,
    "SystemClock._changed": timers.set_or_fire,
    "ThreadWaiter._condition": stores.ask_at_once,
    "WaitGraph._lock": pool.wait_in_a_circle,
    "frameworks._LOCK": ends.apps_come,
    "registry._LOCK": ends.list_or_register,
}
"""A scenario that fails without the lock of that name."""

_RUNS = 100
"""Runs within which it must fail; most need ten."""


@pytest.mark.parametrize("lock", NEEDED)
def test_a_scenario_fails_without_the_lock(lock: str) -> None:
    """If the lock keeps nobody out, one of few schedules fails."""
    scenario = NEEDED[lock]
    policy = "pct:3" if scenario is timers.delay_held_up else "mixed"
    _, failed = Explorer(scenario, "line", without=lock).explore(policy, _RUNS)
    assert failed is not None
