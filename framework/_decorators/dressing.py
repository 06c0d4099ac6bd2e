"""The functions that decorated ones are replaced by.

Each resolves the manager per call and starts nothing at import. They read no name of this
module while they run, only closures: `dress` gives them the globals of the function that
they stand for, so that FastAPI finds its string annotations there.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from framework._manager.frameworks import find_policies, require_core
from framework._running.retry import RetryPolicy
from framework._running.throttle import ThrottlePolicy
from framework._tasks.functions import (
    Check,
    checker_for,
    is_async,
    layer_of,
    positional_range,
    require_callable,
    signature_of,
)
from framework._tasks.ids import TaskId
from framework._tasks.specs import TaskSpec

_RANKS = {
    "throttled_task": 1,
    "retry_task": 2,
    "background_task": 3,
    "async_task": 3,
    "scheduled_task": 3,
}
_ORDER = (
    "background_task, async_task or scheduled_task outermost (written first), then "
    "retry_task, then throttled_task, each at most once"
)


def decorate(
    layer: str, fn: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:  # Any: what was decorated, and what it becomes
    """Check *fn* and return ``make(fn)``, wrapped as a class or static method if *fn* was.

    Raises:
        TypeError: If *fn* cannot be a task, or has a decorator that must stand outside.
    """
    if isinstance(fn, (staticmethod, classmethod)):
        return type(fn)(decorate(layer, fn.__func__, make))
    function = require_callable(layer, fn)
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    below = layer_of(inner)
    if below is not None and _RANKS[below] >= _RANKS[layer]:
        raise TypeError(
            f"{layer} cannot be put on a function that is decorated with {below}; the order "
            f"is {_ORDER}"
        )
    return make(function)


def dress(
    inner: types.FunctionType,
    fn: Callable[..., Any],
    layer: str,
    *,
    returns_id: bool = False,
    **attributes: Any,
) -> Any:  # Any: typed by the decorator that returns it
    """Make *inner* look like *fn*: name, document, signature, attributes, globals.

    ``__wrapped__`` is not set: FastAPI would look through it and await an id.
    """
    unwrapped: Any = fn
    while isinstance(unwrapped, functools.partial):
        unwrapped = unwrapped.func
    namespace = getattr(unwrapped, "__globals__", {"__builtins__": builtins})
    dressed = types.FunctionType(
        inner.__code__, namespace, inner.__name__, inner.__defaults__, inner.__closure__
    )
    dressed.__dict__.update(
        (key, value)
        for key, value in getattr(unwrapped, "__dict__", {}).items()
        if isinstance(unwrapped, types.FunctionType)
        and key != "__wrapped__"
        and not key.startswith("__asyncframe")
    )
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        # A callable object has no name of its own, but its class does.
        value = getattr(unwrapped, name, getattr(type(unwrapped), name, None))
        if isinstance(value, str):
            setattr(dressed, name, value)
    signature = signature_of(fn)
    if signature is not None:
        if returns_id:
            signature = signature.replace(
                return_annotation=_id_annotation(signature.return_annotation, namespace)
            )
        dressed.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks for
        dressed.__annotations__ = _annotations(signature)
    dressed.__dict__.update(attributes, fn=fn, __asyncframe_layer__=layer)
    return dressed


def _id_annotation(returned: Any, namespace: dict[str, Any]) -> Any:  # Any: annotations
    if returned is inspect.Signature.empty:
        return TaskId[Any]
    if isinstance(returned, str):
        try:
            returned = eval(returned, namespace)  # noqa: S307  # the function's own annotation
        except Exception:  # a name that is not there yet; the id is a string all the same
            return TaskId[Any]
    return TaskId[returned]


def _annotations(signature: inspect.Signature) -> dict[str, Any]:
    empty = inspect.Signature.empty
    found = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not empty
    }
    if signature.return_annotation is not empty:
        found["return"] = signature.return_annotation
    return found


def background_inner(spec: TaskSpec) -> types.FunctionType:
    """Return a function whose call takes a task in and returns its id."""
    core, caller, check = require_core, sys._getframe, spec.check or _no_check
    (least, most), count = positional_range(spec.fn), len

    def sync_inner(*args: Any, **kwargs: Any) -> TaskId[Any]:
        if kwargs or not least <= count(args) <= most:
            check(*args, **kwargs)
        task = core().accept(spec, args, kwargs, caller(1))
        return task.task_id  # type: ignore[return-value]  # made a TaskId by the intake

    assert isinstance(sync_inner, types.FunctionType)
    return sync_inner


def awaitable_inner(spec: TaskSpec) -> types.FunctionType:
    """Return a coroutine function whose await gives the task's result."""
    core, caller, check = require_core, sys._getframe, spec.check or _no_check
    (least, most), count = positional_range(spec.fn), len
    in_place = spec.kind == "loop" and not spec.special
    special_in_place = spec.kind == "loop" and spec.special and not spec.delay

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not least <= count(args) <= most:
            check(*args, **kwargs)
        here = core()
        if in_place and here.in_place:
            drive = here.drive(spec, args, kwargs, caller(1))
            return await drive if drive.suspended else drive.outcome()
        if special_in_place and here.in_place:
            drive = here.drive_special(spec, args, kwargs, caller(1))
            return await drive if drive.suspended else drive.outcome()
        task = here.accept(spec, args, kwargs, caller(1))
        return await here.results.get(task, None)

    assert isinstance(async_inner, types.FunctionType)
    return async_inner


def _no_check(*_: Any, **__: Any) -> None:
    """Accept any arguments, of a builtin that does not tell its signature."""


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

    return _of_colour(fn, sync_inner, async_inner)


def retried_inner(fn: Callable[..., Any], name: str, policy: RetryPolicy) -> types.FunctionType:
    """Return *fn* with retries, in the colour of *fn*; the first try is outside the loop."""
    policies, call_later, exceptions = find_policies, functools.partial, policy.exceptions
    note_on_loop, fits, check = _note_on_loop, _fits, checker_for(fn)

    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except exceptions as error:
            first = error
        if not fits(first, check, args, kwargs) or note_on_loop(first, policy):
            raise first
        return policies().retry(policy, name, call_later(fn, *args, **kwargs), first)

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        try:
            return await fn(*args, **kwargs)
        except exceptions as error:
            first = error
        if not fits(first, check, args, kwargs):
            raise first
        return await policies().retry_async(policy, name, call_later(fn, *args, **kwargs), first)

    return _of_colour(fn, sync_inner, async_inner)


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
    """Whether the call that ended with *error* fits; one that does not is never retried."""
    if check is None or not isinstance(error, TypeError):
        return True
    try:
        check(*args, **kwargs)
    except TypeError:
        return False
    return True


def _note_on_loop(error: BaseException, policy: RetryPolicy) -> bool:
    """Whether a sync function fails on a loop's thread, where no retry may wait."""
    if asyncio._get_running_loop() is None or not policy.allows(error, 1):
        return False
    try:
        error.add_note(
            "not retried: retry_task would block the event loop that runs on this thread; "
            "make the function async, or run it in a thread (background_task, async_task)"
        )
    except Exception:  # an exception class may refuse attributes; it is raised all the same
        return True
    return True


def _of_colour(
    fn: Callable[..., Any], sync_inner: object, async_inner: object
) -> types.FunctionType:
    chosen = async_inner if is_async(fn) else sync_inner
    assert isinstance(chosen, types.FunctionType)
    return chosen
