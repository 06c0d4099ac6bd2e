"""Mistakes whose errors are Python's or FastAPI's own: a note says what to write instead."""

from __future__ import annotations

import traceback
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from framework._tasks.functions import layer_of


def explain(error: BaseException) -> None:
    """Add a note that says what to write, if *error* comes from a known mistake in a call.

    An ``__await__`` of an id, or attributes of decorated functions, could raise better errors.
    But templates, GraphQL servers and others await every awaitable, and would then await ids
    that they should only show; and others ask with ``hasattr`` what a function is.
    """
    if hasattr(error, "__notes__"):
        return
    if type(error) is TypeError:
        text = str(error)
        if "TaskId" in text and "await" in text:
            error.add_note(_AWAITED_ID)
    elif type(error) is AttributeError and error.name in _OF_OTHERS:
        await_it = {"background_task": "", "async_task": "await "}.get(layer_of(error.obj) or "")
        if await_it is not None:
            name = getattr(error.obj, "__name__", "")
            error.add_note(
                f"call the function itself: {await_it}{name}(...); with options: "
                f"{await_it}{name}.options(delay=3)(...)"
            )


def explain_response(error: Exception) -> None:
    """Add a note that says what to write, if a route has returned what it should have awaited.

    Args:
        error: What an app has raised for a request.
    """
    coroutine = _unawaited(error)
    if coroutine is None or not coroutine.cr_code.co_filename.startswith(_PACKAGE):
        return
    name, in_def = coroutine.__name__, ""
    if name == "get_result":
        in_def = "; in a def route, use wait_result(task_id)"
    elif coroutine.cr_code.co_name == "async_inner":
        in_def = f"; in a def route, use wait_result(submit_nowait({name}, args=(...)))"
    error.add_note(
        f"the route has returned {name}(...) without awaiting it: write 'await {name}(...)' in an "
        f"async def route{in_def}"
    )


def _unawaited(error: Exception) -> types.CoroutineType[Any, Any, Any] | None:
    """Return the coroutine that FastAPI could not turn into a response; None if it was not that."""
    found: list[object] = []
    if type(error).__name__ == "ResponseValidationError":
        errors: Callable[[], Iterable[Any]] = getattr(error, "errors", list)
        found = [one.get("input") for one in errors()]
    elif type(error) is ValueError and isinstance(error.__cause__, TypeError):
        # Its message lists only what has failed; what could not be encoded, its last frame has.
        # Where a FastAPI does that elsewhere, the error has no note.
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if frames and frames[-1].f_code.co_name == "jsonable_encoder":
            found = [frames[-1].f_locals.get("obj")]
    return next((one for one in found if isinstance(one, types.CoroutineType)), None)


_PACKAGE: Final = str(Path(__file__).parents[1])
_AWAITED_ID: Final = (
    "a background task returns its id at once, without 'await': get the result with "
    "'await get_task_manager().get_result(task_id)', or decorate it with async_task"
)
_OF_OTHERS: Final = (
    *("delay", "apply_async", "send", "send_with_options"),
    *("kiq", "defer", "enqueue", "submit"),
)
"""What submits a task of Celery, Dramatiq, Taskiq, Procrastinate, RQ or Prefect."""
