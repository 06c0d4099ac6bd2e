"""Retry and throttle put to work: whose state, whose clock, who is told, who wakes them.

Each manager has one `Policies`; code outside any framework shares one of the process.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextlib import closing
from typing import TypeVar

from framework._running.pauses import Pauses
from framework._running.retry import RetryPolicy
from framework._running.throttle import Gate, Gates, ThrottlePolicy
from framework._tasks.current import current_record
from framework._tasks.live import LiveTask, Sleeper
from framework._tasks.records import FINAL
from framework._threads.clock import SystemClock
from framework._threads.sleepers import LoopSleeper, ThreadSleeper
from framework.exceptions import RateLimitExceededError, TaskCancelledError
from framework.protocols import Clock, Interceptor

T = TypeVar("T")


class Policies:
    """State of retries and throttles under one manager, or of the process.

    Args:
        clock: Time for windows and delays.
        rng: Draws the jitter.
        pauses: Where the manager's tasks pause; None outside any framework.
    """

    def __init__(self, clock: Clock, rng: random.Random, pauses: Pauses | None = None) -> None:
        self.clock = clock
        self.monotonic = clock.monotonic
        self.rng = rng
        self.pauses = pauses
        self._lock = threading.Lock()
        self._gates: dict[ThrottlePolicy, Gates] = {}
        self._only: dict[ThrottlePolicy, Gate] = {}
        self._sleepers: set[Sleeper] = set()
        self._closing = False

    def gates(self, policy: ThrottlePolicy) -> Gates:
        """Return the gates of one throttled function."""
        gates = self._gates.get(policy)
        if gates is None:
            with self._lock:
                gates = self._gates.setdefault(policy, Gates(policy))
        return gates

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call now and return None, or return when the next is allowed."""
        if policy.has_key:
            return self.gates(policy).take(key, self.monotonic)
        gate = self._only.get(policy)
        if gate is None:
            gate = self._only[policy] = self.gates(policy).only()
        return gate.take(self.monotonic)

    def close(self) -> None:
        """Wake everyone who sleeps, and let nobody sleep from now on."""
        with self._lock:
            self._closing = True
            sleepers = list(self._sleepers)
        for sleeper in sleepers:
            sleeper.interrupt()

    # -- throttle

    def limited(self, policy: ThrottlePolicy, due: float) -> RateLimitExceededError:
        """Return the error for a call that must wait until the monotonic second *due*."""
        now = self.clock.monotonic()
        wait = max(due - now, 1e-9)
        # Rounded down, it would bring who comes back a hair too early.
        while now + wait < due:
            wait = math.nextafter(wait, math.inf)
        rate, window = policy.options["rate_limit"], policy.options["time_window"]
        return RateLimitExceededError(policy.name, rate, window, wait)

    def refuse(self, policy: ThrottlePolicy, due: float) -> RateLimitExceededError:
        """Tell of a refused call and return its error."""
        error = self.limited(policy, due)
        self._announce("throttled", policy.name, error.retry_after, error)
        return error

    def wait_turn(self, policy: ThrottlePolicy, key: Hashable, due: float) -> None:
        """Block this thread until the call is counted.

        Raises:
            RateLimitExceededError: If the framework shuts down meanwhile.
            TaskCancelledError: If the task that calls is cancelled meanwhile.
        """
        sleeper = ThreadSleeper(self.clock)
        with closing(self._turn(policy, key, due, sleeper)) as steps:
            for until in steps:
                sleeper.wait(until)

    async def await_turn(self, policy: ThrottlePolicy, key: Hashable, due: float) -> None:
        """Suspend this coroutine until the call is counted; raises as `wait_turn`."""
        sleeper = LoopSleeper(self.clock)
        with closing(self._turn(policy, key, due, sleeper)) as steps:
            for until in steps:
                await sleeper.wait(until)

    def _turn(
        self, policy: ThrottlePolicy, key: Hashable, due: float, sleeper: Sleeper
    ) -> Generator[float | None, None, None]:
        """Queue for a place; yields until when to wait, None for until signalled."""
        with _Asleep(self, sleeper, throttle_reason(policy), suspends=True) as asleep:
            self._announce("throttled", policy.name, due - self.clock.monotonic(), None)
            gate = self.gates(policy).join(key, sleeper, self.monotonic)
            passed = False
            try:
                while not sleeper.interrupted:
                    passed, until = gate.step(sleeper, self.monotonic)
                    if passed:
                        return
                    yield until
            finally:
                # Also when the waiting coroutine is cancelled, and this generator closed.
                if not passed:
                    gate.leave(sleeper)
            asleep.require_wanted()
            raise self.limited(policy, due)

    # -- retry

    def retry(
        self, policy: RetryPolicy, name: str, call: Callable[[], T], error: BaseException
    ) -> T:
        """Go on after a first attempt that ended with *error*; blocks between attempts.

        Returns:
            What the first attempt that succeeds returns.

        Raises:
            BaseException: The last attempt's error, as it was, when no retry is allowed
                or the framework shuts down.
            TaskCancelledError: If the task that retries is no longer wanted.
        """
        sleeper = ThreadSleeper(self.clock)
        latest = [error]
        try:
            with closing(self._retries(policy, name, latest, sleeper)) as steps:
                for until in steps:
                    if until is not None:
                        sleeper.wait(until)
                        continue
                    try:
                        return call()
                    except BaseException as raised:  # allows() rejects what is never retried
                        latest[0] = error = raised
            raise error
        finally:
            # A traceback refers to this frame: a reference back would make a cycle.
            del error, latest

    async def retry_async(
        self,
        policy: RetryPolicy,
        name: str,
        call: Callable[[], Awaitable[T]],
        error: BaseException,
    ) -> T:
        """Go on after a first attempt that ended with *error*, as `retry` for coroutines."""
        sleeper = LoopSleeper(self.clock)
        latest = [error]
        try:
            with closing(self._retries(policy, name, latest, sleeper)) as steps:
                for until in steps:
                    if until is not None:
                        await sleeper.wait(until)
                        continue
                    try:
                        return await call()
                    except BaseException as raised:  # allows() rejects what is never retried
                        latest[0] = error = raised
            raise error
        finally:
            # A traceback refers to this frame: a reference back would make a cycle.
            del error, latest

    def _retries(
        self, policy: RetryPolicy, name: str, latest: list[BaseException], sleeper: Sleeper
    ) -> Generator[float | None, None, None]:
        """Decide about retries; the caller waits and makes the attempts.

        Args:
            policy: When to retry.
            name: Of the retried function.
            latest: The error of the latest attempt, which the caller replaces.
            sleeper: What the caller waits with.

        Yields:
            For each retry the monotonic second until which to wait, then None to make the
            attempt.
        """
        attempt = 1
        while policy.allows(latest[0], attempt):
            delay = policy.delay(attempt, self.rng.uniform)
            reason = retry_reason(policy, attempt, delay)
            with _Asleep(self, sleeper, reason, latest[0]) as asleep:
                self._announce("retrying", name, delay, latest[0])
                yield self.clock.monotonic() + delay
            if not asleep.goes_on(latest[0]):
                return
            attempt += 1
            yield None

    def _announce(self, kind: str, name: str, delay: float, error: BaseException | None) -> None:
        if self.pauses is not None:
            self.pauses.announce(kind, name, current_record.get(), delay, error)

    def add_sleeper(
        self,
        sleeper: Sleeper,
        record: LiveTask | None,
        reason: str,
        error: BaseException | None = None,
    ) -> None:
        """Note who sleeps; one who comes while we are closing is interrupted at once."""
        with self._lock:
            self._sleepers.add(sleeper)
            closing = self._closing
        if record is not None and self.pauses is not None:
            self.pauses.begin_sleep(record, sleeper, reason, error)
        if closing:
            sleeper.interrupt()

    def remove_sleeper(self, sleeper: Sleeper, record: LiveTask | None, reason: str) -> None:
        """Forget who slept."""
        with self._lock:
            self._sleepers.discard(sleeper)
        if record is not None and self.pauses is not None:
            self.pauses.end_sleep(record, reason)


