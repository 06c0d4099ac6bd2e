"""Accepting: the submission of a function by its caller, checked and handed to the intake.

Lock order: none is held here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any, Final, TypeAlias  # a task's function may take and return anything

from framework._manager.core import Core
from framework._manager.submitting.partner import Awaited
from framework._running.ledger import id_in_use
from framework._tasks.functions import is_wrapper, layer_of, require_callable
from framework._tasks.live import LiveTask
from framework._tasks.options import COPY, SUBMIT, SubmitOptions, merged
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec, require_arguments, spec_for

Call: TypeAlias = tuple[TaskSpec, tuple[Any, ...], dict[str, Any]]
"""A checked call: what to run, and its arguments."""


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
    if spec.task_id is not None:
        await _require_free(core, spec.task_id)
    if spec.needs_place or core.durable.is_needed:
        return await core.intake.submit_patiently(*call, frame, awaited)
    return core.intake.submit(*call, frame, awaited)


async def _require_free(core: Core, task_id: str) -> None:
    """Check that no other process has a task with this id, as far as the store knows.

    Raises:
        ValueError: If one has.
    """
    if await core.others.find(task_id, patient=False):
        raise id_in_use(task_id)


def require_free_now(core: Core, task_id: str) -> None:
    """Check that no task in the store has this id that is not in memory; may block.

    Raises:
        ValueError: If one has.
        StoreUnavailableError: If the store cannot be read.
    """
    large = core.ledger.features.large
    if large is not None and large.has(task_id):
        raise id_in_use(task_id)


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
    spec, bound = _spec(func, options)
    positional, named = require_arguments(args, kwargs)
    if bound:
        positional = (*bound, *positional)
    if spec.check is not None:
        spec.check(*positional, **named)
    return spec, positional, named


_ARGUMENTS: Final = "; arguments of the function go in args=(...) or kwargs={...}"
_HINTS: Final = {"submit": f", wait{_ARGUMENTS}", "submit_nowait": _ARGUMENTS}


def _spec(func: Callable[..., Any], options: SubmitOptions) -> tuple[TaskSpec, tuple[Any, ...]]:
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
