"""background_task and async_task: a call becomes a task."""

from __future__ import annotations

import sys
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from framework._decorators.dressing import BRACKETS, Dress, apply, copier
from framework._manager.cancelling import give_up
from framework._manager.face.submitting import outcome
from framework._manager.frameworks import STATE, require_core
from framework._manager.submitting.partner import Awaited
from framework._records.ids import TaskId
from framework._tasks import registry
from framework._tasks.decorated import (
    AwaitableDecorator,
    AwaitableFunction,
    BackgroundDecorator,
    BackgroundFunction,
)
from framework._tasks.functions import (
    check_key,
    check_parameters,
    checker_for,
    kind_of,
    name_of,
    positional_range,
)
from framework._tasks.injection import injected
from framework._tasks.options import BACKGROUND, COPY, TASK, BackgroundOptions, TaskOptions
from framework._tasks.specs import TaskSpec

P = ParamSpec("P")
T = TypeVar("T")


@overload
def background_task(
    fn: Callable[P, Coroutine[Any, Any, T]], /
) -> BackgroundFunction[P, T, Coroutine[object, object, T]]: ...


@overload
def background_task(fn: Callable[P, T], /) -> BackgroundFunction[P, T, T]: ...


@overload
def background_task(**options: Unpack[BackgroundOptions]) -> BackgroundDecorator: ...


@BACKGROUND.spelled_out
def background_task(fn: Any = BRACKETS, /, **options: Unpack[BackgroundOptions]) -> Any:
    """Make a call return a task id immediately, and run the function in the background.

    You can use it with or without options, on functions, methods, static and class methods,
    partials and callable objects. A sync function runs on a thread of the pool, an
    ``async def`` function on the app's event loop. You can call it in coroutines, sync routes,
    threads and scripts while a framework runs. If the arguments do not match the function, the
    call raises ``TypeError``. If a task calls its own function, that submits another task.

    The function may declare dependencies with FastAPI's ``Depends``. Callers leave them out, and
    each attempt of the task opens and closes its own.

    ``.fn`` is the undecorated function, and ``.options(...)`` returns a copy with other options.

    Args:
        fn: The function, if you use the decorator without parentheses.
        **options: See `BackgroundOptions`.

    Returns:
        A function with the same parameters that returns a `TaskId`.

    Raises:
        TypeError: If *fn* cannot be a task, the order of decorators is wrong, a parameter
            has the wrong type, or a dependency needs a request.
        ValueError: If a value is out of range.
    """
    given = BACKGROUND.checked("background_task", options)
    return apply("background_task", fn, lambda it: _task("background_task", it, given))


@overload
def async_task(
    fn: Callable[P, Coroutine[Any, Any, T]], /
) -> AwaitableFunction[P, T, Coroutine[object, object, T]]: ...


@overload
def async_task(fn: Callable[P, T], /) -> AwaitableFunction[P, T, T]: ...


@overload
def async_task(**options: Unpack[TaskOptions]) -> AwaitableDecorator: ...


@TASK.spelled_out
def async_task(fn: Any = BRACKETS, /, **options: Unpack[TaskOptions]) -> Any:
    """Run a function as a task whose result you await.

    A sync function runs on a thread of the pool. Cancelling the awaiting coroutine does not
    affect it. An ``async def`` function runs inside the awaiting coroutine, in a copy of its
    context. Cancelling the awaiting coroutine cancels it. At its time limit, the awaiting
    coroutine gets `TaskTimeoutError` when the function ends, and all other waiters get it
    immediately.

    Args:
        fn: The function, if you use the decorator without parentheses.
        **options: See `TaskOptions`.

    Returns:
        A coroutine function with the same parameters. It raises what `TaskManager.get_result`
        raises.

    Raises:
        TypeError: If *fn* cannot be a task, the order of decorators is wrong, a parameter
            has the wrong type, or a dependency needs a request.
        ValueError: If a value is out of range.
    """
    given = TASK.checked("async_task", options)
    return apply("async_task", fn, lambda it: _task("async_task", it, given))


