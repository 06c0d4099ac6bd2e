"""Views: tasks as HTTP shows them, with their shapes in OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from framework._manager.inside import state_of, without_places
from framework._records.about.meta import MetaValue
from framework._records.jsonsafe import examined, jsonable
from framework._records.reasons import error_text
from framework._records.records import CancelOutcome
from framework._records.statuses import TaskStatus
from framework._records.steps import StepInfo
from framework._tasks.task import Task
from framework._threads.loggers import SafeLogger

_LOGGER = SafeLogger("asyncframe")

T = TypeVar("T")


Stamp: TypeAlias = Annotated[
    datetime,
    # As in `Task.to_dict`.
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
"""A moment in UTC."""


class Problem(BaseModel):
    """The body of an error response."""

    detail: str


class TaskSummary(BaseModel):
    """A task's state without its result, as lists show it."""

    task_id: str
    name: str
    description: str
    label: str | None = Field(description="What the task is about, if the app says it")
    meta: dict[str, MetaValue] = Field(description="Columns of the app's own")
    arguments: dict[str, Any] = Field(description="The arguments that the app shows")
    status: TaskStatus
    created_at: Stamp
    start_time: Stamp | None
    end_time: Stamp | None
    duration: float | None = Field(description="Seconds from start to end")
    queue_time: float | None = Field(description="Seconds from submission to start")
    attempts: int
    progress: float | None = Field(description="From 0.0 to 1.0, if the task reports it")
    progress_message: str
    has_error: bool
    error_type: str | None
    error_message: str | None = Field(description="Null, unless the app shows messages of errors")
    cancel_requested: bool
    still_running: bool
    reason: str = Field(description="Why the task waits or how it ended, in words")
    last_error_type: str | None
    cancel: CancelOutcome | None = Field(description="What came of the request to cancel it")
    run_again_of: str | None
    after: list[str] = Field(description="The tasks that had to end before it")


