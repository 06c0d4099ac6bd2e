"""Mistakes whose errors are Python's or FastAPI's own: a note says what to write instead."""

from __future__ import annotations

from typing import Final

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
    elif type(error) is AttributeError and error.name in _OF_CELERY:
        await_it = {"background_task": "", "async_task": "await "}.get(layer_of(error.obj) or "")
        if await_it is not None:
            name = getattr(error.obj, "__name__", "")
            error.add_note(
                f"call the function itself: {await_it}{name}(...); with options: "
                f"{await_it}{name}.options(delay=3)(...)"
            )


_AWAITED_ID: Final = (
    "a background task returns its id at once, without 'await': get the result with "
    "'await get_task_manager().get_result(task_id)', or decorate it with async_task"
)
_OF_CELERY: Final = ("delay", "apply_async")
"""What calls a task of Celery."""
