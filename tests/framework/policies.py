"""Policies of retries and throttles, made from options as the decorators make them."""

from __future__ import annotations

from typing import Unpack

from framework._running.waits.retry import RetryPolicy
from framework._running.waits.throttle import ThrottlePolicy
from framework._tasks.options import RETRY, THROTTLE, RetryOptions, ThrottleOptions


def retry_policy(**options: Unpack[RetryOptions]) -> RetryPolicy:
    """Check options of `retry_task` and return them as a policy."""
    return RetryPolicy(RETRY.complete(RETRY.checked("retry_task", options)))


def throttle_policy(name: str, **options: Unpack[ThrottleOptions]) -> ThrottlePolicy:
    """Check options of `throttled_task` and return them as a policy."""
    return ThrottlePolicy(name, THROTTLE.complete(THROTTLE.checked("throttled_task", options)))
