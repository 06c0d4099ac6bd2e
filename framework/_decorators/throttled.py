"""throttled_task: a function that is called no more often than its rate."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Hashable
from typing import Any, Literal

from framework._decorators.dressing import by_name, decorate, dress, of_colour, require_known
from framework._manager.frameworks import find_policies
from framework._running.throttle import ThrottlePolicy, throttle_policy
from framework._tasks import registry
from framework._tasks.decorated import ThrottleDecorator
from framework._tasks.functions import name_of


def throttled_task(
    fn: object = None,
    /,
    *,
    rate_limit: int | None = None,
    time_window: float = 60.0,
    when_limited: Literal["raise", "wait"] = "raise",
    key: Callable[..., Hashable] | None = None,
) -> ThrottleDecorator:
    """Limit how often a function may be called in any window of time.

    The window slides: no half-open stretch of *time_window* seconds ever holds more than
    *rate_limit* calls, and a call exactly one window after another is free. It is shared
    by all callers of the decorated function under one framework, methods of all instances
    included, and is a window of this process, or of all workers where tasks run on Celery.
    Outside any framework it is the process's.

    Args:
        fn: Not used: without brackets there is no rate, which is refused.
        rate_limit: Calls per window, from 1 on.
        time_window: Length of the window in seconds, above 0.
        when_limited: ``"raise"`` `RateLimitExceededError`, or ``"wait"`` for a place, first
            come, first served. A sync function called on a loop's thread cannot wait and
            raises. Waiting does not count against a task's limit.
        key: Called with the arguments; calls of different keys do not count together.
            None to count all calls together.

    Returns:
        A decorator; what it decorates stays sync or async, and returns what it did.

    Raises:
        TypeError: If the bare form is used, or a parameter is of the wrong type.
        ValueError: If a number is out of range.
    """
    if fn is not None and not callable(fn):
        raise by_name("throttled_task", fn)
    if fn is not None or rate_limit is None:
        raise TypeError(
            "throttled_task has no default rate: write @throttled_task(rate_limit=5, "
            f"time_window=60), not {'@throttled_task' if fn is not None else 'rate_limit=None'}"
        )
    given = {
        "rate_limit": rate_limit,
        "time_window": time_window,
        "when_limited": when_limited,
        "key": key,
    }
    throttle_policy("", **given)
    return lambda it: decorate("throttled_task", it, lambda one: _throttled(one, given))


def _throttled(fn: Callable[..., Any], given: dict[str, Any]) -> Any:
    def options(**changed: Any) -> Any:
        """Return a copy with other options and windows of its own."""
        require_known(fn, changed, given)
        return _throttled(fn, given | changed)

    name = name_of(fn)
    options.__qualname__ = f"{name}.options"
    policy = throttle_policy(name, **given)
    dressed = dress(
        throttled_inner(fn, policy),
        fn,
        "throttled_task",
        options=options,
        __asyncframe_policy__=policy,
    )
    registry.register(name, dressed)
    return dressed


def throttled_inner(fn: Callable[..., Any], policy: ThrottlePolicy) -> types.FunctionType:
    """Return *fn* behind its rate, in the colour of *fn*."""
    policies, running_loop, key = find_policies, asyncio._get_running_loop, policy.key
    waits = policy.when_limited == "wait"

    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        here = policies()
        its_key = None if key is None else key(*args, **kwargs)
        due = here.take(policy, its_key)
        if due is not None:
            # On a loop's thread there is no waiting.
            if not waits or running_loop() is not None:
                raise here.refuse(policy, due)
            here.wait_turn(policy, its_key, due)
        return fn(*args, **kwargs)

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        here = policies()
        its_key = None if key is None else key(*args, **kwargs)
        due = here.take(policy, its_key)
        if due is not None:
            if not waits:
                raise here.refuse(policy, due)
            await here.await_turn(policy, its_key, due)
        return await fn(*args, **kwargs)

    return of_colour(fn, sync_inner, async_inner)
