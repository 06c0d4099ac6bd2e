"""background_task, async_task, throttled_task and retry_task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine, Hashable
from typing import Any, Final, Literal, ParamSpec, TypeVar, overload

from framework._decorators.dressing import (
    attempts_of,
    awaitable_inner,
    background_inner,
    decorate,
    dress,
    retried_inner,
    throttled_inner,
)
from framework._running.retry import retry_policy
from framework._running.throttle import throttle_policy
from framework._tasks import checks, registry
from framework._tasks.decorated import (
    AwaitableDecorator,
    AwaitableFunction,
    BackgroundDecorator,
    BackgroundFunction,
    RetriedFunction,
    RetryDecorator,
    ThrottleDecorator,
)
from framework._tasks.functions import checker_for, kind_of, name_of, one_line
from framework._tasks.specs import TaskSpec

P = ParamSpec("P")
T = TypeVar("T")

_BRACKETS: Final = object()
"""Stands for the function that the form with brackets is not given; None is refused."""


# -- background_task and async_task


@overload
def background_task(fn: Callable[P, Coroutine[Any, Any, T]], /) -> BackgroundFunction[P, T]: ...


@overload
def background_task(fn: Callable[P, T], /) -> BackgroundFunction[P, T]: ...


@overload
def background_task(
    *, timeout: float | None = None, description: str = "", name: str | None = None
) -> BackgroundDecorator: ...


def background_task(
    fn: Any = _BRACKETS,
    /,
    *,
    timeout: float | None = None,
    description: str = "",
    name: str | None = None,
) -> Any:
    """Make a call return a task's id at once, and run the function in the background.

    Write it with options or without, on functions, methods, static and class methods,
    partials and callable objects, sync (run in the pool) or ``async def`` (run on the app's
    loop). It may be called from a coroutine, a sync route, a worker thread or a script inside
    the framework; the call never runs the function itself. Arguments that do not fit raise
    ``TypeError`` in the caller. Called inside itself, it submits another task.

    The undecorated function is ``.fn``; ``.options(...)`` gives a copy with other options.

    Args:
        fn: The function, where the decorator is written without brackets.
        timeout: Limit in seconds, above 0, from the start of its run, retries included;
            None for the framework's, infinity for none.
        description: A text for people.
        name: The task's name; None for the function's module and qualified name.

    Returns:
        A function of the same parameters that returns a `TaskId`.

    Raises:
        TypeError: If *fn* cannot be a task, is stacked wrongly, or a parameter is of the
            wrong type.
        ValueError: If *timeout* is out of range.
    """
    options = _task_options(timeout, description, name)
    return _apply("background_task", fn, lambda it: _task("background_task", it, options))


@overload
def async_task(fn: Callable[P, Coroutine[Any, Any, T]], /) -> AwaitableFunction[P, T]: ...


@overload
def async_task(fn: Callable[P, T], /) -> AwaitableFunction[P, T]: ...


@overload
def async_task(
    *, timeout: float | None = None, description: str = "", name: str | None = None
) -> AwaitableDecorator: ...


def async_task(
    fn: Any = _BRACKETS,
    /,
    *,
    timeout: float | None = None,
    description: str = "",
    name: str | None = None,
) -> Any:
    """Make a call awaitable for its result, and track it as a task.

    A sync function runs in the pool; cancelling the awaiter leaves it alone. An
    ``async def`` body is run in place, inside the awaiting task, in a copy of its context:
    cancelling the awaiter cancels it, and over its limit the awaiter gets
    `TaskTimeoutError` when the body lets go, everyone else at once.

    Args:
        fn: The function, where the decorator is written without brackets.
        timeout: Limit in seconds, above 0, from the start of its run, retries included;
            None for the framework's, infinity for none.
        description: A text for people.
        name: The task's name; None for the function's module and qualified name.

    Returns:
        A coroutine function of the same parameters. It raises what `TaskManager.get_result`
        raises.

    Raises:
        TypeError: If *fn* cannot be a task, is stacked wrongly, or a parameter is of the
            wrong type.
        ValueError: If *timeout* is out of range.
    """
    options = _task_options(timeout, description, name)
    return _apply("async_task", fn, lambda it: _task("async_task", it, options))


def _task_options(timeout: object, description: object, name: object) -> dict[str, Any]:
    return {
        "timeout": checks.limit("timeout", timeout),
        "description": checks.text("description", description),
        "name": None if name is None else one_line(checks.text("name", name)),
    }


def _task(layer: str, fn: Callable[..., Any], options: dict[str, Any]) -> Any:
    name = options["name"]
    spec = TaskSpec(
        fn,
        name=name_of(fn) if name is None else name,
        kind=kind_of(fn),
        check=checker_for(fn),
        description=options["description"],
        timeout=options["timeout"],
    )
    return _task_of(layer, spec)


def _task_of(layer: str, spec: TaskSpec) -> Any:
    def options(**changed: Any) -> Any:
        """Return a copy with other options; None keeps what was."""
        _require_known(spec.fn, changed, _TASK_OPTIONS)
        return _task_of(layer, spec.replace(**_checked(**changed)))

    options.__qualname__ = f"{name_of(spec.fn)}.options"
    background = layer == "background_task"
    inner = background_inner(spec) if background else awaitable_inner(spec)
    dressed = dress(
        inner,
        spec.fn,
        layer,
        returns_id=background,
        options=options,
        __asyncframe_spec__=spec,
    )
    registry.register(spec.name, dressed)
    return dressed


def _checked(
    *,
    timeout: object = None,
    description: object = None,
    name: object = None,
    delay: object = None,
    task_id: object = None,
    on_complete: object = None,
    on_error: object = None,
) -> dict[str, Any]:
    """Return the options of a task as `TaskSpec.replace` takes them."""
    checks.hook("on_complete", on_complete)
    checks.hook("on_error", on_error)
    return {
        "timeout": checks.limit("timeout", timeout),
        "description": None if description is None else checks.text("description", description),
        "name": None if name is None else one_line(checks.text("name", name)),
        "delay": None if delay is None else checks.number("delay", delay, at_least=0),
        "task_id": None if task_id is None else checks.task_id(task_id),
        "hooks": (on_complete, on_error),
    }


_TASK_OPTIONS: Final = tuple(inspect.signature(_checked).parameters)


# -- throttled_task


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
        raise _by_name("throttled_task", fn)
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
        _require_known(fn, changed, given)
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


# -- retry_task


@overload
def retry_task(fn: Callable[P, T], /) -> RetriedFunction[P, T]: ...


@overload
def retry_task(
    *,
    max_retries: int = 3,
    retry_delay: float = 1.0,
    backoff: float = 1.0,
    max_delay: float | None = None,
    jitter: float = 0.0,
    exceptions: type[BaseException] | tuple[type[BaseException], ...] = Exception,
) -> RetryDecorator: ...


def retry_task(
    fn: Any = _BRACKETS,
    /,
    *,
    max_retries: int = 3,
    retry_delay: float = 1.0,
    backoff: float = 1.0,
    max_delay: float | None = None,
    jitter: float = 0.0,
    exceptions: type[BaseException] | tuple[type[BaseException], ...] = Exception,
) -> Any:
    """Call a function again when it fails, up to ``max_retries + 1`` times in all.

    The delay before retry n (from 1 on) is
    ``min(max_delay, retry_delay * backoff**(n - 1))``, and then plus or minus *jitter* as a
    share of it, so that a jittered delay may pass *max_delay*. The last error is raised as
    it was. Cancellation, ``SystemExit``, ``KeyboardInterrupt`` and a call whose arguments
    do not fit are never retried. A delay ends at once when the framework shuts down, with
    the last error, and when the task is cancelled or over its limit. A sync function called
    on a loop's thread is not retried, since that would block the loop: its error says so in
    a note.

    Args:
        fn: The function, where the decorator is written without brackets.
        max_retries: Further attempts after the first, from 0 on.
        retry_delay: Seconds before the first retry, 0 or more.
        backoff: Factor from one delay to the next, 1 or more.
        max_delay: Longest delay in seconds, 0 or more; None for 1e9.
        jitter: Share of the delay, 0.0 to 1.0.
        exceptions: Which errors to retry: a class or a tuple of classes, not empty.

    Returns:
        A function with the same parameters and result, sync or async as before.

    Raises:
        TypeError: If *fn* cannot be decorated, or a parameter is of the wrong type.
        ValueError: If a number is out of range, or *exceptions* is empty.
    """
    given = {
        "max_retries": max_retries,
        "retry_delay": retry_delay,
        "backoff": backoff,
        "max_delay": max_delay,
        "jitter": jitter,
        "exceptions": exceptions,
    }
    retry_policy(**given)
    return _apply("retry_task", fn, lambda it: _retried(it, given))


def _retried(fn: Callable[..., Any], given: dict[str, Any]) -> Any:
    def options(**changed: Any) -> Any:
        """Return a copy with other options."""
        _require_known(fn, changed, given)
        return _retried(fn, given | changed)

    name, policy = name_of(fn), retry_policy(**given)
    options.__qualname__ = f"{name}.options"
    dressed = dress(
        retried_inner(fn, name, policy),
        fn,
        "retry_task",
        options=options,
        __asyncframe_policy__=policy,
        __asyncframe_attempts__=attempts_of(fn, name, policy),
    )
    registry.register(name, dressed)
    return dressed


# -- what they share


def _apply(layer: str, fn: object, make: Callable[[Callable[..., Any]], Any]) -> Any:
    """Decorate *fn*, or return the decorator if it is used with arguments."""
    if fn is _BRACKETS:
        return lambda it: decorate(layer, it, make)
    if isinstance(fn, (int, float, str)):
        raise _by_name(layer, fn)
    return decorate(layer, fn, make)


_MEANT: Final = {
    "background_task": ("timeout", 30),
    "async_task": ("timeout", 30),
    "throttled_task": ("rate_limit", 5),
    "retry_task": ("max_retries", 3),
}
"""What a number without a name is probably meant for, with an example."""


def _by_name(layer: str, given: object) -> TypeError:
    option, example = _MEANT[layer]
    if type(given) is int:
        example = given
    like = f"{option}={example}"
    if isinstance(given, str) and option == "timeout":
        like = f"description={checks.show(given)}"
    return TypeError(
        f"{layer} takes its options by name, as in @{layer}({like}), not {checks.show(given)}"
    )


def _require_known(fn: Callable[..., Any], changed: dict[str, Any], known: Collection[str]) -> None:
    """See that there are all the options that are to be changed.

    Raises:
        TypeError: If there are not.
    """
    unknown = sorted(changed.keys() - set(known))
    if unknown:
        raise TypeError(
            f"{name_of(fn)}.options() does not know {', '.join(unknown)}; it knows "
            f"{', '.join(known)}"
        )
