"""What holding a function to a rate costs while no call is refused."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from benchmarks._measure import OURS, Case
from benchmarks._rows import Goal, Row
from benchmarks.coroutines import (
    ANSWER,
    CALLS,
    MICROSECONDS,
    AsyncFunction,
    FrameworkLoop,
    Function,
    function,
    plain,
    take_turns,
    time_calls,
    time_sync_calls,
)
from framework import RateLimitExceededError, throttled_task

POPULATIONS = (100, 10_000)
"""How many calls come into a window; then it is thrown away and the next one made."""

HOUR = 3_600.0
"""A window in seconds, so long that every call of a run stays in it."""

DEQUE = "deque + lock"
RING_LOCKED = "ring + lock (sketch)"
RING = "ring, no lock (sketch)"
AIOLIMITER = "aiolimiter"
LIMITS = "limits, moving window"
LIMITS_AIO = "limits.aio, moving window"


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure checks before functions and before coroutines, in small and large windows."""
    with FrameworkLoop() as loop:
        for population in POPULATIONS:
            yield _row(loop, rounds, population, peers)
        for population in POPULATIONS:
            yield _loop_row(loop, rounds, population, peers)


class RefusedError(Exception):
    """Raised by a floor's or a peer's wrapper for a call above its rate."""


class DequeWindow:
    """A sliding window as it is usually written: stamps of the calls, behind a lock.

    Args:
        rate: Calls per window.
        length: Of the window, in seconds.
    """

    def __init__(self, rate: int, length: float) -> None:
        self._rate = rate
        self._length = length
        self._stamps: deque[float] = deque()
        self._lock = threading.Lock()

    def hit(self) -> bool:
        """Count a call now; False if it is one too many."""
        now = perf_counter()
        with self._lock:
            stamps = self._stamps
            oldest = now - self._length
            while stamps and stamps[0] <= oldest:
                stamps.popleft()
            if len(stamps) >= self._rate:
                return False
            stamps.append(now)
            return True


class RingWindow:
    """The least that an exact window takes: the stamp of *rate* calls ago decides."""

    def __init__(self, rate: int, length: float) -> None:
        self._length = length
        self._stamps = deque([perf_counter() - length] * rate, rate)
        self._lock = threading.Lock()

    def hit(self) -> bool:
        """Count a call now; False if it is one too many. On one thread only."""
        now = perf_counter()
        stamps = self._stamps
        if now - stamps[0] < self._length:
            return False
        stamps.append(now)
        return True

    def hit_locked(self) -> bool:
        """Count a call as `hit`, from any thread."""
        with self._lock:
            now = perf_counter()
            stamps = self._stamps
            if now - stamps[0] < self._length:
                return False
            stamps.append(now)
            return True


def guarded(hit: Callable[[], bool]) -> Function:
    """Return `function` behind *hit*, which tells whether a call is allowed."""

    def call(*args: Any, **kwargs: Any) -> int:
        if not hit():
            raise RefusedError
        return function(*args, **kwargs)

    return call


def guarded_on_loop(hit: Callable[[], bool]) -> AsyncFunction:
    """Return the coroutine function `plain` behind *hit*."""

    async def call(*args: Any, **kwargs: Any) -> int:
        if not hit():
            raise RefusedError
        return await plain(*args, **kwargs)

    return call


def throttled(rate: int, window: float = HOUR) -> Function:
    """Return `function` as throttled by us: *rate* calls in *window* seconds."""
    return throttled_task(rate_limit=rate, time_window=window)(function)


def throttled_on_loop(rate: int, window: float = HOUR) -> AsyncFunction:
    """Return `plain` as throttled by us: *rate* calls in *window* seconds."""
    return throttled_task(rate_limit=rate, time_window=window)(plain)


@dataclass(frozen=True)
class Limiter:
    """Something that holds a function to its rate.

    Attributes:
        make: Returns the function under a fresh rate: so many calls an hour.
        error: What a call above the rate raises; ``TimeoutError`` if it waits.
    """

    make: Callable[[int], Callable[..., Any]]
    error: type[Exception] = RefusedError


_LIMITERS = {
    DEQUE: Limiter(lambda rate: guarded(DequeWindow(rate, HOUR).hit)),
    RING_LOCKED: Limiter(lambda rate: guarded(RingWindow(rate, HOUR).hit_locked)),
    OURS: Limiter(throttled, RateLimitExceededError),
}

_LOOP_LIMITERS = {
    DEQUE: Limiter(lambda rate: guarded_on_loop(DequeWindow(rate, HOUR).hit)),
    RING: Limiter(lambda rate: guarded_on_loop(RingWindow(rate, HOUR).hit)),
    OURS: Limiter(throttled_on_loop, RateLimitExceededError),
}


def _peer_limiters() -> dict[str, Limiter]:
    throttled_py: Any = import_module("throttled")

    def with_throttled_py(rate: int) -> Function:
        limiter = throttled_py.Throttled(
            key="key",
            using="sliding_window",
            quota=throttled_py.per_hour(rate),
            store=throttled_py.MemoryStore(),
        )
        return guarded(lambda: not limiter.limit().limited)

    slowapi_error = import_module("slowapi.errors").RateLimitExceeded
    return {
        LIMITS: _with_limits("MovingWindowRateLimiter"),
        "limits, fixed window": _with_limits("FixedWindowRateLimiter"),
        "pyrate-limiter": Limiter(_with_pyrate),
        "throttled-py": Limiter(with_throttled_py),
        "slowapi": Limiter(_with_slowapi, slowapi_error),
    }


