"""When to try again, and after how long: arithmetic only, no waiting."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from collections.abc import Callable
from typing import Final, TypeAlias, Unpack

from framework._tasks.options import RETRY, RetryOptions
from framework.exceptions import TaskCancelledError

Uniform: TypeAlias = Callable[[float, float], float]
"""Draws a float from ``[low, high]``, as ``random.Random.uniform``."""

MAX_DELAY: Final = 1e9
"""Longest delay in seconds, some 31 years: what an exponential that overflows becomes."""

_NEVER: Final = (
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    TaskCancelledError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
)


class RetryPolicy:
    """How often and when a failing call is made again.

    Args:
        options: Every option of `retry_task`, checked.
    """

    __slots__ = ("options",)

    def __init__(self, options: RetryOptions) -> None:
        self.options = options

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Whether to try again after *error* ended attempt number *attempt* (from 1 on)."""
        return (
            attempt <= self.options["max_retries"]
            and isinstance(error, self.options["exceptions"])
            and not isinstance(error, _NEVER)
        )

    def delay(self, retry: int, uniform: Uniform) -> float:
        """Return how many seconds to wait before a retry.

        ``min(max_delay, retry_delay * backoff**(retry - 1))``, and then plus or minus
        ``jitter`` as a share of it.

        Args:
            retry: Number of the retry, from 1 on.
            uniform: Draws the jitter; not called without one.

        Returns:
            Seconds, 0 or more.
        """
        first, longest = self.options["retry_delay"], self.options["max_delay"]
        try:
            delay = first * self.options["backoff"] ** (retry - 1)
        except OverflowError:
            # Delay 0 stays 0, however often it is multiplied.
            delay = math.inf if first else 0.0
        delay = min(delay, MAX_DELAY if longest is None else longest)
        jitter = self.options["jitter"]
        if jitter:
            delay += uniform(-jitter, jitter) * delay
        return max(0.0, delay)


def retry_policy(**options: Unpack[RetryOptions]) -> RetryPolicy:
    """Check options of `retry_task` and return them as a policy.

    Raises:
        TypeError: If one is of the wrong type, or is no option.
        ValueError: If one is out of its range.
    """
    return RetryPolicy(RETRY.complete(RETRY.checked("retry_task", options)))
