"""Submitting: checks what is submitted, and hands it to the intake; the methods that do so.

Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import FrameType, MethodType
from typing import Any, Final, Literal, TypeAlias, TypeVar, Unpack, overload

from framework._manager.core import Core
from framework._manager.submitting.partner import Awaited
from framework._records import checks
from framework._records.checks import id_in_use
from framework._records.ids import ChildId, TaskId
from framework._running.waits.outages import begin_outage, end_outage
from framework._tasks.decorated import BackgroundCall
from framework._tasks.functions import is_wrapper, layer_of, require_callable
from framework._tasks.live import LiveTask, current_record
from framework._tasks.options import COPY, SUBMIT, SubmitOptions, merged
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec, require_arguments, spec_for
from framework.exceptions import FrameworkNotStartedError, StoreUnavailableError
from framework.steps._children import Submit, submit_child, submits_children

T = TypeVar("T")

Later: TypeAlias = BackgroundCall[..., T, Any] | Callable[..., Coroutine[Any, Any, T]]
"""A function whose result comes later than what a call of it returns."""

Call: TypeAlias = tuple[TaskSpec, tuple[Any, ...], dict[str, Any]]
"""A checked call: what to run, and its arguments."""

_PAUSE: Final = 0.1
"""Seconds until a child is submitted again that could not be stored."""


async def accept(
    core: Core, call: Call, frame: FrameType, awaited: Awaited = False
) -> LiveTask | Existing:
    """Submit a call with the waits that a shared store or engine needs.

    Args:
        core: The core that takes it.
        call: What `checked` has returned.
        frame: The frame of the caller.
        awaited: How the caller waits for its end.

    Returns:
        The task, or the one of another process that a unique one is to use.
    """
    spec = call[0]
    session: Any = spec.options["session"]
    if hasattr(session, "registry"):  # it stands for the one of this thread or asyncio task
        session = session()
    if hasattr(session, "run_sync"):
        # It can only be awaited: this calls back with what it is made of, and awaits for it.
        return await session.run_sync(  # type: ignore[no-any-return]
            lambda inner: core.intake.submit(spec.replace({"session": inner}), *call[1:], frame)
        )
    chosen = spec.task_id
    # A child was looked for, if it may be there.
    is_child = isinstance(chosen, ChildId)
    if chosen is not None and not is_child and await core.others.find(chosen, patient=False):
        raise id_in_use(chosen)
    if must_wait(core, spec):
        return await core.intake.submit_patiently(*call, frame, awaited)
    return core.intake.submit(*call, frame, awaited)


async def _submit_once(core: Core, call: Call, frame: FrameType, awaited: Awaited) -> str:
    """Submit a call from the code of a task that goes on, and return the id of its child."""
    spec, args, kwargs = call

    async def submit(child: ChildId) -> str:
        used, found = spec.task_id or str(child), None
        if spec.task_id is not None or child.may_be_stored:
            used, found = await core.keys.find_made(used)
        # An id of the user's own may be that of other work.
        if found is not None and (spec.task_id is None or found.name == spec.name):
            return str(found.task_id)
        named = spec
        if spec.task_id is None:
            named = spec.replace({"task_id": ChildId(used, may_be_stored=False)})
        try:
            return str((await accept(core, (named, args, kwargs), frame, awaited)).task_id)
        except FrameworkNotStartedError:
            if not core.requeued.leave_from_within():
                raise
            # It goes on in another process, and submits there. Here it is cancelled.
            await asyncio.get_running_loop().create_future()
            raise

    return await submit_child(spec, args, kwargs, _patiently(core, submit))


def _patiently(core: Core, submit: Submit) -> Submit:
    """Return what submits a child of the task that runs here as often as the store fails."""

    async def submit_patiently(child: ChildId) -> str:
        parent = current_record.get()
        assert parent is not None
        while True:
            try:
                made = await submit(child)
            except StoreUnavailableError as error:
                # It waits, as it waits for a step to be stored. What was refused is found.
                begin_outage(core.ledger, parent, error)
                child = ChildId(child, may_be_stored=True)
                await core.clock.asleep(_PAUSE)
            else:
                end_outage(core.ledger, parent)
                return made

    return submit_patiently


def must_wait(core: Core, spec: TaskSpec) -> bool:
    """Return whether a submission has to wait for a shared store or engine."""
    return core.others.exist and (spec.needs_place or bool(spec.after) or core.durable.is_needed)


def checked(
    caller: str, func: Callable[..., Any], args: object, kwargs: object, options: SubmitOptions
) -> Call:
    """Return the call that was submitted; see `TaskManager.submit` for the parameters.

    Args:
        caller: The name of the method that was called.
        func: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: The options of the submission.
    """
    if options:
        options = SUBMIT.checked(caller, options, _HINTS[caller])
    spec, bound = spec_of(func, options)
    positional, named = require_arguments(args, kwargs)
    if bound:
        positional = (*bound, *positional)
    if spec.check is not None:
        spec.check(*positional, **named)
    return spec, positional, named


_ARGUMENTS: Final = "; arguments of the function go in args=(...) or kwargs={...}"
_HINTS: Final = {"submit": f", wait{_ARGUMENTS}", "submit_nowait": _ARGUMENTS}


def spec_of(func: Callable[..., Any], options: SubmitOptions) -> tuple[TaskSpec, tuple[Any, ...]]:
    """Return the spec of *func*, and its instance as an argument if it is a bound method."""
    if layer_of(func) in ("background_task", "async_task") and not is_wrapper(func):
        # Its own spec: with a new one, its call would submit a second task.
        spec = func.__asyncframe_spec__  # type: ignore[attr-defined]  # set by the decorator
        assert isinstance(spec, TaskSpec)
        bound = (func.__self__,) if isinstance(func, MethodType) else ()
        if options:
            spec = spec.replace(options)
            spec.require_kept()
        return spec, bound
    complete = merged(COPY.defaults, options) if options else COPY.defaults
    return spec_for(require_callable("submit", func), complete), ()


def outcome(core: Core, task: LiveTask | Existing) -> Awaitable[Any]:
    """Wait for a task, perhaps one of another process, and return or raise its outcome."""
    record = task if isinstance(task, LiveTask) else core.ledger.find(task.task_id)
    return core.results.get(task.task_id if record is None else record, None)


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
        in_transaction = call[0].options["session"] is not None
        if wait and in_transaction:
            raise ValueError(
                "wait must be False with session, not True: the task starts only after the "
                "transaction has committed, which the caller could not do while it waits"
            )
        task: LiveTask | Existing
        if submits_children() and not in_transaction:
            task = Existing(TaskId(await _submit_once(core, call, frame, awaited)))
        elif core.others.exist or in_transaction:
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
            large = self._core.ledger.features.large
            if large is not None and large.has(spec.task_id):
                raise id_in_use(spec.task_id)
        task = self._core.intake.submit(spec, positional, named, sys._getframe(1))
        return task.task_id  # type: ignore[return-value]  # made a TaskId by the intake
