"""Retries and throttles on a worker: tasks are published again, so that no process sleeps.

A retry's delay, or the wait for a throttle, would block a process of the worker. If the retry or
throttle decorates the task's own function, so that no code would run twice, the task is
published again with a countdown instead. All workers share the windows in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from functools import partial
from typing import Any, Final

from framework._records.jsonsafe import safe_repr
from framework._running.outcomes import PublishAgain
from framework._running.waits.policies import Policies, Sleep
from framework._running.waits.punctual import Punctual
from framework._running.waits.retry import RetryPolicy
from framework._running.waits.throttle import ThrottlePolicy, throttle_reason
from framework._tasks.live import LiveTask, Pause, Sleeper, current_record
from framework._threads.waiters import Steps
from framework.exceptions import TaskCancelledError


class WorkerPolicies(Policies):
    """State of retries and throttles in one process of a worker.

    Attributes:
        windows: A `Windows` of all workers; set by the outpost.
    """

    windows: Any  # its class needs the extra

    # -- throttle

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call in the window of all workers; see `Policies.take`."""
        record = current_record.get()
        options = policy.options
        who = record.task_id if record is not None and options["when_limited"] == "wait" else ""
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
        punctual, since = Punctual(_MARGIN), began
        while ahead := punctual.ahead(self.monotonic() - since):
            since = self.monotonic() + ahead
            if not self.windows.restamp(window, number, policy.window, ahead):
                return False
        return True

    def _turn(
        self, policy: ThrottlePolicy, key: Hashable, due: float, sleeper: Sleeper
    ) -> Steps[None]:
        """Publish the task again, or wait here; see `Policies`."""
        later: float | None = due
        while later is not None:
            delay, reason = later - self.monotonic(), throttle_reason(policy, later)
            self._publish_again(
                policy, "throttled", max(delay, 0.0), None, reason, window_key(policy, key)
            )
            self._announce("throttled", policy.name, delay, None)
            with Sleep(self, sleeper, reason) as sleep:
                yield partial(sleeper.wait, later)
            if sleeper.interrupted:
                record = current_record.get()
                who = record.task_id if record is not None else ""
                self.windows.leave(window_key(policy, key), who)
                sleep.raise_if_unwanted()
                raise self.limit_error(policy, self.monotonic())
            later = self.take(policy, key)

    # -- instead of a wait

    def attempts_before(self, policy: RetryPolicy) -> int:
        """Return how many attempts the current task has made in earlier deliveries."""
        record = current_record.get()
        return record.delivery.attempt if record is not None and _is_own(policy, record) else 0

    def leave(
        self,
        policy: RetryPolicy,
        attempt: int,
        delay: float,
        error: BaseException,
        reason: str,
    ) -> Pause | None:
        """Have the task published again before another attempt; see `Policies.leave`."""
        self._publish_again(policy, "retrying", delay, error, reason)
        return None

    def _publish_again(
        self,
        policy: object,
        kind: str,
        delay: float,
        error: BaseException | None,
        reason: str,
        turn: str = "",
    ) -> None:
        """Have the task published again if *policy* decorates the task's own function.

        Raises:
            PublishAgain: If it does.
            TaskCancelledError: If the task is being cancelled, or is final.
        """
        record = current_record.get()
        if record is None or not _is_own(policy, record):
            return
        if record.cancel_requested or record.status.is_final:
            raise TaskCancelledError(record.task_id, record.name) from error
        raise PublishAgain(kind, delay, error, reason, turn)


_MARGIN: Final = 0.01
"""Seconds added to the windows of workers. Redis counts a call at most that long before its
function starts, so the functions keep to the rate as well."""


def _is_own(policy: object, record: LiveTask) -> bool:
    """Return whether *policy* decorates a delivered task's own function."""
    if record.delivery is None:
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
