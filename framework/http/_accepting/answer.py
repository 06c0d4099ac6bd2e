"""The body of a 202 response: which task was accepted, and where its status is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastapi import Response
from pydantic import BaseModel, Field, GetJsonSchemaHandler, TypeAdapter, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from framework._manager.frameworks import find_core
from framework._records.ids import TaskId
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks.current import current_scope
from framework._tasks.live import current_record
from framework._tasks.task import Task
from framework.http._routes import Urls, shown_at

T = TypeVar("T")

if TYPE_CHECKING:
    # A type checker knows what "|" means between types.
    from pydantic._internal._model_construction import ModelMetaclass as _OrResponse
else:

    class _OrResponse(type(BaseModel)):
        """The class of `Accepted`, so that ``Accepted[T] | Response`` may be a return type.

        FastAPI refuses a class of responses inside a union, which it cannot describe. A route may
        return a response whatever its return type says, so that the other type says it all.
        """

        def __or__(cls, other):
            return cls if _is_response(other) else super().__or__(other)

        def __ror__(cls, other):
            return cls if _is_response(other) else super().__ror__(other)


def _is_response(other: object) -> bool:
    return isinstance(other, type) and issubclass(other, Response)


class Accepted(BaseModel, Generic[T], metaclass=_OrResponse):
    """The return type of a route that answers 202 with a task's id and the URL of its status.

    The route returns the id of a task whose result is a ``T``, or a `Task`. Its response has the
    status 202, this body, and the headers ``Location`` and ``Retry-After``. OpenAPI has all of
    them, and the type of the result::

        @app.post("/reports")
        async def create(title: str) -> Accepted[Report]:
            return make_report(title)  # a background_task

    The URLs are those of the first `task_router` in the app. Without one, the app does not start.
    See the page *Answer 202 with an id* for everything else.

    Args:
        task: The id, or the task. A route may as well return it as it is.
    """

    task_id: str = Field(description="The id of the task.")
    status: TaskStatus = Field(description="The task's status when this response was made.")
    status_url: str = Field(description="Where to get the task's status, and its result.")
    events_url: str | None = Field(
        description="Where to follow the task's events; null if the app does not offer them."
    )

    # Fields: pydantic calls this to make one of a mapping.
    def __init__(self, task: TaskId[Any] | Task | str | None = None, /, **fields: Any) -> None:
        super().__init__(**(fields if task is None else _described(task)))
        if isinstance(task, TaskId):
            # Pydantic makes a plain text of it, of which the route would not know that it is one.
            self.__dict__["task_id"] = task

    @model_validator(mode="before")
    @classmethod
    def _of_task(cls, value: Any) -> Any:  # Any: what a route has returned
        """Describe a task inside another model or a list, of a route that answers as it likes."""
        return _described(value) if isinstance(value, (str, Task)) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the result's type as well, although it is not in this body."""
        schema = handler(core_schema)
        arguments = cls.__pydantic_generic_metadata__["args"]
        if arguments:
            # The schema of a list has its items by reference.
            items = handler(TypeAdapter(list[arguments[0]]).core_schema)  # type: ignore[valid-type]
            handler.resolve_ref_schema(schema)["properties"]["result"] = {
                "anyOf": [items["items"], {"type": "null"}],
                "title": "Result",
                "description": "The result's type. It is not in this response: get it from "
                "status_url once the task is completed.",
            }
        return schema


def _described(task: object) -> dict[str, Any]:
    """Return the fields of a task; the URLs are "" and None where no request is handled.

    Raises:
        TypeError: If it is no task.
        RuntimeError: If the app of the request does not show the status of tasks.
    """
    task_id = task.task_id if isinstance(task, Task) else task
    if not isinstance(task_id, str):
        raise TypeError(
            "Accepted needs the id of a task, or a Task, as in Accepted(make_report(title)), "
            f"not a value of type {type(task_id).__qualname__}"
        )
    core = find_core()
    known = None if core is None else core.ledger.find(task_id)
    # A task has the scope of the request that has submitted it.
    scope = None if current_record.get() is not None else current_scope.get()
    if scope is None:
        return body_of(task_id, known, lambda _: ("", None))
    return body_of(task_id, known, shown_at(scope, f"{scope.get('method')} {scope.get('path')}")[1])


def body_of(task_id: str, known: TaskRecord | None, urls: Urls) -> dict[str, Any]:
    """Return the fields of a task.

    Args:
        task_id: The task.
        known: Its record; None if this process has none.
        urls: Makes its URLs.
    """
    status_url, events_url = urls(task_id)
    return {
        "task_id": task_id,
        "status": TaskStatus.PENDING if known is None else known.status,
        "status_url": status_url,
        "events_url": events_url,
    }