class WatchedPolicies(Policies):
    """Policies that tell an interceptor of each call that a throttle lets pass.

    A class of its own, so that a framework without an interceptor pays nothing for it.

    Args:
        clock: Time for windows and delays.
        rng: Draws the jitter.
        pauses: Where the manager's tasks pause.
        interceptor: Who is told.
    """

    def __init__(
        self, clock: Clock, rng: random.Random, pauses: Pauses, interceptor: Interceptor
    ) -> None:
        super().__init__(clock, rng, pauses)
        self.monotonic = self._read
        self._interceptor = interceptor
        self._latest = threading.local()

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call as `Policies.take`, and tell of it if it passes."""
        due = super().take(policy, key)
        if due is None:
            self._tell(policy)
        return due

    def _turn(
        self, policy: ThrottlePolicy, key: Hashable, due: float, sleeper: Sleeper
    ) -> Generator[float | None, None, None]:
        yield from super()._turn(policy, key, due, sleeper)
        self._tell(policy)

    def _read(self) -> float:
        now: float = self.clock.monotonic()
        self._latest.reading = now
        return now

    def _tell(self, policy: ThrottlePolicy) -> None:
        # A gate's last reading on a thread is the stamp that it counts the call with. One of
        # our own would be a little later, and windows as told could hold more than the rate.
        self._interceptor.after_throttle(policy.name, current_record.get(), self._latest.reading)


class _Asleep:
    """The time in which one call sleeps, inside or outside a task."""

    __slots__ = ("_error", "_policies", "_reason", "_record", "_sleeper", "_suspends")

    def __init__(
        self,
        policies: Policies,
        sleeper: Sleeper,
        reason: str,
        error: BaseException | None = None,
        *,
        suspends: bool = False,
    ) -> None:
        self._policies = policies
        self._sleeper = sleeper
        self._reason = reason
        self._error = error
        self._record = current_record.get() if policies.pauses is not None else None
        self._suspends = suspends

    def __enter__(self) -> _Asleep:
        if self._record is not None and self._suspends:
            assert self._policies.pauses is not None
            self._policies.pauses.limits.suspend(self._record)
        self._policies.add_sleeper(self._sleeper, self._record, self._reason, self._error)
        # The error's traceback holds the frame that holds this.
        self._error = None
        return self

    def __exit__(self, *_: object) -> None:
        self._policies.remove_sleeper(self._sleeper, self._record, self._reason)
        if self._record is not None and self._suspends:
            assert self._policies.pauses is not None
            self._policies.pauses.limits.resume(self._record)

    def require_wanted(self) -> None:
        """See that the task, if there is one, is still wanted.

        Raises:
            TaskCancelledError: If it was cancelled or has a final status already.
        """
        record = self._record
        if record is not None and (record.cancel_requested or record.status in FINAL):
            raise TaskCancelledError(record.task_id, record.name)

    def goes_on(self, error: BaseException) -> bool:
        """Whether to make the next attempt, which is then counted.

        Raises:
            TaskCancelledError: From *error*, if the task is not wanted any more.
        """
        try:
            self.require_wanted()
        except TaskCancelledError as cancelled:
            raise cancelled from error
        if self._sleeper.interrupted:
            return False
        if self._record is not None:
            assert self._policies.pauses is not None
            self._policies.pauses.count_attempt(self._record)
        return True


def retry_reason(policy: RetryPolicy, attempt: int, delay: float) -> str:
    """Return why a task waits whose attempt number *attempt* has failed, for people."""
    return (
        f"attempt {attempt} of {policy.options['max_retries'] + 1} failed; the next in {delay:g} s"
    )


def throttle_reason(policy: ThrottlePolicy) -> str:
    """Return why a task waits whose call is over a rate, for people."""
    return f"waits for the rate of {policy.name}"


def standalone() -> Policies:
    """Return policies for code outside any framework, on the system's clock."""
    return Policies(SystemClock(), random.Random())