class TaskView(TaskSummary, Generic[T]):
    """A task's state and result, as a response model of your routes and of `task_router`.

    A route whose return type is ``TaskView[Report]`` may return a `Task`. OpenAPI then has the
    type of the result, and messages of errors are left out. ``TaskView`` alone is for results of
    any type: what JSON cannot express is replaced by a text in angle brackets, and so is all after
    the first 100,000 values; see `Task.to_dict`.

    A result that is no ``Report``, or that JSON cannot express as one, is left out. Then ``result``
    is None and ``result_problem`` says why. It also says if a value is shown as its ``repr``,
    since JSON has no form for it, or if two keys of a mapping are the same in JSON. The answer is
    never an error, because it has the task's status too.
    """

    result: T | None
    result_problem: str | None = Field(
        description="Why the result of a completed task is not shown, or what it lacks"
    )

    _reported: ClassVar[set[tuple[type, str]]] = set()

    @classmethod
    def of(cls, task: Task, *, expose_errors: bool = False) -> Self:
        """Return the view of a task.

        Args:
            task: The task.
            expose_errors: Whether the view has the message of its error.
        """
        return cls.model_validate(
            task, from_attributes=True, context={"expose_errors": expose_errors}
        )

    @model_validator(mode="wrap")
    @classmethod
    def _of_task(
        cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:  # Any: what a route has returned
        if not isinstance(value, Task):
            return handler(value)
        exposed = bool(info.context and info.context.get("expose_errors"))
        # Nobody knows whether the route shows it to its owner or to an administrator.
        shown = value if value.owner is None else without_places(value)
        state = state_of(shown, expose_errors=exposed)
        is_plain = cls.model_fields["result"].annotation in _PLAIN
        problem: Exception | None = None
        for result, lacking in _candidates(value.result, is_plain):
            try:
                view = handler({**state, "result": result, "result_problem": lacking})
                if not is_plain:
                    _require_json(view)
            except Exception as error:  # of the model's own validators and serializers too
                problem = problem or error
            else:
                return view
        cls._report(value.name, problem)
        said = f"its type, {type(value.result).__name__}, is not what this response shows"
        return handler({**state, "result": None, "result_problem": said})

    @classmethod
    def _report(cls, name: str, problem: Exception | None) -> None:
        """Log why a result cannot be shown, once for each function and model."""
        if (cls, name) not in TaskView._reported and len(TaskView._reported) < _MOST_REPORTED:
            TaskView._reported.add((cls, name))
            _LOGGER.warning(
                "a result of %s is not shown, since it is no result of %s: %s",
                name,
                cls.__name__,
                _in_short(problem),
            )


class TaskResponse(BaseModel):
    """A response of your own about a task, for clients that know other names and words.

    Derive a model from it, and say in `from_view` what its fields are of a task. Give it to
    `task_router` as *view*: its status route and its events show it, and so do the routes of the
    app that return `Accepted`, in their responses and in OpenAPI.
    """

    @classmethod
    def from_view(cls, view: TaskView[Any]) -> Self:
        """Return the response for a task; override it to map fields.

        As it is, a field has the value of the one in *view* with its name, or with its
        ``validation_alias``. It must not fail for a task that has not ended.

        Args:
            view: The task, with a result in the form of JSON. It has no message of an error unless
                the router exposes errors.
        """
        return cls.model_validate(view, from_attributes=True)

    @classmethod
    def of(cls, task: Task, *, expose_errors: bool = False) -> Self:
        """Return the response for a task, in a route of your own.

        Args:
            task: The task.
            expose_errors: Whether `from_view` gets the message of its error.
        """
        view: TaskView[Any] = TaskView.of(task, expose_errors=expose_errors)
        return cls.from_view(view)


def unfilled(view: type[TaskResponse]) -> list[str]:
    """Return the fields that a response needs, and that it cannot take from a `TaskView`.

    None if it has a `from_view` of its own, which may take them from anywhere.
    """
    if view.from_view.__func__ is not TaskResponse.from_view.__func__:  # type: ignore[attr-defined]
        return []
    example: TaskView[Any] = TaskView.model_construct(**dict.fromkeys(TaskView.model_fields))
    try:
        view.from_view(example)
    except ValidationError as error:
        # The others are those of values, which a task may have.
        lacking = [one["loc"] for one in error.errors() if one["type"] == "missing"]
        return [str(place[0]) for place in lacking if len(place) == 1]
    except Exception:  # of a validator, which the example's None may surprise
        return []
    return []


def _in_short(problem: Exception | None) -> str:
    """Return the first error in a model's data without the data; else type and message."""
    if not isinstance(problem, ValidationError):
        return type(problem).__name__ if problem is None else error_text(problem)
    first = problem.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']} ({problem.error_count()} errors in all)"


_PLAIN: Final = (T | None, Any, Any | None)
"""The annotations of results of any type."""

_MOST_REPORTED: Final = 1_000


def _candidates(result: Any, is_plain: bool) -> Iterator[tuple[Any, str | None]]:
    """Yield forms of a result, the best first, and what each lacks."""
    # An iterator is used up by whoever looks into it.
    if not is_plain and not isinstance(result, Iterator):
        yield result, None
    safe, lacking = examined(result)
    # The marker of a value that JSON does not have is a text, but not one that somebody returned.
    if is_plain or not (isinstance(safe, str) and safe.startswith("<")):
        yield safe, lacking


def _require_json(view: BaseModel) -> None:
    """Raise an error if a view's result cannot become valid JSON of its type."""
    shown = view.model_dump(mode="json", include={"result"}, by_alias=True, warnings="error")
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()


def view_of(
    task: Task, *, expose_errors: bool, view: type[TaskResponse] | None = None
) -> dict[str, Any]:
    """Return a response of the app, or a `TaskView` of any result, as valid JSON.

    Args:
        task: The task.
        expose_errors: Whether it may have the message of an error.
        view: The app's response; None for a `TaskView`, which is made without the model.
    """
    if view is not None:
        return view.of(task, expose_errors=expose_errors).model_dump(mode="json", by_alias=True)
    shown = state_of(task, expose_errors=expose_errors)
    result, lacking = examined(task.result)
    return {**shown, "result": result, "result_problem": lacking}


class TaskList(BaseModel):
    """A page of tasks, the newest first."""

    tasks: list[TaskSummary]
    total: int = Field(description="How many tasks match, on all pages")
    next: str | None = Field(description="What to pass as `after` for the next page")


class TaskStats(BaseModel):
    """How many tasks there are of each status."""

    submitted: int = Field(description="The sum of all others")
    pending: int
    running: int
    completed: int
    failed: int
    timeout: int
    cancelled: int
    interrupted: int


class CancelResult(BaseModel):
    """The answer to a request to cancel a task."""

    cancelled: bool = Field(description="Whether the task is cancelled, and never runs again")
    status: TaskStatus
    outcome: CancelOutcome
    why: str = Field(description="The same in words")


class StepView(BaseModel):
    """A step of a task; see `framework.StepInfo`."""

    name: str
    state: Literal["running", "waiting", "completed", "failed", "cancelled"]
    branch: list[int]
    started_at: datetime | None
    ended_at: datetime | None
    duration: float | None = Field(description="In seconds")
    error_type: str | None
    error_message: str | None = Field(description="Null unless the router exposes errors")


class StepList(BaseModel):
    """The steps of a task: those first that have ended, in that order."""

    steps: list[StepView]


def steps_view(steps: Iterable[StepInfo], *, expose_errors: bool) -> dict[str, Any]:
    """Return a `StepList` as valid JSON."""
    hidden: dict[str, Any] = {} if expose_errors else {"error_message": None}
    return {"steps": [jsonable({**one.to_dict(), **hidden}) for one in steps]}


class MessageSent(BaseModel):
    """A message that its task will receive."""

    task_id: str
    message: str = Field(description="Its name")


class TaskStarted(BaseModel):
    """A new task that repeats another."""

    task_id: str
    status: TaskStatus
    status_url: str = Field(description="Where to get the task's status, and its result")
