"""Retries: whether to retry, and after which delay; this module never waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from framework._records import reasons
from framework._running.outcomes import (
    ENDING,
    PublishAgain,
    WorkerCrashError,
    is_ending_group,
)
from framework._tasks.live import current_record
from framework._tasks.options import RetryOptions
from framework.exceptions import TaskCancelledError

Uniform: TypeAlias = Callable[[float, float], float]
"""Returns a random float from ``[low, high]``, like ``random.Random.uniform``."""

MAX_DELAY: Final = 1e9
"""Longest delay in seconds, about 31 years; also used if the exponential overflows."""

_NEVER: Final = (*ENDING, TaskCancelledError, WorkerCrashError, PublishAgain)


class RetryPolicy:
    """How often and when a failed call is retried.

    Args:
        options: All options of `retry_task`, checked.

    Attributes:
        exceptions: Which errors to retry.
    """

    __slots__ = ("exceptions", "options")

    def __init__(self, options: RetryOptions) -> None:
        self.options = options
        # Its check makes a tuple of whatever was given.
        self.exceptions: tuple[type[BaseException], ...] = cast(
            "tuple[type[BaseException], ...]", options["exceptions"]
        )

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Return whether to retry after attempt number *attempt*, from 1, raised *error*."""
        return (
            attempt <= self.options["max_retries"]
            and isinstance(error, self.exceptions)
            and not isinstance(error, _NEVER)
            and not is_ending_group(error)
        )

    def delay(self, retry: int, uniform: Uniform) -> float:
        """Return how many seconds to wait before a retry.

        ``min(max_delay, retry_delay * backoff**(retry - 1))``, plus or minus a random share of
        it up to ``jitter``.

        Args:
            retry: Number of the retry, from 1.
            uniform: Source of the jitter; not called if ``jitter`` is 0.

        Returns:
            Seconds, 0 or more.
        """
        # Their checks turn timedeltas into seconds.
        first = cast(float, self.options["retry_delay"])
        longest = cast("float | None", self.options["max_delay"])
        try:
            delay = first * self.options["backoff"] ** (retry - 1)
        except OverflowError:
            # A first delay of 0 stays 0.
            delay = math.inf if first else 0.0
        delay = min(delay, MAX_DELAY if longest is None else longest)
        jitter = self.options["jitter"]
        if jitter:
            delay += uniform(-jitter, jitter) * delay
        return max(0.0, delay)


def retry_reason(policy: RetryPolicy, attempt: int, due: float, error: BaseException) -> str:
    """Return why the current task waits until monotonic second *due*; "" outside a task.

    Args:
        policy: The retry.
        attempt: Number of the attempt that has failed, from 1.
        due: When the next one is due.
        error: What it has raised.
    """
    task, attempts = current_record.get(), policy.options["max_retries"] + 1
    if task is None:
        return ""
    return reasons.retrying(task.wall_second(due), attempt, attempts, reasons.error_text(error))
