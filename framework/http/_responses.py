"""Answers: how the routes of tasks answer, also while they wait for a task."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from framework._manager.face.manager import TaskManager
from framework._manager.inside import core_of, seconds_left
from framework._records.about.meta import meta_filter
from framework._records.jsonsafe import is_small
from framework._tasks.task import Task
from framework.exceptions import FrameworkNotStartedError
from framework.http._streaming.hub import hub_of
from framework.http._streaming.streams import left
from framework.http.views import TaskResponse, view_of

_PRIVATE: Final = {"Cache-Control": "no-store"}
"""States change, and are nobody else's."""

SHORTEST: Final = 1
_LONGEST: Final = 60
"""Seconds after which a client is told to ask again for a task that has not ended."""


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a response that no cache keeps.

    Args:
        body: Valid JSON.
        status: Its status.
        headers: Further headers.
    """
    return JSONResponse(body, status, headers={**_PRIVATE, **(headers or {})})


def refused_query(name: str, why: str, value: object) -> RequestValidationError:
    """Return the error whose answer, 422, says what is wrong with a parameter of the query.

    Args:
        name: The parameter.
        why: What is wrong.
        value: What was given.
    """
    found = {"type": "value_error", "loc": ("query", name), "msg": why, "input": value}
    return RequestValidationError([found])


def checked_meta(meta: str | None) -> str | None:
    """Return the JSON of a meta that tasks are filtered by; None for all.

    Raises:
        RequestValidationError: If it is none.
    """
    if not meta:
        return None
    try:
        meta_filter("meta", meta)
    except (TypeError, ValueError) as error:
        raise refused_query("meta", str(error), meta) from None
    return meta


async def answer_of_task(
    task: Task, *, expose_errors: bool, view: type[TaskResponse] | None = None
) -> JSONResponse:
    """Return the response with a task's state, which is a *view*, or else a `TaskView`."""
    headers = {} if task.status.is_final else {"Retry-After": str(pause_of(task))}

    def make() -> JSONResponse:
        return answer(view_of(task, expose_errors=expose_errors, view=view), headers=headers)

    # A large result may take a tenth of a second, in which the loop would stand still.
    return make() if is_small(task.result) else await asyncio.to_thread(make)


def pause_of(task: Task) -> int:
    """Return after how many seconds to ask again: later if the end of its wait is known."""
    left = seconds_left(task)
    # It may be cancelled meanwhile.
    return SHORTEST if left is None else max(SHORTEST, min(math.ceil(left), _LONGEST))


async def ended(request: Request, manager: TaskManager, task: Task, seconds: float) -> Task:
    """Wait for a task's end, as long as the client and the server stay; return it as it is then.

    Args:
        request: The request of the client.
        manager: The manager.
        task: The task.
        seconds: How long to wait at most.
    """
    waiting = asyncio.ensure_future(manager.wait(task.task_id, seconds))
    leaving, hub = asyncio.ensure_future(left(request.receive)), hub_of(core_of(manager))
    # A server that shuts down waits for its open requests.
    hub.enter(leaving.cancel)
    try:
        if not hub.leaving:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        return await manager.get_task(task.task_id) or task
    except FrameworkNotStartedError:  # this process stops, and another one goes on with the task
        return task
    finally:
        hub.leave(leaving.cancel)
        waiting.cancel()
        leaving.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)
