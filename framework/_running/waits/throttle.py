"""Throttles: an exact sliding window and its queue; this module never waits."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Final, NamedTuple, cast

from framework._records import reasons
from framework._records.checks import show
from framework._tasks.live import Sleeper, current_record
from framework._tasks.options import ThrottleOptions


class GateRetiredError(Exception):
    """Raised by a gate that was removed after it was looked up and before it was used."""


class Outlook(NamedTuple):
    """How full a gate is, or all gates of a function together.

    Attributes:
        used: Calls that are counted now; of the fullest gate if there are several.
        full: How many gates allow no call now.
        waiting: How many calls are in the queue.
        due: Monotonic second at which a full gate next allows a call, the earliest of all;
            None if none is full.
    """

    used: int
    full: int
    waiting: int
    due: float | None


class Gate:
    """A sliding window of at most *rate* calls, with a queue: first come, first served.

    No half-open interval of *length* seconds has more than *rate* calls; a call exactly one
    window after another is allowed. There is one slot for each call that a window allows,
    with the time of the last call that used it, and a call uses the slot that was used longest
    ago. So no slot is used twice in a window, whichever threads call, and the cost of a call
    does not depend on how many there were.

    Guarantees: calls in the queue are counted in their order; one that leaves the queue makes
    room for the next. If threads call at the same moment, one may be told to come back late,
    by as long as it was held up between reading the clock and being counted.
    Lock order: `_lock` guards the queue, and the slots except in one case: an allowed call
    removes the first slot and adds it again at the end without the lock, by two atomic
    operations, since this is the path of most calls. Only a sleeper's lock is taken under it.

    Args:
        rate: Calls per window, 1 or more.
        length: Length of the window in seconds, above 0.
    """

    __slots__ = ("_length", "_lock", "_made", "_queue", "_rate", "_retired", "_slots")

    def __init__(self, rate: int, length: float) -> None:
        self._rate = rate
        self._length = length
        self._retired = False
        self._lock = threading.Lock()
        self._queue: deque[Sleeper] = deque()
        # Times of last use, the earliest first; created when they are first needed.
        self._slots: deque[float] = deque()
        self._made = 0

    def take(self, monotonic: Callable[[], float]) -> float | None:
        """Count a call and return None; or return the monotonic second to try again at.

        Raises:
            GateRetiredError: If another gate has replaced this one.
        """
        held: float | None = None
        if not self._queue:
            try:
                held = self._slots.popleft()
            except IndexError:  # none exist yet, or other threads hold them all
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

    def join(self, sleeper: Sleeper, monotonic: Callable[[], float]) -> float:
        """Enter the queue.

        Returns:
            The monotonic second at which the call can be counted, if nobody leaves the queue.

        Raises:
            GateRetiredError: If another gate has replaced this one.
        """
        with self._lock:
            if self._retired:
                raise GateRetiredError
            ahead = len(self._queue)
            self._queue.append(sleeper)
            return self._due_after(ahead, monotonic())

    def step(self, sleeper: Sleeper, monotonic: Callable[[], float]) -> tuple[bool, float | None]:
        """Try to count a call that is in the queue.

        Returns:
            (True, None) if it was counted and has left the queue. Otherwise False and the
            monotonic second to try again at, None for when signalled.
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
        """Leave the queue without being counted."""
        with self._lock:
            if sleeper in self._queue:
                self._queue.remove(sleeper)
                self._signal_first()

    def retire(self, now: float) -> bool:
        """Retire and return True if a new gate would allow the same calls as this one."""
        with self._lock:
            taken = self._take_all()
            # If a slot is missing, another thread holds it and is about to use it.
            self._retired = (
                not self._queue
                and len(taken) == self._made
                and all(self._free(stamp, now) for stamp in taken)
            )
            if not self._retired:
                self._slots.extendleft(reversed(taken))
            return self._retired

    def outlook(self, now: float) -> Outlook:
        """Return how full the window is at monotonic second *now*."""
        with self._lock:
            # Copied in one step, since allowed calls move slots without the lock. What they have
            # taken out of the queue at this moment, they are about to use.
            slots = list(self._slots.copy())
            ended = bisect_right(slots, now - self._length)
            used, waiting = self._made - ended, len(self._queue)
            if used < self._rate:
                return Outlook(used, 0, waiting, None)
            return Outlook(used, 1, waiting, self._due(now))

    # -- slots; called with the lock held

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
        # Doubled each time, so that a large rate takes few steps, and a small use few slots.
        fresh = min(self._rate - self._made, max(self._made, _FIRST_SLOTS))
        self._made += fresh
        slots.extendleft([-math.inf] * (fresh - 1))
        slots.append(now)
        return True

    def _due(self, now: float) -> float:
        """Return the monotonic second, *now* or later, at which a call is next allowed."""
        try:
            oldest = self._slots[0]
        except IndexError:  # other threads hold them, but not for long
            return now
        due = max(now, oldest + self._length)
        # The sum may have been rounded down, to before the end of the window.
        while not self._free(oldest, due):
            due = math.nextafter(due, math.inf)
        return due

    def _due_after(self, ahead: int, now: float) -> float:
        """Return when a call is allowed that waits for *ahead* others, to a rounding error."""
        windows, place = divmod(ahead, self._rate)
        try:
            stamp = self._slots[place]
        except IndexError:  # other threads hold it, or nobody has needed it yet
            stamp = now - self._length
        return max(now, stamp + self._length) + windows * self._length

    def _put_back(self, stamp: float) -> None:
        slots = self._slots
        slots.appendleft(stamp)
        try:
            in_order = stamp <= slots[1]
        except IndexError:
            return
        if not in_order:
            # Two threads have put their slots back in the wrong order.
            slots.extendleft(sorted(self._take_all(), reverse=True))

    def _take_all(self) -> list[float]:
        taken: list[float] = []
        while self._slots:
            try:
                taken.append(self._slots.popleft())
            except IndexError:  # an allowed call on another thread has taken the last one
                break
        return taken

    def _free(self, stamp: float, now: float) -> bool:
        apart = now - stamp
        if apart != self._length:
            return apart > self._length
        # The difference may be rounded; the sign of fsum is that of the exact difference.
        return math.fsum((now, -stamp, -self._length)) >= 0

    def _signal_first(self) -> None:
        if self._queue:
            self._queue[0].signal()


