"""Retries and throttles on a worker: tasks are published again, so that no process sleeps.

A retry's delay, or the wait for a throttle, would block a process of the worker. If the retry or
throttle decorates the task's own function, so that no code would run twice, the task is
published again with a countdown instead. All workers share the windows in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Generator, Hashable
from typing import Any, Final, TypeVar

from framework._records.jsonsafe import safe_repr
from framework._records.records import TaskRecord
from framework._running.waits.policies import Policies, retry_reason, throttle_reason
from framework._running.waits.retry import RetryPolicy
from framework._running.waits.throttle import ThrottlePolicy
from framework._tasks.current import current_record
from framework._tasks.live import LiveTask, Sleeper
from framework.exceptions import TaskCancelledError

T = TypeVar("T")


class PublishAgain(BaseException):  # no error, and nobody may catch it as one
    """Leaves a task's function, which continues in a later delivery.

    Attributes:
        kind: ``retrying`` or ``throttled``.
        delay: Seconds until then.
        error: What ended the attempt; None for a throttle.
        reason: Why it waits, see `reasons`.
        turn: Key of the throttle's window that it waits for; "" for none.
    """

    def __init__(
        self,
        kind: str,
        delay: float,
        error: BaseException | None,
        reason: str,
        turn: str = "",
    ) -> None:
        super().__init__(kind, delay)
        self.kind = kind
        self.delay = delay
        self.error = error
        self.reason = reason
        self.turn = turn


class WorkerPolicies(Policies):
    """State of retries and throttles in one process of a worker.

    Attributes:
        windows: A `State`, with the windows of all workers; set by the outpost.
    """

    windows: Any  # its class needs the extra

    # -- throttle

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call in the window of all workers; see `Policies.take`."""
        record = current_record.get()
        options = policy.options
        waits = options["when_limited"] == "wait" and record is not None
        who = record.task_id if waits and record is not None else ""
        window = window_key(policy, key)
        while True:
            began = self.monotonic()
            wait, number = self.windows.take(
                window, options["rate_limit"], policy.window + _MARGIN, who
            )
            if wait is not None:
                break
            if self._is_counted_now(policy, window, number, began):
                return None
        if options["when_limited"] == "raise":
            wait = min(wait, policy.window)
        moment: float = self.monotonic() + wait
        return moment

    def _is_counted_now(
        self, policy: ThrottlePolicy, window: str, number: int, began: float
    ) -> bool:
        """Check that a call is counted when its function starts, and not long before.

        Args:
            policy: The throttle.
            window: Key of its window.
            number: The call's number there.
            began: Monotonic second before which it was not counted.

        Returns:
            False if that took longer than the window, so that it must be counted again.
        """
        ahead, length = 0.0, policy.window
        # 1 Redis counts the call, 2 this process is held up, 3 the body begins, late.
        # 4 A window after 1 another call is counted, and begins at once: too soon after 3.
        while (took := self.monotonic() - began) > ahead + _MARGIN:
            ahead, began = 2 * took, self.monotonic()
            if not self.windows.restamp(window, number, length, ahead):
                return False
        return True

    def _turn(
        self, policy: ThrottlePolicy, key: Hashable, due: float, sleeper: Sleeper
    ) -> Generator[float | None, None, None]:
        """Publish the task again, or yield until when to wait; see `Policies`."""
        self._leave_if_own(policy, key, due)
        next_due: float | None = due
        while next_due is not None:
            self._announce("throttled", policy.name, next_due - self.monotonic(), None)
            reason = throttle_reason(policy, next_due)
            self.add_sleeper(sleeper, current_record.get(), reason)
            try:
                yield next_due
            finally:
                self.remove_sleeper(sleeper, current_record.get(), reason)
            next_due = self._next(policy, key, sleeper.interrupted)

    def _leave_if_own(self, policy: ThrottlePolicy, key: Hashable, due: float) -> None:
        if _is_own(policy, current_record.get()):
            delay = max(due - self.monotonic(), 0.0)
            key_there = window_key(policy, key)
            raise PublishAgain("throttled", delay, None, throttle_reason(policy, due), key_there)

    def _next(self, policy: ThrottlePolicy, key: Hashable, interrupted: bool) -> float | None:
        """Try once more; return when to try again, None if the call was counted."""
        record = current_record.get()
        if interrupted:
            who = record.task_id if record is not None else ""
            self.windows.leave(window_key(policy, key), who)
            if record is not None and (record.cancel_requested or record.status.is_final):
                raise TaskCancelledError(record.task_id, record.name)
            raise self.limit_error(policy, self.monotonic())
        return self.take(policy, key)

    # -- retry

    def retry(
        self, policy: RetryPolicy, name: str, call: Callable[[], T], error: BaseException
    ) -> T:
        """Publish the task again, or go on as `Policies.retry` does."""
        self._retry_if_own(policy, error)
        return super().retry(policy, name, call, error)

    async def retry_async(
        self,
        policy: RetryPolicy,
        name: str,
        call: Callable[[], Awaitable[T]],
        error: BaseException,
    ) -> T:
        """Publish the task again, or go on as `Policies.retry_async` does."""
        self._retry_if_own(policy, error)
        return await super().retry_async(policy, name, call, error)

    def _retry_if_own(self, policy: RetryPolicy, error: BaseException) -> None:
        """Leave for a later delivery if *policy* decorates the task's own function."""
        if isinstance(error, PublishAgain):
            raise error
        record = current_record.get()
        if not isinstance(record, LiveTask) or not _is_own(policy, record):
            return
        attempt = record.delivery.attempt + 1
        if not policy.allows(error, attempt):
            raise error
        if record.cancel_requested or record.status.is_final:
            raise TaskCancelledError(record.task_id, record.name) from error
        delay = policy.delay(attempt, self.rng.uniform)
        reason = retry_reason(policy, attempt, self.monotonic() + delay, error)
        raise PublishAgain("retrying", delay, error, reason)


_MARGIN: Final = 0.01
"""Seconds added to the windows of workers. Redis counts a call at most that long before its
function starts, so the functions keep to the rate as well."""


def _is_own(policy: object, record: TaskRecord | None) -> bool:
    """Return whether *policy* decorates a delivered task's own function."""
    if not isinstance(record, LiveTask) or record.delivery is None:
        return False
    fn: Any = record.spec.fn
    while (own := getattr(fn, "__asyncframe_policy__", None)) is not None:
        # By identity: policies of equal fields may belong to different functions.
        if own is policy:
            return True
        fn = fn.fn
    return False


def window_key(policy: ThrottlePolicy, key: Hashable) -> str:
    """Return a throttle's key in Redis, the same in every process."""
    if not policy.has_key:
        return policy.name
    return f"{policy.name}:{hashlib.sha256(safe_repr(key, 2_000).encode()).hexdigest()[:32]}"
