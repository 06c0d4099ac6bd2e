"""The decorator of steps."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from framework._records import checks
from framework._tasks.functions import check_key, is_async, name_of, require_callable
from framework._tasks.injection import injected
from framework.steps._bodies import DeclaredStep, refused_in_sync_tasks
from framework.steps._branches import current_branch, warn_if_lost

P = ParamSpec("P")
T = TypeVar("T")


class StepDecorator(Protocol):
    """What `step` returns for options."""

    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """Make a function a step."""
        ...


@overload
def step(fn: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def step(
    *,
    key: Callable[..., Any] | None = None,
    once: bool = False,
    timeout: float | timedelta | None = None,
) -> StepDecorator: ...


def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    key: Callable[..., Any] | None = None,
    once: bool = False,
    timeout: float | timedelta | None = None,
) -> Any:
    """Make a function a step of the tasks that call it.

    In a task with ``on_restart="resume"`` a call whose end is recorded is not run again, whatever
    happens to the process: its result comes from the record. What is not recorded may have run, so
    a step runs once and, for each time that its process is killed meanwhile, perhaps once more.
    Anywhere else, also inside another step, it is a plain call.

    Arguments and result become JSON, by the annotations, as those of tasks do. A record is found by
    the function, the arguments, and the asyncio task of the run that called it. So the arguments
    must be the same in each run: one that is made anew, such as a new UUID, is refused once the
    step is recorded. What it declares with FastAPI's ``Depends`` is opened each time that its body
    runs, and callers leave it out.

    Args:
        fn: A sync or ``async def`` function at the level of a module or class.
        key: Called with the arguments of each call; returns what the work is, such as the number of
            an order. A record is then found by that instead of the arguments, which may be made
            anew, need not become JSON, and are never a reason to refuse the call. Its repr must be
            the same in each process. None to tell calls apart by their arguments.
        once: Whether to record the start too, before the body. A step whose process was killed in
            between is then not run again, but raises `StepInterruptedError` when the task goes on,
            so that the task can look whether it has taken effect. Costs one more commit.
        timeout: Seconds or a timedelta, more than 0, after which an ``async def`` step ends with
            `TimeoutError`, which is recorded like any other error. None for no limit but that of
            the task.

    Returns:
        A function with the same parameters and result, or a decorator if there is no *fn*. In such
        a task it raises `StepMismatchError` if a call cannot be told from one whose arguments are
        made anew, and `StepTakenError` if the task runs in another process by now.

    Raises:
        TypeError: If *fn* is no function, or a generator, or a dependency needs a request; if an
            option has another type, *key* cannot be called with the arguments of *fn*, or *timeout*
            is given for a sync function, which cannot be stopped.
        ValueError: If *timeout* is out of range.
    """
    checks.flag("once", once)
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function of the call's arguments, not {checks.show(key)}")
    if timeout is not None:
        timeout = checks.seconds("timeout", timeout, above=0)

    def declare(one: Callable[..., Any]) -> Callable[..., Any]:
        return _declared(one, key, once, timeout)

    return declare if fn is None else declare(fn)


def _declared(
    fn: Callable[..., Any], key: Callable[..., Any] | None, once: bool, timeout: float | None
) -> Callable[..., Any]:
    if isinstance(fn, (staticmethod, classmethod)):
        kind = type(fn).__name__
        raise TypeError(f"@step must stand below @{kind}, not above it: {fn.__func__.__qualname__}")
    require_callable("step", fn)
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"step needs a function that returns, not the generator {fn.__qualname__}")
    check_key("key", key, fn)
    run = injected(fn)
    if is_async(fn):
        declared = DeclaredStep(name_of(fn), run if timeout is None else _limited(run, timeout))
        declared = declared._replace(key=key, once=once, starts_first=once)

        @refused_in_sync_tasks(declared)
        @functools.wraps(fn)
        async def async_inner(*args: Any, **kwargs: Any) -> Any:
            branch = current_branch()
            if branch is None:
                return await declared.fn(*args, **kwargs)
            return await branch.run.call(branch, declared, args, kwargs)

        return async_inner
    if timeout is not None:
        raise TypeError(
            f"step {name_of(fn)} is a sync function, which nothing can stop: timeout= is for async "
            "def steps; give the client that it uses a limit instead"
        )
    declared = DeclaredStep(name_of(fn), run, key, once, once)

    @functools.wraps(fn)
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        branch = current_branch()
        if branch is None:
            warn_if_lost(declared.name)
            return run(*args, **kwargs)
        return branch.run.call_sync(branch, declared, args, kwargs)

    return sync_inner


def _limited(run: Callable[..., Any], limit: float) -> Callable[..., Any]:
    @functools.wraps(run)
    async def limited(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(limit):
            return await run(*args, **kwargs)

    return limited
