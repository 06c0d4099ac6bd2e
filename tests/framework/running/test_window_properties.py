"""Properties of a throttle's window, against an exact oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from framework import (
    RateLimitExceededError,
    throttled_task,
)
from framework.testing import override_framework
from tests.framework.drawn import Loop, explored, seconds
from tests.framework.exact import ExactClock

MAX_RATE = 5
MAX_CALLS = 30
LONGEST_WINDOW = 1e6
LONGEST_START = 1e7
KEYS = ("a", "b", "c")

windows = st.one_of(
    seconds(1e-3, LONGEST_WINDOW),
    st.sampled_from([0.1, 0.3, 1.0, 60.0, 1 / 3, math.nextafter(1.0, 2.0)]),
)
# A pause is a share of the window, or ends a hair before, at, or after its end.
shares = st.one_of(st.just(0.0), seconds(0.0, 2.0))
hairs = st.sampled_from([-1, 0, 1])
bursts = st.lists(
    st.tuples(st.sampled_from(KEYS), st.one_of(shares, hairs.map(Fraction))),
    min_size=1,
    max_size=MAX_CALLS,
)


class Oracle:
    """What the window allows, in exact arithmetic and by looking at every call so far."""

    def __init__(self, rate: int, window: float) -> None:
        self.rate = rate
        self.window = Fraction(window)
        self.stamps: dict[str, list[Fraction]] = {}

    def allows(self, key: str, now: float) -> bool:
        """Whether fewer calls than the rate lie in the half-open window that ends now."""
        since = Fraction(now) - self.window
        return sum(stamp > since for stamp in self.stamps.get(key, [])) < self.rate

    def count(self, key: str, now: float) -> None:
        """Note a call."""
        self.stamps.setdefault(key, []).append(Fraction(now))

    def most_in_a_window(self) -> int:
        """Return how many calls the fullest window of any key holds."""
        return max(
            sum(start <= stamp < start + self.window for stamp in stamps)
            for stamps in self.stamps.values()
            for start in stamps
        )


def after(clock: ExactClock, window: float, pause: float | Fraction) -> float:
    """Return the moment a pause from now ends; a fraction counts the steps past the window."""
    now = clock.monotonic()
    if not isinstance(pause, Fraction):
        return now + pause * window
    end = now + window
    return max(now, math.nextafter(end, math.inf * pause) if pause else end)


@explored
@given(
    start=seconds(0.0, LONGEST_START),
    rate=st.integers(1, MAX_RATE),
    window=windows,
    burst=bursts,
    keyed=st.booleans(),
)
def test_window_in_raise_mode(
    start: float,
    rate: int,
    window: float,
    burst: list[tuple[str, float | Fraction]],
    keyed: bool,
) -> None:
    """A call is refused exactly if a half-open window would hold more than the rate."""
    clock = ExactClock(start)
    oracle = Oracle(rate, window)

    @throttled_task(rate_limit=rate, time_window=window, key=(lambda key: key) if keyed else None)
    def call(key: str) -> str:
        return key

    with override_framework(clock=clock):
        for key, pause in burst:
            clock.advance_to(after(clock, window, pause))
            now = clock.monotonic()
            counted_by = key if keyed else "all"
            allowed = oracle.allows(counted_by, now)
            try:
                call(key)
            except RateLimitExceededError:
                assert not allowed
            else:
                assert allowed
                oracle.count(counted_by, now)

    assert oracle.most_in_a_window() <= rate


@explored
@given(
    start=seconds(0.0, LONGEST_START),
    rate=st.integers(1, MAX_RATE),
    window=windows,
    burst=bursts,
)
@example(start=2.32, rate=1, window=60.0, burst=[("a", 0.0), ("a", 0.37)])
def test_retry_after_is_enough(
    start: float, rate: int, window: float, burst: list[tuple[str, float | Fraction]]
) -> None:
    """A call that is repeated after exactly `retry_after` seconds passes."""
    clock = ExactClock(start)

    @throttled_task(rate_limit=rate, time_window=window)
    def call() -> None: ...

    with override_framework(clock=clock):
        for _, pause in burst:
            clock.advance_to(after(clock, window, pause))
            wait = refused_for(call)
            if wait:
                clock.advance(wait)
                assert refused_for(call) == 0


def refused_for(call: Callable[[], object]) -> float:
    """Return for how many seconds a call is refused, 0 if it was made."""
    try:
        call()
    except RateLimitExceededError as error:
        return error.retry_after
    return 0.0


@explored
@given(
    rate=st.integers(1, MAX_RATE),
    window=windows,
    burst=st.lists(st.one_of(shares, hairs.map(Fraction)), min_size=1, max_size=12),
)
def test_window_in_wait_mode(rate: int, window: float, burst: list[float | Fraction]) -> None:
    """Waiting calls pass in the order of their coming, each as early as the window allows."""
    clock = ExactClock()
    oracle = Oracle(rate, window)
    passed: list[tuple[int, float]] = []
    # A pass takes three turns: the timer's call, the sleeper's, the next one's signal.
    turns = 4 * len(burst) + 4

    @throttled_task(rate_limit=rate, time_window=window, when_limited="wait")
    async def call(number: int) -> None:
        passed.append((number, clock.monotonic()))

    def go_to(when: float) -> None:
        while clock.timers and clock.timers[0] <= when:
            clock.advance_to(clock.timers[0])
            loop.turn(turns)
        clock.advance_to(when)

    with override_framework(clock=clock), Loop() as loop:
        tasks = []
        came = []
        for number, pause in enumerate(burst):
            go_to(after(clock, window, pause))
            came.append(clock.monotonic())
            tasks.append(loop.start(call(number)))
            loop.turn(turns)
        go_to(math.inf if not clock.timers else clock.timers[0] + 2 * window * len(burst))

    assert all(task.done() for task in tasks)
    assert [number for number, _ in passed] == list(range(len(burst)))
    for number, when in passed:
        assert oracle.allows("all", when)
        if when > came[number]:
            assert not oracle.allows("all", math.nextafter(when, 0.0))
        oracle.count("all", when)
    assert oracle.most_in_a_window() <= rate


@explored
@given(
    rate=st.integers(1, MAX_RATE),
    window=windows,
    cancelled=st.lists(st.booleans(), min_size=1, max_size=10),
)
def test_cancelled_waiters_give_their_place_back(
    rate: int, window: float, cancelled: list[bool]
) -> None:
    """Waiters pass as if the cancelled ones had never come."""
    clock = ExactClock()
    passed: list[tuple[int, float]] = []
    turns = 4 * (len(cancelled) + rate) + 4

    @throttled_task(rate_limit=rate, time_window=window, when_limited="wait")
    async def call(number: int) -> None:
        passed.append((number, clock.monotonic()))

    with override_framework(clock=clock), Loop() as loop:
        for number in range(rate):
            loop.start(call(-1 - number))
        loop.turn(turns)
        waiting = [loop.start(call(number)) for number in range(len(cancelled))]
        loop.turn(turns)
        for task, gives_up in zip(waiting, cancelled, strict=True):
            if gives_up:
                task.cancel()
        loop.turn(turns)
        while clock.timers:
            clock.advance_to(clock.timers[0])
            loop.turn(turns)

    stayed = [number for number, gives_up in enumerate(cancelled) if not gives_up]
    assert [number for number, _ in passed[rate:]] == stayed
    oracle = Oracle(rate, window)
    for index, (_, when) in enumerate(passed):
        assert oracle.allows("all", when)
        if index >= rate:
            assert not oracle.allows("all", math.nextafter(when, 0.0))
        oracle.count("all", when)


def test_the_clock_of_the_properties() -> None:
    """Timers fire in the order of their time, each while the clock shows it."""
    clock = ExactClock()
    fired: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: fired.append((name, clock.monotonic()))

    clock.call_at(1_002.0, note("second"))
    clock.call_at(1_001.0, note("first"))
    clock.call_at(1_003.0, note("cancelled")).cancel()
    clock.advance(5)

    assert fired == [("first", 1_001.0), ("second", 1_002.0)]
    assert clock.monotonic() == 1_005.0
