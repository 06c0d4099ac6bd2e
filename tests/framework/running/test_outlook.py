"""How full a throttle is, for those who only look."""

from __future__ import annotations

from framework._running.waits.throttle import Gate, Gates, Outlook
from framework._threads.waiters import LoopSleeper
from tests.framework.exact import ExactClock
from tests.framework.policies import throttle_policy


def taken(gate: Gate, *moments: float) -> Gate:
    """Count a call at each moment."""
    for moment in moments:
        assert gate.take(lambda at=moment: at) is None  # type: ignore[misc]  # bound at once
    return gate


def test_a_window() -> None:
    """Calls of the last window are in use, and a full one names its next free slot."""
    gate = taken(Gate(2, 10.0), 0.0, 3.0)
    for _ in range(2):
        # Looking counts as no call.
        assert [gate.outlook(now) for now in (5.0, 10.0, 13.0)] == [
            Outlook(used=2, full=1, waiting=0, due=10.0),
            Outlook(used=1, full=0, waiting=0, due=None),
            Outlook(used=0, full=0, waiting=0, due=None),
        ]


def test_a_fresh_gate() -> None:
    """A gate that was never used is empty."""
    assert Gate(5, 1.0).outlook(0.0) == Outlook(0, 0, 0, None)


async def test_a_queue() -> None:
    """Those that wait are counted, and the first of them gets the next slot."""
    gate, clock = taken(Gate(1, 10.0), 0.0), ExactClock()
    gate.join(LoopSleeper(clock), lambda: 4.0)
    gate.join(LoopSleeper(clock), lambda: 4.0)
    assert gate.outlook(4.0) == Outlook(used=1, full=1, waiting=2, due=10.0)


def test_gates_with_keys() -> None:
    """Of many keys, the fullest is shown, how many are full, and the earliest free slot."""
    gates = Gates(throttle_policy("f", rate_limit=2, time_window=10.0, key=str))
    for key, moment in [("a", 0.0), ("a", 1.0), ("b", 2.0), ("c", 3.0), ("c", 4.0)]:
        assert gates.take(key, lambda at=moment: at) is None  # type: ignore[misc]  # bound at once
    assert gates.outlook(5.0) == Outlook(used=2, full=2, waiting=0, due=10.0)
