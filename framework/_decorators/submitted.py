"""background_task and async_task: a call becomes a task."""

from __future__ import annotations

import sys
import types
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Mapping
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
from framework._tasks.functions import check_key, checker_for, kind_of, name_of, positional_range
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
    run = injected(fn)
    spec = TaskSpec(run, name=name_of(fn), kind=kind_of(fn), check=checker_for(run))
    dressing = Dress(run, layer, returns_id=layer == "background_task", undecorated=fn)
    return _Maker(layer, spec.name, positional_range(run), dressing).copy(spec, given)


class _Maker:
    """Makes a decorated function, and its copies with other options.

    What takes long is found out once, since requests may make a copy each. A copy does not
    refer to itself: it is freed at once and not by the garbage collector.

    Args:
        layer: The decorator.
        name: The name of the function, for messages.
        arity: Its `positional_range`.
        dressing: What makes the result look like it.
    """

    def __init__(self, layer: str, name: str, arity: tuple[int, int], dressing: Dress) -> None:
        self._inner = background_inner if layer == "background_task" else awaitable_inner
        self._name = name
        self._arity = arity
        self._dressing = dressing

    def copy(self, spec: TaskSpec, changed: Mapping[str, object]) -> Any:
        """Return the function with the options of *spec*, and those of *changed* in their place.

        Raises:
            TypeError: If the function that makes a key of the arguments cannot take them.
            ValueError: As `make` does.
        """
        for option in ("unique", "key"):
            check_key(option, changed.get(option), spec.fn)
        return self.make(spec.replace(changed))

    def make(self, spec: TaskSpec) -> Any:
        """Return the function with the options of *spec*.

        Raises:
            ValueError: If it is to be requeued, and is awaited or cannot be found by its name.
        """
        if spec.requeue:
            check_requeued(spec, awaited=self._inner is awaitable_inner)
        made = self._dressing.put_on(
            self._inner(spec, self._arity),
            options=copier(COPY, self._name, lambda changed: self.copy(spec, changed)),
            __asyncframe_spec__=spec,
        )
        registry.register(spec.name, made)
        return made


def check_requeued(spec: TaskSpec, *, awaited: bool) -> None:
    """Refuse ``on_restart="requeue"`` for a function that no other process could run."""
    if awaited:
        raise ValueError(
            "on_restart must be 'interrupt' for an async_task, not 'requeue': whoever awaits "
            "it is gone after a restart; use background_task"
        )
    spec.require_kept()
    if "<" in spec.name:  # <lambda> or <locals>
        raise ValueError(
            f"on_restart must be 'interrupt' for {spec.name}, not 'requeue': another process "
            "cannot find it by this name; define it in a module, or give it a name=... of its own"
        )


def background_inner(spec: TaskSpec, arity: tuple[int, int]) -> types.FunctionType:
    """Return a function whose call takes a task in and returns its id."""
    # The inner function finds no name of this module: `dress` gives it other globals. A name
    # of its closure is also read faster than a global, at each call.
    current, core, caller, check = STATE, require_core, sys._getframe, spec.check or _no_check
    (least, most), count = arity, len

    def sync_inner(*args: Any, **kwargs: Any) -> TaskId[Any]:
        if kwargs or not least <= count(args) <= most:
            check(*args, **kwargs)
        task = (current.sole or core()).intake.submit(spec, args, kwargs, caller(1))
        return task.task_id  # type: ignore[return-value]  # made a TaskId by the intake

    assert isinstance(sync_inner, types.FunctionType)
    return sync_inner


def placed_inner(spec: TaskSpec, arity: tuple[int, int]) -> types.FunctionType:
    """Return what `awaitable_inner` does, for a function that is unique or limited."""
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

    assert isinstance(async_inner, types.FunctionType)
    return async_inner


def awaitable_inner(spec: TaskSpec, arity: tuple[int, int]) -> types.FunctionType:
    """Return a coroutine function whose await gives the task's result."""
    if spec.needs_place:
        return placed_inner(spec, arity)
    # The inner function finds no name of this module: `dress` gives it other globals. A name
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

    assert isinstance(async_inner, types.FunctionType)
    return async_inner


def _no_check(*_: Any, **__: Any) -> None:
    """Accept any arguments, of a builtin that does not tell its signature."""
