"""The exact sliding window, and the queue before it: arithmetic only, no waiting."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from framework import _checks
from framework._sleepers import Sleeper


class Window:
    """At most *rate* calls in any half-open window of *length* seconds.

    A ring of the latest *rate* stamps: the oldest of them decides, so a call costs the
    same however many there were. A call exactly one window after another is free.

    Args:
        rate: Calls per window, from 1 on.
        length: The window's length in seconds, above 0.
    """

    __slots__ = ("_length", "_next", "_rate", "_ring")

    def __init__(self, rate: int, length: float) -> None:
        self._rate = rate
        self._length = length
        self._ring: list[float] = []
        self._next = 0

    def take(self, now: float) -> bool:
        """Count a call at monotonic second *now* if it is allowed; stamps never go back."""
        ring = self._ring
        if len(ring) < self._rate:
            ring.append(now)
            return True
        index = self._next
        if not self._free(ring[index], now):
            return False
        ring[index] = now
        self._next = index + 1 if index + 1 < self._rate else 0
        return True

    def due(self, now: float) -> float:
        """Return the monotonic second, *now* or later, at which a call is next allowed."""
        if len(self._ring) < self._rate:
            return now
        oldest = self._ring[self._next]
        due = max(now, oldest + self._length)
        # The sum may have been rounded down past the window's end.
        while not self._free(oldest, due):
            due = math.nextafter(due, math.inf)
        return due

    def idle(self, now: float) -> bool:
        """Whether every call so far lies a window or more back."""
        newest = self._ring[self._next - 1] if self._ring else -math.inf
        return self._free(newest, now)

    def _free(self, stamp: float, now: float) -> bool:
        apart = now - stamp
        if apart != self._length:
            return apart > self._length
        # Rounded to the length; fsum's sign is that of the exact difference.
        return math.fsum((now, -stamp, -self._length)) >= 0


class GateRetiredError(Exception):
    """Raised by a gate that was dropped between being found and being used."""


class Gate:
    """One window and those who wait for it, first come, first served.

    Guarantees: whoever came first is counted first; one who leaves the queue gives the
    place to the next.
    Lock order: `lock` guards both and is innermost but for a sleeper's own.
    """

    __slots__ = ("_lock", "_queue", "_retired", "_window")

    def __init__(self, rate: int, length: float) -> None:
        self._retired = False
        self._lock = threading.Lock()
        self._window = Window(rate, length)
        self._queue: deque[Sleeper] = deque()

    def take(self, monotonic: Callable[[], float]) -> float | None:
        """Count a call now and return None, or return when the next is allowed.

        The time is read under the lock, so that stamps are in order.

        Raises:
            GateRetiredError: If another gate has taken this one's place.
        """
        with self._lock:
            self._check()
            now = monotonic()
            if not self._queue and self._window.take(now):
                return None
            return self._window.due(now)

    def join(self, sleeper: Sleeper) -> None:
        """Enter the queue.

        Raises:
            GateRetiredError: If another gate has taken this one's place.
        """
        with self._lock:
            self._check()
            self._queue.append(sleeper)

    def step(self, sleeper: Sleeper, monotonic: Callable[[], float]) -> tuple[bool, float | None]:
        """Try to pass, from the queue.

        Returns:
            (True, None) if the call was counted, and the queue left; else (False, when to
            try again), None meaning when signalled.
        """
        with self._lock:
            if self._queue[0] is not sleeper:
                return False, None
            now = monotonic()
            if not self._window.take(now):
                return False, self._window.due(now)
            self._queue.popleft()
            self._signal_first()
            return True, None

    def leave(self, sleeper: Sleeper) -> None:
        """Leave the queue uncounted, for one who will not wait any longer."""
        with self._lock:
            if sleeper in self._queue:
                self._queue.remove(sleeper)
                self._signal_first()

    def retire(self, now: float) -> bool:
        """Let a fresh gate take this one's place if it would do the same."""
        with self._lock:
            self._retired = not self._queue and self._window.idle(now)
            return self._retired

    def _check(self) -> None:
        if self._retired:
            raise GateRetiredError

    def _signal_first(self) -> None:
        if self._queue:
            self._queue[0].signal()


class Gates:
    """The gates of one throttled function under one manager: one, or one for each key.

    Gates that have become idle are dropped whenever the number of keys has doubled, so
    memory follows the keys used within a window, not all keys ever seen.
    """

    __slots__ = ("_gates", "_limit", "_lock", "_policy")

    def __init__(self, policy: ThrottlePolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._gates: dict[Hashable, Gate] = {}
        self._limit = _KEYS_BEFORE_PURGE

    def __len__(self) -> int:
        return len(self._gates)

    def take(self, key: Hashable, monotonic: Callable[[], float]) -> float | None:
        """Count a call now and return None, or return when the next is allowed.

        Args:
            key: What to count by; None for a function throttled as a whole.
            monotonic: Reads the clock.
        """
        while True:
            try:
                return self._of(key, monotonic).take(monotonic)
            except GateRetiredError:
                continue

    def join(self, key: Hashable, sleeper: Sleeper, monotonic: Callable[[], float]) -> Gate:
        """Enter the queue before the gate of *key* and return the gate."""
        while True:
            gate = self._of(key, monotonic)
            try:
                gate.join(sleeper)
            except GateRetiredError:
                continue
            return gate

    def _of(self, key: Hashable, monotonic: Callable[[], float]) -> Gate:
        gate = self._gates.get(key)
        if gate is not None:
            return gate
        with self._lock:
            if len(self._gates) >= self._limit:
                self._purge(monotonic())
            fresh = Gate(self._policy.rate_limit, self._policy.time_window)
            return self._gates.setdefault(key, fresh)

    def _purge(self, now: float) -> None:
        self._gates = {key: gate for key, gate in self._gates.items() if not gate.retire(now)}
        self._limit = max(_KEYS_BEFORE_PURGE, 2 * len(self._gates))


_KEYS_BEFORE_PURGE = 1_024


@dataclass(frozen=True, eq=False)
class ThrottlePolicy:
    """How often a function may be called; see `throttled_task` for the fields.

    Compared by identity: two functions with the same rate do not share a window.
    """

    name: str
    rate_limit: int
    time_window: float
    when_limited: Literal["raise", "wait"]
    key: Callable[..., Hashable] | None


def throttle_policy(
    name: str, *, rate_limit: object, time_window: object, when_limited: Any, key: object
) -> ThrottlePolicy:
    """Check the parameters of `throttled_task` and return them as a policy.

    Raises:
        TypeError: If one is of the wrong type.
        ValueError: If one is out of its range.
    """
    if key is not None and not callable(key):
        raise TypeError(
            f"key must be a function of the call's arguments or None, not {_checks.show(key)}"
        )
    return ThrottlePolicy(
        name=name,
        rate_limit=_checks.integer("rate_limit", rate_limit, at_least=1),
        time_window=_checks.number("time_window", time_window, above=0),
        when_limited=_checks.choice("when_limited", when_limited, ("raise", "wait")),
        key=key,
    )
