"""The exact sliding window, and the queue before it: arithmetic only, no waiting."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Unpack

from framework._tasks.live import Sleeper
from framework._tasks.options import THROTTLE, ThrottleOptions


class GateRetiredError(Exception):
    """Raised by a gate that was dropped between being found and being used."""


class Gate:
    """A window of at most *rate* calls, and those who wait for it, first come, first served.

    The window slides: no half-open stretch of *length* seconds holds more than *rate*
    calls, and a call exactly one window after another is free. There is one slot for each
    call that a window allows, with the stamp of the latest call that it let pass; a call
    takes the slot that was used longest ago. So no slot lets two calls pass in one window,
    whatever threads do, and a call costs the same however many there were.

    Guarantees: whoever came first is counted first; one who leaves the queue gives the
    place to the next. Of threads that call at the same moment, one may be told to come
    back as much later as it was held up between reading the clock and being counted.
    Lock order: `lock` guards the queue and every change of the slots but one: a call that
    is free takes the first slot out and puts it back at the end, which are two operations
    that no other thread can come into. It is innermost but for a sleeper's own.

    Args:
        rate: Calls per window, from 1 on.
        length: The window's length in seconds, above 0.
    """

    __slots__ = ("_length", "_lock", "_made", "_queue", "_rate", "_retired", "_slots")

    def __init__(self, rate: int, length: float) -> None:
        self._rate = rate
        self._length = length
        self._retired = False
        self._lock = threading.Lock()
        self._queue: deque[Sleeper] = deque()
        # The one used longest ago first; made when they are first needed.
        self._slots: deque[float] = deque()
        self._made = 0

    def take(self, monotonic: Callable[[], float]) -> float | None:
        """Count a call now and return None, or return when the next is allowed.

        Raises:
            GateRetiredError: If another gate has taken this one's place.
        """
        held: float | None = None
        if not self._queue:
            try:
                held = self._slots.popleft()
            except IndexError:  # none was made yet, or others hold them
                pass
            else:
                now = monotonic()
                if now - held > self._length:
                    self._slots.append(now)
                    return None
        with self._lock:
            if held is not None:
                self._put_back(held)
            if self._retired:
                raise GateRetiredError
            now = monotonic()
            if not self._queue and self._pass(now):
                return None
            return self._due(now)

    def join(self, sleeper: Sleeper) -> None:
        """Enter the queue.

        Raises:
            GateRetiredError: If another gate has taken this one's place.
        """
        with self._lock:
            if self._retired:
                raise GateRetiredError
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
            if not self._pass(now):
                return False, self._due(now)
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
            taken = self._take_all()
            # A slot that another thread holds right now is about to be used.
            self._retired = (
                not self._queue
                and len(taken) == self._made
                and all(self._free(stamp, now) for stamp in taken)
            )
            if not self._retired:
                self._slots.extendleft(reversed(taken))
            return self._retired

    # -- slots; the lock is held

    def _pass(self, now: float) -> bool:
        """Count a call at monotonic second *now* if it is allowed."""
        slots = self._slots
        try:
            latest = slots.popleft()
        except IndexError:
            pass
        else:
            if self._free(latest, now):
                slots.append(now)
                return True
            self._put_back(latest)
        if self._made == self._rate:
            return False
        # As many again as there are, so that all that is needed is made in a few steps.
        fresh = min(self._rate - self._made, max(self._made, _FIRST_SLOTS))
        self._made += fresh
        slots.extendleft([-math.inf] * (fresh - 1))
        slots.append(now)
        return True

    def _due(self, now: float) -> float:
        """Return the monotonic second, *now* or later, at which a call is next allowed."""
        try:
            oldest = self._slots[0]
        except IndexError:  # others hold them, but not for long
            return now
        due = max(now, oldest + self._length)
        # The sum may have been rounded down past the window's end.
        while not self._free(oldest, due):
            due = math.nextafter(due, math.inf)
        return due

    def _put_back(self, stamp: float) -> None:
        slots = self._slots
        slots.appendleft(stamp)
        try:
            in_order = stamp <= slots[1]
        except IndexError:
            return
        if not in_order:
            # Two threads have put theirs back the wrong way round.
            slots.extendleft(sorted(self._take_all(), reverse=True))

    def _take_all(self) -> list[float]:
        taken: list[float] = []
        while self._slots:
            try:
                taken.append(self._slots.popleft())
            except IndexError:  # a free call on another thread was quicker
                break
        return taken

    def _free(self, stamp: float, now: float) -> bool:
        apart = now - stamp
        if apart != self._length:
            return apart > self._length
        # Rounded to the length; fsum's sign is that of the exact difference.
        return math.fsum((now, -stamp, -self._length)) >= 0

    def _signal_first(self) -> None:
        if self._queue:
            self._queue[0].signal()


_FIRST_SLOTS = 64


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

    def only(self) -> Gate:
        """Return the gate of a function throttled as a whole; it never retires."""
        return self._gates.setdefault(None, self._gate())

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
            return self._gates.setdefault(key, self._gate())

    def _gate(self) -> Gate:
        options = self._policy.options
        return Gate(options["rate_limit"], options["time_window"])

    def _purge(self, now: float) -> None:
        self._gates = {key: gate for key, gate in self._gates.items() if not gate.retire(now)}
        self._limit = max(_KEYS_BEFORE_PURGE, 2 * len(self._gates))


_KEYS_BEFORE_PURGE = 1_024


class ThrottlePolicy:
    """How often a function may be called.

    Compared by identity: two functions with the same rate do not share a window.

    Args:
        name: The function's.
        options: Every option of `throttled_task`, checked.

    Attributes:
        has_key: Whether calls of different keys count apart; asked at each call.
    """

    __slots__ = ("has_key", "name", "options")

    def __init__(self, name: str, options: ThrottleOptions) -> None:
        self.name = name
        self.options = options
        self.has_key: bool = options["key"] is not None


def throttle_policy(name: str, **options: Unpack[ThrottleOptions]) -> ThrottlePolicy:
    """Check options of `throttled_task` and return them as a policy.

    Raises:
        TypeError: If one is of the wrong type, or is no option.
        ValueError: If one is out of its range.
    """
    return ThrottlePolicy(name, THROTTLE.complete(THROTTLE.checked("throttled_task", options)))