def _with_limits(strategy: str) -> Limiter:
    limits: Any = import_module("limits")
    # One for all rates, since each starts a thread of its own.
    storage = limits.storage.MemoryStorage()
    limiter = getattr(limits.strategies, strategy)(storage)

    def make(rate: int) -> Function:
        storage.reset()
        item = limits.parse(f"{rate} per hour")
        return guarded(lambda: limiter.hit(item, "key"))

    return Limiter(make)


def _with_pyrate(rate: int) -> Function:
    pyrate: Any = import_module("pyrate_limiter")
    bucket = pyrate.InMemoryBucket([pyrate.Rate(rate, pyrate.Duration.HOUR)])
    # Without its thread, which drops stamps that are too old: there are none, and some
    # peers become slower the more threads there are.
    limiter = pyrate.Limiter(pyrate.SingleBucketFactory(bucket, schedule_leak=False))
    return guarded(lambda: limiter.try_acquire("key", blocking=False))


def _with_slowapi(rate: int) -> Function:
    """Return a call of an endpoint, which is all that slowapi decorates."""
    slowapi: Any = import_module("slowapi")
    request_type: Any = import_module("starlette.requests").Request
    response: Any = import_module("starlette.responses").Response()
    limiter = slowapi.Limiter(key_func=lambda: "key", strategy="moving-window")

    @limiter.limit(f"{rate}/hour")
    def endpoint(request: object) -> object:
        function()
        return response

    app = SimpleNamespace(state=SimpleNamespace(limiter=limiter))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "app": app}

    def call() -> int:
        answered = endpoint(request=request_type({**scope, "state": {}}))
        return ANSWER if answered is response else 0

    return call


def _loop_peer_limiters() -> dict[str, Limiter]:
    limits: Any = import_module("limits")
    aio: Any = import_module("limits.aio")

    def with_limits(rate: int) -> AsyncFunction:
        item = limits.parse(f"{rate} per hour")
        limiter = aio.strategies.MovingWindowRateLimiter(aio.storage.MemoryStorage())

        async def call(*args: Any, **kwargs: Any) -> int:
            if not await limiter.hit(item, "key"):
                raise RefusedError
            return await plain(*args, **kwargs)

        return call

    def with_aiolimiter(rate: int) -> AsyncFunction:
        limiter = _aiolimiter(rate)

        async def call(*args: Any, **kwargs: Any) -> int:
            await limiter.acquire()
            return await plain(*args, **kwargs)

        return call

    return {LIMITS_AIO: Limiter(with_limits), AIOLIMITER: Limiter(with_aiolimiter, TimeoutError)}


def _before_function(rate: int) -> AsyncFunction:
    limiter = _aiolimiter(rate)

    async def call(*args: Any, **kwargs: Any) -> int:
        await limiter.acquire()
        return function(*args, **kwargs)

    return call


def _aiolimiter(rate: int) -> Any:
    return import_module("aiolimiter").AsyncLimiter(rate, HOUR)


def _row(loop: FrameworkLoop, rounds: int, population: int, peers: bool) -> Row:
    limiters = _LIMITERS | (_peer_limiters() if peers else {})
    cases = {name: _case(loop, limiter, population) for name, limiter in limiters.items()}
    if peers:
        limiter = Limiter(_before_function, TimeoutError)
        cases[AIOLIMITER] = _loop_case(loop, limiter, population)
    return Row(
        key=f"rate_check_{population}",
        title=f"rate check before a function, up to {population:,} calls in the window",
        unit=MICROSECONDS,
        floor=DEQUE,
        samples=take_turns(cases, DEQUE, rounds),
        goals=(Goal(DEQUE, 0.70), Goal(AIOLIMITER, 0.40, 0.52), Goal(LIMITS, 0.15)),
        unranked=(RING_LOCKED,),
        note="No call is refused. All check before the same function, in a wrapper that passes "
        "on any arguments. With aiolimiter it is a coroutine, with slowapi an endpoint that "
        "takes a request.",
    )


def _loop_row(loop: FrameworkLoop, rounds: int, population: int, peers: bool) -> Row:
    limiters = _LOOP_LIMITERS | (_loop_peer_limiters() if peers else {})
    cases = {name: _loop_case(loop, limiter, population) for name, limiter in limiters.items()}
    return Row(
        key=f"rate_check_loop_{population}",
        title=f"rate check before a coroutine, up to {population:,} calls in the window",
        unit=MICROSECONDS,
        floor=DEQUE,
        samples=take_turns(cases, DEQUE, rounds),
        goals=(Goal(DEQUE, 0.82), Goal(AIOLIMITER, 0.22, 0.30), Goal(LIMITS_AIO, 0.15)),
        unranked=(RING,),
        note="No call is refused. All check before the same coroutine, in a wrapper that passes "
        "on any arguments. Every figure includes the wrapper.",
    )


def _case(loop: FrameworkLoop, limiter: Limiter, population: int) -> Case:
    def measure() -> float:
        times = []
        for _ in range(CALLS // population):
            # One more than is timed: the first call of each makes what it makes only once.
            call = limiter.make(population + 1)
            times.append(time_sync_calls(call, population))
            try:
                call()
            except limiter.error:
                continue
            raise RuntimeError("a call above the rate was let through")
        return statistics.fmean(times)

    return lambda: loop.call(measure)


def _loop_case(loop: FrameworkLoop, limiter: Limiter, population: int) -> Case:
    async def measure() -> float:
        times = []
        for _ in range(CALLS // population):
            call = limiter.make(population + 1)
            times.append(await time_calls(call, population))
            try:
                async with asyncio.timeout(0):
                    await call()
            except limiter.error:
                continue
            raise RuntimeError("a call above the rate was let through")
        return statistics.fmean(times)

    return lambda: loop.run(measure())
