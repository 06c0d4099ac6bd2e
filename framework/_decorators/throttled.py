"""throttled_task: a function that is called no more often than its rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Unpack

from framework._decorators.dressing import Dress, by_name, copier, decorate
from framework._manager.frameworks import STATE, find_policies
from framework._running.waits.throttle import ThrottlePolicy
from framework._tasks import registry
from framework._tasks.decorated import ThrottleDecorator
from framework._tasks.functions import check_key, is_async, name_of
from framework._tasks.options import THROTTLE, ThrottleOptions, merged


@THROTTLE.spelled_out
def throttled_task(fn: object = None, /, **options: Unpack[ThrottleOptions]) -> ThrottleDecorator:
    """Limit how often a function may be called within a time window.

    The window slides: in any period of *time_window* seconds there are at most *rate_limit*
    calls, and a call exactly one window after another is allowed. All callers of the decorated
    function in one framework share the window; if it is a method, so do all instances. Processes
    that share an `SQLStore` share the window, and so do Celery workers; otherwise each process has
    its own. Without a framework the window belongs to the process.

    Args:
        fn: Not used: without parentheses there is no rate limit, so this raises `TypeError`.
        **options: See `ThrottleOptions`.

    Returns:
        A decorator. The decorated function stays sync or async, with the same result.

    Raises:
        TypeError: If it is used without parentheses, or a parameter has the wrong type.
        ValueError: If a number is out of range.
    """
    if fn is not None and not callable(fn):
        raise by_name("throttled_task", fn)
    checked = THROTTLE.complete(THROTTLE.checked("throttled_task", options))
    if fn is not None or "rate_limit" not in options:
        raise TypeError(
            "throttled_task has no default rate: use @throttled_task(rate_limit=5, "
            f"time_window=60), not @throttled_task{'' if fn is not None else '()'}"
        )
    return lambda it: decorate("throttled_task", it, lambda one: _throttled(one, checked))


def _throttled(fn: Callable[..., Any], checked: ThrottleOptions) -> Any:
    name = name_of(fn)
    check_key("key", checked["key"], fn)
    policy = ThrottlePolicy(name, checked)
    options = copier(THROTTLE, name, lambda changed: _throttled(fn, merged(checked, changed)))

    def around(inner: Callable[..., Any]) -> Any:
        return Dress(inner, "throttled_task").put_on(
            throttled_inner(inner, policy),
            options=options,
            __asyncframe_policy__=policy,
            __asyncframe_around__=around,
        )

    dressed = around(fn)
    registry.register(name, dressed)
    return dressed


def throttled_inner(fn: Callable[..., Any], policy: ThrottlePolicy) -> Callable[..., Any]:
    """Return *fn* behind its rate limit, sync or async like *fn*."""
    # The inner functions find no name of this module: its `Dress` gives them other globals.
    current, policies, running_loop = STATE, find_policies, asyncio._get_running_loop
    key, waits = policy.options["key"], policy.options["when_limited"] == "wait"

    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        core = current.sole
        here = policies() if core is None else core.policies
        its_key = None if key is None else key(*args, **kwargs)
        gate = here.direct.get(policy)
        due = here.take(policy, its_key) if gate is None else gate.take(here.monotonic)
        if due is not None:
            # On a loop's thread there is no waiting.
            if not waits or running_loop() is not None:
                raise here.refuse(policy, due)
            here.wait_turn(policy, its_key, due)
        # With ** the interpreter would make a dict, also of nothing.
        return fn(*args, **kwargs) if kwargs else fn(*args)

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        core = current.sole
        here = policies() if core is None else core.policies
        its_key = None if key is None else key(*args, **kwargs)
        gate = here.direct.get(policy)
        if gate is not None:
            due = gate.take(here.monotonic)
        elif here.asks:
            due = await here.take_on_loop(policy, its_key)
            if due is not None:
                raise here.refuse(policy, due)
        else:
            due = here.take(policy, its_key)
        if due is not None:
            if not waits:
                raise here.refuse(policy, due)
            await here.await_turn(policy, its_key, due)
        return await (fn(*args, **kwargs) if kwargs else fn(*args))

    return async_inner if is_async(fn) else sync_inner
