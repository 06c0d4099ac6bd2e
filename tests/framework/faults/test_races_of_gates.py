"""A throttle's gate against its retirement and against other calls, each race forced."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from framework._running.waits.throttle import Gate, Gates
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


class Elsewhere:
    """One call of `take` on another thread, in the middle of one on this thread.

    Args:
        gate: Where both calls are; its lock is replaced.
        now: The monotonic second of both.
    """

    def __init__(self, gate: Gate, now: float) -> None:
        self.answers: list[float | None] = []
        # Set when the other call asks for the gate's lock, or has ended without it.
        self._came = threading.Event()
        self._gate, self._now, self._lock = gate, now, gate._lock
        self._thread = threading.Thread(target=self._take)
        gate._lock = self  # type: ignore[assignment]  # it tells who asks for it

    def _take(self) -> None:
        self.answers.append(self._gate.take(lambda: self._now))
        self._came.set()

    def come(self) -> None:
        """Go as far with the other call as it comes while this one stands still; once only."""
        if self._thread.ident is None:
            self._thread.start()
            assert self._came.wait(PATIENCE)

    def end(self) -> None:
        """Wait until the other call has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def __enter__(self) -> None:
        if threading.current_thread() is self._thread:
            self._came.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_two_first_calls_of_a_window_for_one() -> None:
    """Of two calls that find no slot yet at once, one is counted and the other waits its turn."""
    # 1 a call sees that there may be one more slot, 2 another call comes, 3 the first makes it.
    gate = Gate(1, 10.0)
    other = Elsewhere(gate, 5.0)

    class HeldUpRate(int):
        def __eq__(self, made: object) -> bool:
            same = int(self) == made
            other.come()
            return same

        __hash__ = int.__hash__

    gate._rate = HeldUpRate(1)
    answers = [gate.take(lambda: 5.0)]
    other.end()

    assert answers + other.answers == [None, 15.0]


def test_a_call_comes_while_a_refused_one_puts_its_slot_back() -> None:
    """It is told the second at which the window ends, although it found no slot to read it from."""
    # 1 a call takes the only slot out, 2 it is about to put it back, 3 another call comes.
    gate = Gate(1, 10.0)
    assert gate.take(lambda: 0.0) is None
    other = Elsewhere(gate, 5.0)

    class HeldUpSlots(deque[float]):
        def appendleft(self, stamp: float) -> None:
            other.come()
            super().appendleft(stamp)

    gate._slots = HeldUpSlots(gate._slots)
    answers = [gate.take(lambda: 5.0)]
    other.end()

    assert answers + other.answers == [10.0, 10.0]