_FIRST_SLOTS = 64


class Gates:
    """The gates of one throttled function in one manager: one in all, or one for each key.

    Idle gates are removed whenever the number of keys has doubled, so memory depends on the
    keys used within a window, not on all keys ever used.
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
        """Count a call and return None; or return the monotonic second to try again at.

        Args:
            key: Calls with different keys are counted separately; None for a function
                throttled as a whole.
            monotonic: Reads the clock.
        """
        while True:
            try:
                return self._of(key, monotonic).take(monotonic)
            except GateRetiredError:
                continue

    def single(self) -> Gate:
        """Return the gate of a function throttled as a whole; it never retires."""
        return self._gates.setdefault(None, self._gate())

    def outlook(self, now: float) -> Outlook:
        """Return how full the gates are; of the newest 1,000 keys if there are more."""
        with self._lock:
            newest = list(islice(reversed(self._gates.values()), _KEYS_LOOKED_AT))
        seen = [gate.outlook(now) for gate in newest]
        return Outlook(
            max((one.used for one in seen), default=0),
            sum(one.full for one in seen),
            sum(one.waiting for one in seen),
            min((one.due for one in seen if one.due is not None), default=None),
        )

    def join(
        self, key: Hashable, sleeper: Sleeper, monotonic: Callable[[], float]
    ) -> tuple[Gate, float]:
        """Enter the queue of the gate of *key*; return the gate, and what its `Gate.join` does."""
        while True:
            gate = self._of(key, monotonic)
            try:
                return gate, gate.join(sleeper, monotonic)
            except GateRetiredError:
                continue

    def _of(self, key: Hashable, monotonic: Callable[[], float]) -> Gate:
        try:
            gate = self._gates.get(key)
        except TypeError:
            raise TypeError(
                f"the key of throttle {self._policy.name} must be hashable, not {show(key)}: "
                "return a tuple"
            ) from None
        if gate is not None:
            return gate
        with self._lock:
            if len(self._gates) >= self._limit:
                self._purge(monotonic())
            return self._gates.setdefault(key, self._gate())

    def _gate(self) -> Gate:
        options = self._policy.options
        return Gate(options["rate_limit"], self._policy.window)

    def _purge(self, now: float) -> None:
        self._gates = {key: gate for key, gate in self._gates.items() if not gate.retire(now)}
        self._limit = max(_KEYS_BEFORE_PURGE, 2 * len(self._gates))


_KEYS_BEFORE_PURGE = 1_024
_KEYS_LOOKED_AT: Final = 1_000


class ThrottlePolicy:
    """How often a function may be called.

    Compared by identity: two functions with the same rate do not share a window.

    Args:
        name: Name of the function.
        options: All options of `throttled_task`, checked.

    Attributes:
        has_key: Whether calls with different keys are counted separately. An attribute, since
            each call reads it.
        window: The length of the window in seconds.
    """

    __slots__ = ("has_key", "name", "options", "window")

    def __init__(self, name: str, options: ThrottleOptions) -> None:
        self.name = name
        self.options = options
        self.has_key: bool = options["key"] is not None
        # Its check turns timedeltas into seconds.
        self.window: float = cast(float, options["time_window"])


def throttle_reason(policy: ThrottlePolicy, due: float) -> str:
    """Return why the current task waits until monotonic second *due*; "" outside a task."""
    task, options = current_record.get(), policy.options
    if task is None:
        return ""
    return reasons.throttled(
        task.wall_second(due), policy.name, options["rate_limit"], policy.window
    )
