"""Views: tasks as HTTP shows them, with their shapes in OpenAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, model_validator

from framework._tasks.jsonsafe import jsonable
from framework._tasks.records import TaskStatus
from framework._tasks.task import Task

T = TypeVar("T")


class Problem(BaseModel):
    """The body of an error response."""

    detail: str


class TaskView(BaseModel, Generic[T]):
    """A task's state, as a response model of your routes and of `task_router`.

    A route whose return type is ``TaskView[Report]`` may return a `Task`. The result is then
    described in OpenAPI, and messages of errors are left out.
    """

    task_id: str
    name: str
    description: str
    status: TaskStatus
    created_at: datetime
    start_time: datetime | None
    end_time: datetime | None
    duration: float | None
    queue_time: float | None
    attempts: int
    progress: float | None
    progress_message: str
    result: T | None
    has_error: bool
    error_type: str | None
    error_message: str | None
    cancel_requested: bool
    still_running: bool
    reason: str
    last_error_type: str | None
    cancel: str | None
    run_again_of: str | None

    @classmethod
    def of(cls, task: Task, *, expose_errors: bool = False) -> TaskView[Any]:
        """Return the view of a task, with its result as valid JSON.

        Args:
            task: The task.
            expose_errors: Whether the view has the message of its error.
        """
        shown = task.to_dict()
        if not expose_errors:
            shown["error_message"] = None
        return TaskView[Any].model_validate(shown)

    @model_validator(mode="before")
    @classmethod
    def _of_task(cls, value: Any) -> Any:  # Any: what a route has returned
        if not isinstance(value, Task):
            return value
        return value.to_dict() | {"error_message": None, "result": jsonable(value.result)}