def _task(layer: str, fn: Callable[..., Any], given: TaskOptions) -> Any:
    # Found out once, since it takes long and requests may make a copy each.
    run, name = injected(fn), name_of(fn)
    arity = positional_range(run)
    inner = background_inner if layer == "background_task" else awaitable_inner
    dressing = Dress(run, layer, returns_id=inner is background_inner, undecorated=fn)

    def copy(spec: TaskSpec, changed: Mapping[str, object]) -> Any:
        """Return the function with the options of *spec*, and those of *changed* in their place.

        It does not refer to itself: it is freed at once and not by the garbage collector.

        Raises:
            TypeError: If the function that makes a key of the arguments cannot take them.
            ValueError: If it is to be requeued, and is awaited or cannot be found by its name.
        """
        for option in ("unique", "key", "label", "meta"):
            check_key(option, changed.get(option), spec.fn)
        check_parameters("show_arguments", changed.get("show_arguments"), spec.fn)
        spec = spec.replace(changed)
        if spec.options["session"] is not None and inner is awaitable_inner:
            raise ValueError(
                "session is not for an async_task that is awaited: it starts only after the "
                "transaction has committed; use await manager.submit(function, args, "
                "session=session)"
            )
        if spec.options["on_restart"] != "interrupt":
            check_requeued(spec, awaited=inner is awaitable_inner)
        made = dressing.put_on(
            inner(spec, arity),
            options=copier(COPY, name, partial(copy, spec)),
            __asyncframe_spec__=spec,
        )
        registry.register(spec.name, made)
        return made

    return copy(TaskSpec(run, name=name, kind=kind_of(fn), check=checker_for(run)), given)


def check_requeued(spec: TaskSpec, *, awaited: bool) -> None:
    """Refuse ``on_restart="requeue"``, or ``"resume"``, where no other process could run it."""
    given = spec.options["on_restart"]
    if awaited:
        raise ValueError(
            f"on_restart must be 'interrupt' for an async_task, not {given!r}: whoever awaits "
            "it is gone after a restart; use background_task"
        )
    spec.require_kept()
    if "<" in spec.name:  # <lambda> or <locals>
        raise ValueError(
            f"on_restart must be 'interrupt' for {spec.name}, not {given!r}: another process "
            "cannot find it by this name; define it in a module, or give it a name=... of its own"
        )


def background_inner(spec: TaskSpec, arity: tuple[int, int]) -> Callable[..., Any]:
    """Return a function whose call takes a task in and returns its id."""
    # The inner function finds no name of this module: its `Dress` gives it other globals. A name
    # of its closure is also read faster than a global, at each call.
    current, core, caller, check = STATE, require_core, sys._getframe, spec.check or _no_check
    (least, most), count = arity, len

    def sync_inner(*args: Any, **kwargs: Any) -> TaskId[Any]:
        if kwargs or not least <= count(args) <= most:
            check(*args, **kwargs)
        task = (current.sole or core()).intake.submit(spec, args, kwargs, caller(1))
        return task.task_id  # type: ignore[return-value]  # made a TaskId by the intake

    return sync_inner


def placed_inner(spec: TaskSpec, arity: tuple[int, int]) -> Callable[..., Any]:
    """Return what `awaitable_inner` does, for calls that may have to wait to be submitted."""
    current, core, caller, check = STATE, require_core, sys._getframe, spec.check or _no_check
    (least, most), count, wait, withdraw = arity, len, outcome, give_up
    how: Awaited = "called"
    # Others may await a unique task, and a thread cannot be stopped.
    shared, cancelled = bool(spec.options["unique"]) or spec.kind == "thread", CancelledError

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not least <= count(args) <= most:
            check(*args, **kwargs)
        here = current.sole or core()
        task = await here.intake.submit_patiently(spec, args, kwargs, caller(1), awaited=how)
        try:
            return await wait(here, task)
        except cancelled:
            if not shared:
                withdraw(here, task)
            raise

    return async_inner


def awaitable_inner(spec: TaskSpec, arity: tuple[int, int]) -> Callable[..., Any]:
    """Return a coroutine function whose await gives the task's result."""
    if spec.needs_place or spec.after:
        return placed_inner(spec, arity)
    # The inner function finds no name of this module: its `Dress` gives it other globals. A name
    # of its closure is also read faster than a global, at each call.
    current, core, caller, check = STATE, require_core, sys._getframe, spec.check or _no_check
    (least, most), count = arity, len
    in_place = spec.kind == "loop" and not spec.delay
    how: Awaited = "called"

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not least <= count(args) <= most:
            check(*args, **kwargs)
        here = current.sole or core()
        intake = here.intake
        if in_place and intake.in_place:
            drive = intake.start_in_place(spec, args, kwargs, caller(1))
            if drive.suspended:
                return await drive
            return drive.value if drive.raised is None else drive.outcome()
        task = intake.submit(spec, args, kwargs, caller(1), how)
        return await here.results.get(task, None)  # type: ignore[arg-type]  # no unique task

    return async_inner


def _no_check(*_: Any, **__: Any) -> None:
    """Accept any arguments, of a builtin that does not tell its signature."""
