"""A throttle's gate against its retirement and against other calls, each race forced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from framework._running.throttle import Gate, Gates
from pytest_asyncframe.clock import VirtualClock
from tests.framework.policies import throttle_policy
from tests.framework.racing import RacingClock
from tests.patience import PATIENCE


class LyingGates(Gates):
    """Gates that do something between finding a gate and using it."""

    __slots__ = ("between",)

    between: Callable[[], None]

    def _of(self, key: Any, monotonic: Callable[[], float]) -> Gate:
        gate = super()._of(key, monotonic)
        between, self.between = self.between, lambda: None
        between()
        return gate


def lying_gates(clock: VirtualClock, between: Callable[[LyingGates], None]) -> LyingGates:
    """Return gates for one call in 10 s whose only gate has become idle."""
    policy = throttle_policy("f", rate_limit=1, time_window=10.0, when_limited="raise", key=str)
    gates = LyingGates(policy)
    gates.between = lambda: None
    assert gates.take("key", clock.monotonic) is None
    clock.advance(10.0)
    gates.between = lambda: between(gates)
    return gates


def test_a_gate_retires_before_it_is_used(racing_clock: RacingClock) -> None:
    """A call that found a gate which is dropped before use is counted by the fresh one."""
    # 1 a call finds the gate, 2 the gate is retired and dropped, 3 the call is counted.
    gates = lying_gates(racing_clock, lambda it: it._purge(racing_clock.monotonic()))
    assert gates.take("key", racing_clock.monotonic) is None
    assert gates.take("key", racing_clock.monotonic) == racing_clock.monotonic() + 10.0
    assert len(gates) == 1


def test_a_gate_is_used_before_it_retires(racing_clock: RacingClock) -> None:
    """A gate that has just counted a call is not dropped, so the limit still holds."""
    # 1 a call finds the gate, 2 the call is counted, 3 the gate is to be retired.
    gates = lying_gates(racing_clock, lambda _: None)
    assert gates.take("key", racing_clock.monotonic) is None
    gates._purge(racing_clock.monotonic())
    assert gates.take("key", racing_clock.monotonic) == racing_clock.monotonic() + 10.0
    assert len(gates) == 1


def test_a_gate_is_to_retire_while_a_call_holds_its_slot() -> None:
    """A gate whose only slot a call has just taken out is not retired, and the call counts."""
    # 1 the call takes the slot out, 2 the gate is to be retired, 3 the slot is put back.
    gate = Gate(1, 10.0)
    assert gate.take(lambda: 0.0) is None
    retired: list[bool] = []

    def meanwhile() -> float:
        retired.append(gate.retire(20.0))
        return 20.0

    assert gate.take(meanwhile) is None
    assert retired == [False]
    assert gate.take(lambda: 20.0) == 30.0


def test_two_refused_calls_put_their_slots_back_the_wrong_way_round() -> None:
    """The slots are in order again, so the next call is let pass by the older one."""
    # 1 a call takes the older slot out, 2 another the younger one, 3 the first puts its own
    # back, 4 so does the second, in front of it.
    gate = Gate(2, 10.0)
    assert gate.take(lambda: 0.0) is None
    assert gate.take(lambda: 1.0) is None
    holds, go_on = threading.Event(), threading.Event()
    due: list[float | None] = []

    def held_up() -> float:
        holds.set()
        assert go_on.wait(PATIENCE)
        return 5.0

    first = threading.Thread(target=lambda: due.append(gate.take(held_up)))
    first.start()
    assert holds.wait(PATIENCE)

    def overtaken() -> float:
        go_on.set()
        first.join(PATIENCE)
        return 5.0

    due.append(gate.take(overtaken))
    assert due == [10.0, 10.0]
    assert gate.take(lambda: 10.0) is None
    assert gate.take(lambda: 10.0) == 11.0
