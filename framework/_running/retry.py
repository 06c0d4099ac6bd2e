"""When to try again, and after how long: arithmetic only, no waiting."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from framework._tasks import checks
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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a failing call is made again; see `retry_task` for the fields."""

    max_retries: int
    retry_delay: float
    backoff: float
    max_delay: float | None
    jitter: float
    exceptions: tuple[type[BaseException], ...]

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Whether to try again after *error* ended attempt number *attempt* (from 1 on)."""
        return (
            attempt <= self.max_retries
            and isinstance(error, self.exceptions)
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
        try:
            delay = self.retry_delay * self.backoff ** (retry - 1)
        except OverflowError:
            # Delay 0 stays 0, however often it is multiplied.
            delay = math.inf if self.retry_delay else 0.0
        delay = min(delay, MAX_DELAY if self.max_delay is None else self.max_delay)
        if self.jitter:
            delay += uniform(-self.jitter, self.jitter) * delay
        return max(0.0, delay)


def retry_policy(
    *,
    max_retries: object,
    retry_delay: object,
    backoff: object,
    max_delay: object,
    jitter: object,
    exceptions: object,
) -> RetryPolicy:
    """Check the parameters of `retry_task` and return them as a policy.

    Raises:
        TypeError: If one is of the wrong type.
        ValueError: If one is out of its range.
    """
    return RetryPolicy(
        max_retries=checks.integer("max_retries", max_retries, at_least=0),
        retry_delay=checks.number("retry_delay", retry_delay, at_least=0),
        backoff=checks.number("backoff", backoff, at_least=1),
        max_delay=None if max_delay is None else checks.number("max_delay", max_delay, at_least=0),
        jitter=checks.number("jitter", jitter, at_least=0, at_most=1),
        exceptions=_exception_types(exceptions),
    )


def _exception_types(given: object) -> tuple[type[BaseException], ...]:
    types = given if isinstance(given, tuple) else (given,)
    if not types:
        raise ValueError(
            "exceptions must name at least one exception class, not (): with none the "
            "function would never be retried"
        )
    for one in types:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(
                "exceptions must be an exception class or a tuple of them, not "
                f"{checks.show(given)}"
            )
    return types
