"""Policies: the state and the waiting of retries and throttles.

Each manager has one `Policies`; code outside any framework shares one for the process.

Guarantees: a sleep ends at once when its task is cancelled or ends, or the framework shuts
down.
Lock order: `_lock` is held for one change of a table; gates and sleepers are called without
it.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextlib import closing
from functools import partial
from typing import Final, NoReturn, Protocol, TypeVar

from framework._records.jsonsafe import safe_str
from framework._records.records import TaskEvent, wake
from framework._records.statuses import FINAL, RUNNING
from framework._running.endings import Endings
from framework._running.outcomes import PublishAgain
from framework._running.waits.own import is_own
from framework._running.waits.retry import RetryPolicy, retry_reason
from framework._running.waits.throttle import Gate, Gates, ThrottlePolicy, throttle_reason
from framework._tasks.live import LiveTask, Pause, Sleeper, current_record
from framework._threads.clock import SystemClock
from framework._threads.waiters import LoopSleeper, Steps, ThreadSleeper, block, suspend
from framework.exceptions import RateLimitExceededError, TaskCancelledError
from framework.protocols import Clock, Interceptor

T = TypeVar("T")


class Rests(Protocol):
    """Lets tasks wait outside of their functions: a `resting.Resting`."""

    def pause(self, task: LiveTask, delay: float, *, begun: bool) -> Pause | None:
        """Return what a wait of a running task is, of some seconds; see `Pause`.

        None if it is to wait inside, whatever becomes of its process.
        """

    def rest(self, task: LiveTask, pause: Pause, again: PublishAgain, announces: bool) -> None:
        """Let a task wait whose function was left, or end it if it is not to run again."""


LONG: Final = 0.5
"""Seconds of a wait that is worth the two writes by which a task leaves its function."""


class Policies:
    """State of retries and throttles of one manager, or of code outside any.

    Args:
        clock: Source of time for windows and delays.
        rng: Source of the jitter.
        endings: Of the tasks in which calls sleep; None outside any framework.
        rests: Where tasks wait outside of their functions; None for nowhere.

    Attributes:
        direct: The gates of functions throttled as a whole, which never retire. Each call of
            such a function asks its gate here and saves `take`, except for the first. Empty
            where `take` does more than to ask the gate.
        asks: Whether `take` may block, so that a coroutine uses `take_on_loop`.
    """

    asks = False

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        endings: Endings | None = None,
        rests: Rests | None = None,
    ) -> None:
        self.clock = clock
        self.monotonic = clock.monotonic
        self.rng = rng
        self.endings = endings
        self._rests = rests
        # Nothing fails without it while there is a global lock: a sleeper is added before
        # `_closing` is read, and `close` sets that before it reads the sleepers.
        self._lock = threading.Lock()
        self._gates: dict[ThrottlePolicy, Gates] = {}
        self.direct: dict[ThrottlePolicy, Gate] = {}
        # A dict, so that they are woken in the order in which they came.
        self._sleepers: dict[Sleeper, None] = {}
        self._closing = False

    def gates(self, policy: ThrottlePolicy) -> Gates:
        """Return the gates of one throttled function."""
        gates = self._gates.get(policy)
        if gates is None:
            with self._lock:
                gates = self._gates.setdefault(policy, Gates(policy))
        return gates

    def throttles(self) -> list[ThrottlePolicy]:
        """Return the policies of the throttled functions that were called."""
        return list(self._gates)

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call and return None; or return the monotonic second to try again at."""
        if policy.has_key:
            return self.gates(policy).take(key, self.monotonic)
        gate = self.direct[policy] = self.gates(policy).single()
        return gate.take(self.monotonic)

    async def take_on_loop(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call as `take` does, without blocking the event loop."""
        return self.take(policy, key)

    def close(self) -> None:
        """Interrupt every sleep, and every one that starts later."""
        for sleeper in self.begin_close():
            sleeper.interrupt()

    def begin_close(self) -> list[Sleeper]:
        """Interrupt every sleep that starts from now on; return the others, to be interrupted."""
        with self._lock:
            self._closing = True
            return list(self._sleepers)

    # -- instead of a wait

    def attempts_before(self, policy: RetryPolicy) -> int:
        """Return how many attempts of its own retry the current task has made before this run."""
        record = current_record.get()
        restart = None if record is None else record.restart
        return restart.failed if restart is not None and restart.failed and is_own() else 0

    def leave(
        self,
        policy: RetryPolicy,
        attempt: int,
        delay: float,
        error: BaseException,
        reason: str,
    ) -> Pause | None:
        """Called before the wait for another attempt.

        Leaves the current task's function if the wait is the task's own, and the task is to wait
        outside of its function: until it is due, in this process or another one.

        Args:
            policy: The retry.
            attempt: Number of the attempt that has failed, from 1.
            delay: Seconds to wait.
            error: What the attempt has raised.
            reason: Why the task waits.

        Returns:
            What the wait is, if the task is to wait inside, unless its process ends; None if it is
            to wait inside in any case.

        Raises:
            PublishAgain: If it is to wait outside.
        """
        record = current_record.get()
        if record is not None and record.restart is not None and is_own():
            record.restart.failed = attempt
        pause = self.pause(delay, begun=True)
        if pause is not None:
            self.leave_long(pause, PublishAgain("retrying", delay, error, reason))
        return pause

    def pause(self, delay: float, *, begun: bool) -> Pause | None:
        """Return what a wait of some seconds is, if another process may go on with it."""
        record = current_record.get()
        if record is None or record.restart is None or self._rests is None or not is_own():
            return None
        return self._rests.pause(record, delay, begun=begun)

    def leave_long(self, pause: Pause, again: PublishAgain, *, announces: bool = True) -> None:
        """Called before a wait that another process may go on with.

        Args:
            pause: What the wait is.
            again: What it is for.
            announces: Whether nobody has heard of it yet.

        Raises:
            PublishAgain: *again*, if the wait is long, or its process ends.
        """
        record = current_record.get()
        if again.delay >= LONG or (record is not None and record.home.closed):
            self._leave(pause, again, announces=announces)

    def leave_interrupted(self, due: float, again: PublishAgain) -> None:
        """Called when a shutdown ends a wait: another process may go on with it.

        Args:
            due: The monotonic second at which it would have been over.
            again: What the wait is for.

        Raises:
            PublishAgain: *again*, if one may.
        """
        pause = self.pause(max(0.0, due - self.monotonic()), begun=again.kind == "retrying")
        if pause is not None:
            self._leave(pause, again, announces=False)

    def asleep(
        self, task: LiveTask, delay: float, reason: str
    ) -> tuple[Pause, PublishAgain] | None:
        """Return what a sleep of a running task is, whose code may begin anew where it sleeps.

        Returns:
            The wait, and what its function raises to wait outside; None if it is to sleep inside.
        """
        rests = self._rests
        pause = None if rests is None else rests.pause(task, delay, begun=False)
        if rests is None or pause is None:
            return None
        again = PublishAgain("sleeping", delay, None, reason)
        again.then = lambda task, again: rests.rest(task, pause, again, True)
        return pause, again

    def _leave(self, pause: Pause, again: PublishAgain, *, announces: bool) -> NoReturn:
        assert self._rests is not None
        rest = self._rests.rest
        again.then = lambda task, again: rest(task, pause, again, announces)
        raise again

    # -- throttle

    def limit_error(self, policy: ThrottlePolicy, due: float) -> RateLimitExceededError:
        """Return the error of a call that is not allowed before monotonic second *due*."""
        now = self.clock.monotonic()
        wait = max(due - now, 1e-9)
        # Rounded down, the caller would come back too early.
        while now + wait < due:
            wait = math.nextafter(wait, math.inf)
        rate, window = policy.options["rate_limit"], policy.window
        return RateLimitExceededError(policy.name, rate, window, wait)

    def refuse(self, policy: ThrottlePolicy, due: float) -> RateLimitExceededError:
        """Publish that a call was refused, and return its error."""
        error = self.limit_error(policy, due)
        self._announce("throttled", policy.name, error.retry_after, error)
        return error

    def wait_turn(self, policy: ThrottlePolicy, key: Hashable, due: float) -> None:
        """Block this thread until the call is counted.

        Raises:
            RateLimitExceededError: If the framework shuts down first.
            TaskCancelledError: If the calling task is cancelled or ends first.
        """
        block(self._turn(policy, key, due, ThreadSleeper(self.clock)))

    async def await_turn(self, policy: ThrottlePolicy, key: Hashable, due: float) -> None:
        """Suspend this coroutine until the call is counted; raises like `wait_turn`."""
        await suspend(self._turn(policy, key, due, LoopSleeper(self.clock)))

    def _turn(
        self, policy: ThrottlePolicy, key: Hashable, due: float, sleeper: Sleeper
    ) -> Steps[None]:
        """Wait in the queue of a gate."""
        gate, turn = self.gates(policy).join(key, sleeper, self.monotonic)
        passed = False
        try:
            with Sleep(self, sleeper, throttle_reason(policy, turn), suspends=True) as sleep:
                self._announce("throttled", policy.name, due - self.clock.monotonic(), None)
                while not sleeper.interrupted:
                    passed, until = gate.step(sleeper, self.monotonic)
                    if passed:
                        return
                    yield partial(sleeper.wait, until)
                sleep.raise_if_unwanted()
                raise self.limit_error(policy, due)
        finally:
            # Also if the waiting coroutine is cancelled, which closes this generator.
            if not passed:
                gate.leave(sleeper)

    # -- retry

    def retry(
        self, policy: RetryPolicy, name: str, call: Callable[[], T], error: BaseException
    ) -> T:
        """Retry a call whose first attempt raised *error*; blocks between attempts.

        Returns:
            What the first successful attempt returns.

        Raises:
            BaseException: The error of the last attempt, if no further retry is allowed or the
                framework shuts down.
            TaskCancelledError: If the calling task is cancelled or ends first.
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
        """Retry like `retry`, with an async *call*; suspends between attempts."""
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
            name: Name of the retried function.
            latest: The error of the latest attempt; the caller replaces it after each attempt.
            sleeper: What the caller waits with.

        Yields:
            For each retry the monotonic second until which to wait, and then None, when it
            is time to make the attempt.
        """
        attempt = self.attempts_before(policy) + 1
        while policy.allows(latest[0], attempt):
            delay = policy.delay(attempt, self.rng.uniform)
            due = self.clock.monotonic() + delay
            reason = retry_reason(policy, attempt, due, latest[0])
            pause = self.leave(policy, attempt, delay, latest[0], reason)
            with Sleep(self, sleeper, reason, latest[0], pause=pause) as sleep:
                self._announce("retrying", name, delay, latest[0])
                yield due
            if not sleep.may_go_on(latest[0]):
                again = PublishAgain("retrying", delay, latest[0], reason)
                self.leave_interrupted(due, again)
                return
            attempt += 1
            yield None

    def _announce(self, kind: str, name: str, delay: float, error: BaseException | None) -> None:
        """Count and publish a wait for a retry or a throttle, in a task or beside any.

        Args:
            kind: ``retrying`` or ``throttled``.
            name: Name of the function, for calls outside a task.
            delay: Length of the wait, in seconds.
            error: Why it waits; None for a throttle's turn.
        """
        if self.endings is None:
            return
        ledger, task, clock = self.endings.ledger, current_record.get(), self.clock
        if task is not None:
            ledger.announce(kind, task, delay, error)
            return
        ledger.count(kind)
        if ledger.sinks:
            now, wall = clock.monotonic(), clock.time()
            ledger.publish(TaskEvent(kind, None, name, now, wall, delay=delay, error=error))

    def add_sleeper(self, sleeper: Sleeper) -> bool:
        """Register what sleeps; False if the policies are closed, so that it must not."""
        with self._lock:
            self._sleepers[sleeper] = None
            return not self._closing

    def remove_sleeper(self, sleeper: Sleeper) -> None:
        """Unregister what has woken up."""
        with self._lock:
            self._sleepers.pop(sleeper, None)


class WatchedPolicies(Policies):
    """Policies that report each call that a throttle allows to an interceptor.

    A separate class, so that it costs nothing without an interceptor.

    Args:
        clock: Source of time for windows and delays.
        rng: Source of the jitter.
        endings: Of the tasks in which calls sleep.
        rests: Where tasks wait outside of their functions.
        interceptor: Its `after_throttle` is called.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        endings: Endings,
        rests: Rests,
        interceptor: Interceptor,
    ) -> None:
        super().__init__(clock, rng, endings, rests)
        self.monotonic = self._read_clock
        self._interceptor = interceptor
        self._latest = threading.local()

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call like `Policies.take`, and report it if it is allowed."""
        due = self.gates(policy).take(key, self.monotonic)
        if due is None:
            self._report(policy)
        return due

    def _turn(
        self, policy: ThrottlePolicy, key: Hashable, due: float, sleeper: Sleeper
    ) -> Steps[None]:
        yield from super()._turn(policy, key, due, sleeper)
        self._report(policy)

    def _read_clock(self) -> float:
        now: float = self.clock.monotonic()
        self._latest.reading = now
        return now

    def _report(self, policy: ThrottlePolicy) -> None:
        # The gate counted this call with its last reading of the clock on this thread. A new
        # reading would be later, and the reported calls could seem to exceed the rate.
        self._interceptor.after_throttle(policy.name, current_record.get(), self._latest.reading)


class Sleep:
    """The sleep of one call, inside or outside a task.

    A task says why it sleeps, and whatever ends the task ends the sleep.

    Args:
        policies: End the sleep when they close.
        sleeper: What the caller waits with.
        reason: Why the task sleeps.
        error: What the attempt has raised after which it sleeps; None for a throttle's turn.
        suspends: Whether the sleep does not count towards the task's limit.
        pause: What the wait is, if another process may go on with it; None if none may.
    """

    __slots__ = (
        *("_began", "_endings", "_error", "_pause", "_policies", "_reason", "_sleeper"),
        *("_suspends", "_task"),
    )

    def __init__(
        self,
        policies: Policies,
        sleeper: Sleeper,
        reason: str,
        error: BaseException | None = None,
        *,
        suspends: bool = False,
        pause: Pause | None = None,
    ) -> None:
        self._policies = policies
        self._sleeper = sleeper
        self._reason = reason
        self._endings = policies.endings
        self._task = None if self._endings is None else current_record.get()
        # Not the error: its traceback refers to the frame that refers to this object.
        self._error = None
        if error is not None and self._task is not None:
            self._error = f"{type(error).__name__}: {safe_str(error)}"
        self._suspends = suspends
        self._pause = pause
        self._began: float | None = None

    def __enter__(self) -> Sleep:
        task, endings, sleeper = self._task, self._endings, self._sleeper
        if task is None or endings is None:
            if not self._policies.add_sleeper(sleeper):
                sleeper.interrupt()
            return self
        if self._suspends:
            endings.limits.suspend(task)
        wanted, now = self._policies.add_sleeper(sleeper), self._policies.clock.monotonic()
        with endings.ledger.lock:
            task.sleeper = sleeper
            lives = task.status is RUNNING and not task.cancel_requested
            if lives:
                task.reason = self._reason
                task.last_error = self._error
                task.pause = self._pause
                # Of several calls that wait at once, the time of one counts.
                if task.asleep is None:
                    task.asleep = self._began = now
        if lives:
            endings.ledger.share(task)
        if not (lives and wanted):
            sleeper.interrupt()
        return self

    def __exit__(self, *_: object) -> None:
        task, endings = self._task, self._endings
        self._policies.remove_sleeper(self._sleeper)
        if task is None or endings is None:
            return
        now = self._policies.clock.monotonic()
        with endings.ledger.lock:
            if task.asleep is self._began:
                wake(task, now)
            # 1 its process ends and gives it away, 2 it wakes and finds that out; or 1 it wakes,
            # 2 it is not given away any more.
            task.sleeper = task.pause = None
            # Unless another reason has replaced this one.
            ours = task.status is RUNNING and task.reason is self._reason
            if ours:
                task.reason = ""
                task.last_error = None
        if ours:
            endings.ledger.share(task)
        if self._suspends:
            endings.limits.resume(task)

    def raise_if_unwanted(self) -> None:
        """Do nothing outside a task, or in one whose result is still wanted.

        Raises:
            TaskCancelledError: If the task is being cancelled or is final already.
        """
        raise_if_unwanted(self._task)

    def may_go_on(self, error: BaseException) -> bool:
        """Return whether to make the next attempt, and count it if so.

        Raises:
            TaskCancelledError: From *error*, if the task is being cancelled or is final.
        """
        try:
            self.raise_if_unwanted()
        except TaskCancelledError as cancelled:
            raise cancelled from error
        if self._sleeper.interrupted:
            return False
        if self._task is not None and self._endings is not None:
            with self._endings.ledger.lock:
                self._task.attempts += 1
            self._endings.ledger.share(self._task)
        return True


def raise_if_unwanted(task: LiveTask | None) -> None:
    """Do nothing outside a task, or in one whose result is still wanted.

    Raises:
        TaskCancelledError: If the task is being cancelled or is final already.
    """
    if task is not None and (task.cancel_requested or task.status in FINAL):
        raise TaskCancelledError(task.task_id, task.name)


def standalone() -> Policies:
    """Return policies for code outside any framework, with the system's clock."""
    return Policies(SystemClock(), random.Random())
