"""Submitting: the methods of a task manager that accept new tasks."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, Unpack, overload

from framework._manager.core import Core
from framework._manager.face.accepting import accept, checked, require_free_now
from framework._manager.submitting.partner import Awaited
from framework._records import checks
from framework._records.ids import TaskId
from framework._tasks.decorated import BackgroundCall
from framework._tasks.live import LiveTask
from framework._tasks.options import SUBMIT, SubmitOptions
from framework._tasks.places import Existing

T = TypeVar("T")

Later: TypeAlias = BackgroundCall[..., T, Any] | Callable[..., Coroutine[Any, Any, T]]
"""A function whose result comes later than what a call of it returns."""


def outcome(core: Core, task: LiveTask | Existing) -> Awaitable[Any]:
    """Wait for a task, perhaps one of another process, and return or raise its outcome."""
    return core.results.get(task if isinstance(task, LiveTask) else task.task_id, None)


class Submitting:
    """The part of a `TaskManager` that accepts new tasks."""

    def __init__(self, core: Any) -> None:  # Any: a core.Core, which is not public
        self._core: Core = core

    @overload
    async def submit(
        self,
        func: Later[T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: Later[T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[True],
        **options: Unpack[SubmitOptions],
    ) -> T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: Literal[True],
        **options: Unpack[SubmitOptions],
    ) -> T: ...

    @overload
    async def submit(
        self,
        func: Later[T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T] | T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T] | T: ...

    @SUBMIT.spelled_out
    async def submit(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit ``func(*args, **kwargs)`` as a task and return its id.

        The task's own keyword arguments go into *kwargs*, so they cannot clash with these
        options. If you omit an option, the value from the function's decorator applies.

        Args:
            func: A function: sync (runs on a thread of the pool) or async (runs on the app's
                event loop).
            args: Positional arguments, a tuple or list; None for none. They are not copied.
            kwargs: Keyword arguments; None for none.
            wait: Whether to wait and return the result instead of the id.
            **options: See `SubmitOptions`.

        Returns:
            The id; with *wait* the result. Cancelling the wait does not affect the task.

        Raises:
            TypeError: If *func* cannot be a task, the arguments do not match it, or a keyword
                is not an option.
            ValueError: If a number is out of range, or *task_id* is in use.
            QueueFullError: If the queue is full.
            FrameworkNotStartedError: If the framework is stopping or has stopped.
            BaseException: With *wait*, what `get_result` raises.
        """
        checks.flag("wait", wait)
        core, frame = self._core, sys._getframe(1)
        awaited: Awaited = "submitted" if wait else False
        call = checked("submit", func, args, kwargs, options)
        if core.others.exist:
            task = await accept(core, call, frame, awaited)
        else:
            task = core.intake.submit(*call, frame, awaited)
        return await outcome(core, task) if wait else task.task_id

    @overload
    def submit_nowait(
        self,
        func: Later[T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @overload
    def submit_nowait(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[T]: ...

    @SUBMIT.spelled_out
    def submit_nowait(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskId[Any]:
        """Submit a task like `submit`, from any thread and without an event loop.

        With *task_id*, and a SQL store of more than 10,000 finished tasks, it asks the database
        whether the id is in use, and raises `StoreUnavailableError` if that does not answer.
        """
        spec, positional, named = checked("submit_nowait", func, args, kwargs, options)
        if spec.task_id is not None:
            require_free_now(self._core, spec.task_id)
        task = self._core.intake.submit(spec, positional, named, sys._getframe(1))
        return TaskId(task.task_id)
