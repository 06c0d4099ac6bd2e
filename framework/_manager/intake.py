"""Submitting a function that was never decorated, or one that was."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any  # a task's function may take and return anything

from framework._manager.core import Core
from framework._tasks import checks
from framework._tasks.functions import is_wrapper, layer_of, require_callable
from framework._tasks.live import LiveTask
from framework._tasks.specs import TaskSpec, merged, require_arguments, spec_for
from framework._tasks.task import Task


def take_in(
    core: Core,
    frame: FrameType,
    func: Callable[..., Any],
    args: object,
    kwargs: object,
    timeout: float | None,
    description: str | None,
    task_id: str | None,
    on_complete: Callable[[Task], object] | None,
    on_error: Callable[[Task], object] | None,
    delay: float,
    begin: bool = True,
) -> tuple[LiveTask, float]:
    """Check a submission and take it in; see `TaskManager.submit` for the parameters.

    Returns:
        The task, and the seconds that it is delayed; without *begin*, `Core.begin` is still
        to be called.
    """
    spec, bound = _spec(func)
    if timeout is not None or description is not None:
        spec = spec.replace(
            timeout=checks.limit("timeout", timeout),
            description=None if description is None else checks.text("description", description),
        )
    positional, named = require_arguments(args, kwargs)
    positional = (*bound, *positional)
    if spec.check is not None:
        spec.check(*positional, **named)
    if task_id is not None:
        checks.task_id(task_id)
    checks.hook("on_complete", on_complete)
    checks.hook("on_error", on_error)
    pause = checks.number("delay", delay, at_least=0) or spec.delay
    task = core.accept_with(
        spec,
        positional,
        named,
        frame,
        task_id=spec.task_id if task_id is None else task_id,
        hooks=merged((on_complete, on_error), spec.hooks),
        delay=pause,
        begin=begin,
    )
    return task, pause


def _spec(func: Callable[..., Any]) -> tuple[TaskSpec, tuple[Any, ...]]:
    """Return what to run, and the instance to run it on, if *func* is a method of one."""
    if layer_of(func) in ("background_task", "async_task") and not is_wrapper(func):
        # Submitted as what it is, so that one call makes one task and not two.
        spec = func.__asyncframe_spec__  # type: ignore[attr-defined]  # set by the decorator
        assert isinstance(spec, TaskSpec)
        return spec, (func.__self__,) if isinstance(func, MethodType) else ()
    return spec_for(require_callable("submit", func)), ()
