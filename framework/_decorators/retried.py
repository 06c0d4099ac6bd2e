"""retry_task: a function that is called again when it fails."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from framework._decorators.dressing import BRACKETS, Dress, apply, copier
from framework._manager.frameworks import find_policies
from framework._running.waits.retry import RetryPolicy
from framework._tasks import registry
from framework._tasks.decorated import RetriedFunction, RetryDecorator
from framework._tasks.functions import Check, checker_for, is_async, name_of
from framework._tasks.options import RETRY, RetryOptions, merged

P = ParamSpec("P")
T = TypeVar("T")


@overload
def retry_task(fn: Callable[P, T], /) -> RetriedFunction[P, T]: ...


@overload
def retry_task(**options: Unpack[RetryOptions]) -> RetryDecorator: ...


@RETRY.spelled_out
def retry_task(fn: Any = BRACKETS, /, **options: Unpack[RetryOptions]) -> Any:
    """Call a function again if it fails, up to ``max_retries + 1`` calls in total.

    The delay before retry n, counted from 1, is
    ``min(max_delay, retry_delay * backoff**(n - 1))``. *jitter* changes it at random by up to
    that fraction, up or down, so it may exceed *max_delay*. If the last attempt fails, its error
    is raised unchanged. Cancellation, ``SystemExit``, ``KeyboardInterrupt``, a group with one of
    these in it and calls with the wrong arguments are never retried. A shutdown ends the delay
    immediately, with the last error; so do cancellation and the task's time limit. A sync function
    that is called on an event loop's thread is not retried, because that would block the loop; a
    note on the error says so.

    Args:
        fn: The function, if you use the decorator without parentheses.
        **options: See `RetryOptions`.

    Returns:
        A function with the same parameters and result; sync or async like *fn*.

    Raises:
        TypeError: If *fn* cannot be decorated, or a parameter has the wrong type.
        ValueError: If a number is out of range, or *exceptions* is empty.
    """
    checked = RETRY.complete(RETRY.checked("retry_task", options))
    return apply("retry_task", fn, lambda it: _retried(it, checked))


def _retried(fn: Callable[..., Any], checked: RetryOptions) -> Any:
    name, policy = name_of(fn), RetryPolicy(checked)
    options = copier(RETRY, name, lambda changed: _retried(fn, merged(checked, changed)))

    def around(inner: Callable[..., Any]) -> Any:
        return Dress(inner, "retry_task").put_on(
            retried_inner(inner, name, policy),
            options=options,
            __asyncframe_policy__=policy,
            __asyncframe_attempts__=attempts_of(inner, name, policy),
            __asyncframe_around__=around,
        )

    dressed = around(fn)
    registry.register(name, dressed)
    return dressed


def retried_inner(fn: Callable[..., Any], name: str, policy: RetryPolicy) -> Callable[..., Any]:
    """Return *fn* with retries, sync or async like *fn*; the first try is outside the loop."""
    # The inner functions find no name of this module: its `Dress` gives them other globals.
    policies, call_later = find_policies, functools.partial
    note_on_loop, fits = _note_on_loop, _fits
    exceptions, check = policy.exceptions, checker_for(fn)

    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except exceptions as error:
            first = error
        try:
            if not fits(first, check, args, kwargs) or note_on_loop(first, policy):
                raise first
            call = call_later(fn, *args, **kwargs)
            return policies().retry(policy, name, call, first)
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            del first

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        try:
            return await fn(*args, **kwargs)
        except exceptions as error:
            first = error
        try:
            if not fits(first, check, args, kwargs):
                raise first
            call = call_later(fn, *args, **kwargs)
            return await policies().retry_async(policy, name, call, first)
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            del first

    return async_inner if is_async(fn) else sync_inner


def attempts_of(
    fn: Callable[..., Any], name: str, policy: RetryPolicy
) -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
    """Return what runs *fn* with retries and something around each attempt.

    ``attempts(around, args, kwargs)`` has each attempt made by ``around(call)``.
    """

    def attempts(around: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = functools.partial(around, functools.partial(fn, *args, **kwargs))
        if is_async(fn):
            return retried_inner(_as_async(call), name, policy)()
        return retried_inner(call, name, policy)()

    return attempts


def _as_async(call: Callable[[], Any]) -> Callable[[], Any]:
    async def attempt() -> Any:
        return await call()

    return attempt


def _fits(
    error: BaseException, check: Check | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether the arguments fit the function; a call whose arguments do not is never retried."""
    if check is None or not isinstance(error, TypeError):
        return True
    try:
        check(*args, **kwargs)
    except TypeError:
        return False
    return True


def _note_on_loop(error: BaseException, policy: RetryPolicy) -> bool:
    """Add a note to *error* if a retry would block the loop; return whether that is so."""
    if asyncio._get_running_loop() is None or not policy.allows(error, 1):
        return False
    try:
        error.add_note(
            "not retried: retry_task would block the event loop of this thread; make the "
            "function async, or run it on a thread (background_task, async_task)"
        )
    except Exception:  # an exception class may refuse attributes; it is raised all the same
        return True
    return True
