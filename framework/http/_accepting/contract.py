"""What a route with ``-> Accepted[T]`` gets: its status, its headers, and their description.

FastAPI has no hook for return types. Therefore such a route is made a second time, in its place,
from its own attributes: with other public parameters, and a function around the endpoint.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import types
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

# Undocumented. A FastAPI without them cannot import this module: routes would answer 200 otherwise.
from fastapi.dependencies.utils import get_typed_return_annotation, get_typed_signature
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from framework._manager.core import Core
from framework._manager.frameworks import require_core
from framework._records.ids import PledgedId, TaskId
from framework._records.records import TaskRecord
from framework._tasks.functions import is_async
from framework._tasks.live import LiveTask
from framework._tasks.task import Task
from framework._threads.loggers import SafeLogger
from framework._threads.waiters import suspend
from framework.exceptions import TaskNotFoundError
from framework.http._accepting.answer import Accepted, body_of
from framework.http._access.access import why_nobody
from framework.http._access.routes import options_of, remake
from framework.http._responses import SHORTEST, pause_of
from framework.http._routes import (
    AT_START,
    StatusRoute,
    no_status_route,
    shown_at,
    status_route_of,
)
from framework.http.views import Problem, TaskResponse, view_of

_LOGGER = SafeLogger("asyncframe")

ACCEPTS: Final = "__asyncframe_accepts__"
"""The attribute of an accepting route's function that has the status of its response."""

_MODEL: Final = "__asyncframe_model__"
"""The attribute with what it returns as it was written, and whether it returns nothing else."""

_BEHIND: Final = "__asyncframe_endpoint__"


# -- the same request made again gets the task of the first one


MAX_LENGTH: Final = 255

IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_LENGTH,
        # What may stand in a header and be printed.
        pattern="^[ -~]+$",
        description="A random text, such as a UUID. If you repeat a request with the same key, "
        "because you have got no response, you get the task of the first request.",
    ),
]
"""The parameter of an accepting route."""


def id_for(request: Request, owner: str | None, key: str) -> str:
    """Return the id of the task of all requests that have a key in common.

    See the draft draft-ietf-httpapi-idempotency-key-header of the IETF.

    It depends on the owner, the method and the path as well, so that a key means nothing to
    others and elsewhere. Every process comes to the same id, so the stores need not know about
    keys. Nobody can guess an id without guessing the key.

    Args:
        request: One of the requests.
        owner: Whom the tasks of the request belong to; None for nobody.
        key: The value of the header: the text itself, or the text in quotes, as in the draft.
    """
    if len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    whole = json.dumps([owner, request.method, request.url.path, key])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


# -- the route


_Asked: TypeAlias = tuple[Request, Response, str | None]
"""A request for an accepting route, what collects the headers of the response, and its key."""

_ASKED: Final = ContextVar[_Asked | None]("asyncframe_asked", default=None)


async def _ask(request: Request, response: Response, key: IdempotencyKey = None) -> None:
    """Keep the request and its response for `_Accepting`; a dependency of accepting routes."""
    _ASKED.set((request, response, key))


_ASKING: Final = Depends(_ask)


def accept(route: APIRoute, status: StatusRoute | None) -> bool:
    """Set up a route if its return type has `Accepted`; return whether it was changed.

    Of a route that is set up already only the description of the body may change.

    Args:
        route: The route.
        status: Where the app shows the status of tasks, as far as it is known by now.
    """
    is_new = _ASKING not in route.dependencies  # a copy of such a route has it, too
    if is_new:
        model, others = _split(_model_of(route))
        if model is None:
            return False
        remake(route, *_accepting(route, model, others))
    return (status is not None and _describe(route, status.view)) or is_new


def _describe(route: APIRoute, view: type[TaskResponse] | None) -> bool:
    """Describe the body that a route has beside a status route; return whether that is news."""
    model, alone = getattr(route.endpoint, _MODEL)
    options = options_of(route)
    if view is not None:
        given = model.__pydantic_generic_metadata__["args"]
        takes = view.__pydantic_generic_metadata__["parameters"]
        model = view[given] if given and takes else view  # type: ignore[index]  # of any type
    if alone:
        was, options["response_model"] = options["response_model"], model
    else:
        code = next(one for one in route.responses if str(one) == "202")
        was = route.responses[code].get("model")
        options["responses"] = {**route.responses, code: {**route.responses[code], "model": model}}
    if was is model:
        return False
    remake(route, route.endpoint, options)
    return True


def _model_of(route: APIRoute) -> Any:  # Any: an annotation
    """Return what a route returns; None if that is unknown."""
    if route.response_model is not None:
        return route.response_model
    # None says that FastAPI checks nothing, and not what the route returns.
    try:
        return get_typed_return_annotation(route.endpoint)
    except Exception:  # a name that does not exist at runtime, which is fine for such a route
        return None


def _split(model: Any) -> tuple[type[Accepted[Any]] | None, tuple[Any, ...]]:
    """Return the `Accepted[T]` in an annotation, and the other types that may be returned.

    Classes of responses are not among those: a route may always return one, and it has no model.
    """
    origin = get_origin(model)
    if origin is Annotated:
        return _split(get_args(model)[0])
    if isinstance(model, type) and issubclass(model, Accepted):
        return model, ()
    if origin in (Union, types.UnionType):
        given = get_args(model)
        found = [one for one in given if _split(one)[0] is not None]
        if found:
            others = (one for one in given if one not in found and not _is_response(one))
            return _split(found[0])[0], tuple(others)
    return None, ()


def _is_response(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, Response)


def _accepting(
    route: APIRoute, model: type[Accepted[Any]], others: tuple[Any, ...]
) -> tuple[Any, dict[str, Any]]:
    """Return the endpoint and the options of a route that returns *model*, or one of *others*."""
    options, status = options_of(route), 202
    responses: dict[Any, dict[str, Any]] = {503: _FULL}
    if others:
        # What else it returns has the route's own status and model.
        if others == (type(None),) or route.response_model is None:
            options["response_model"] = None
        else:
            options["response_model"] = Union[others]  # noqa: UP007  # no types that are written
        responses[status] = {**_ACCEPTED, "model": model}
    else:
        options["response_model"] = model
        status = options["status_code"] = route.status_code or status
        responses[status] = _ACCEPTED
    options["dependencies"] = [_ASKING, *route.dependencies]
    for code, response in route.responses.items():
        known = next((one for one in responses if str(one) == str(code)), code)
        responses[known] = {**responses.get(known, {}), **response}
    options["responses"] = responses
    endpoint = getattr(route.endpoint, _BEHIND, route.endpoint)
    label = f"{' and '.join(sorted(route.methods or ()))} {route.path}"
    function = _Accepting(endpoint, model, label, int(status), alone=not others).function()
    setattr(function, ACCEPTS, int(status))
    setattr(function, _MODEL, (model, not others))
    return function, options


def _header(description: str, **schema: object) -> dict[str, Any]:
    return {"description": description, "schema": schema}


_ACCEPTED: Final[dict[str, Any]] = {
    "description": "The task was accepted.",
    "headers": {
        "Location": _header("The URL of the task's status.", type="string", format="uri-reference"),
        "Retry-After": _header(
            "How many seconds to wait before getting the status.", type="integer", minimum=0
        ),
    },
}
_FULL: Final[dict[str, Any]] = {
    "description": "Too many tasks wait: try again later.",
    "model": Problem,
    "headers": {
        "Retry-After": _header(
            "How many seconds to wait before trying again.", type="integer", minimum=1
        )
    },
}


class _Accepting:
    """Answers the requests for one route.

    Args:
        endpoint: The route's function, as it was written.
        model: What it returns.
        label: The route's methods and path, for messages.
        status: The status of its response, unless the endpoint chooses another one.
        alone: Whether it returns nothing else.
    """

    def __init__(
        self, endpoint: Any, model: type[Accepted[Any]], label: str, status: int, *, alone: bool
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._label = label
        self._status = status
        self._alone = alone
        self._told: set[str] = set()
        self._call: Callable[..., Awaitable[Any]] = (
            endpoint if is_async(endpoint) else functools.partial(run_in_threadpool, endpoint)
        )

    def function(self) -> Any:
        """Return the function that FastAPI calls in place of the endpoint."""

        async def accept(**values: Any) -> Any:
            asked = _ASKED.get()
            if asked is None:  # by other code than FastAPI
                return await self._call(**values)
            _ASKED.set(None)
            return await self._answer(*asked, values)

        functools.update_wrapper(accept, self._endpoint, updated=())
        attributes = getattr(self._endpoint, "__dict__", {})
        accept.__dict__.update(
            {key: value for key, value in attributes.items() if not key.startswith("__asyncframe")}
        )
        setattr(accept, _BEHIND, self._endpoint)
        setattr(accept, AT_START, self._require_status)
        # Older versions of FastAPI look for the names of annotations in the module of this
        # function, so they are resolved here.
        signature = get_typed_signature(self._endpoint)
        returned = get_typed_return_annotation(self._endpoint)
        accept.__signature__ = signature.replace(  # type: ignore[attr-defined]  # for inspect
            return_annotation=inspect.Signature.empty if returned is None else returned
        )
        return accept

    def _require_status(self, app: object) -> None:
        """Called when the app starts.

        Raises:
            RuntimeError: If it does not show the status of tasks.
        """
        # A request finds the routes of its own host.
        if status_route_of(app, all_hosts=True) is None:
            raise no_status_route(self._label)

    async def _answer(
        self, request: Request, response: Response, key: str | None, values: dict[str, Any]
    ) -> Any:
        """Call the endpoint, and return what the response says of its task."""
        core = require_core()
        # It raises an error if the route was added after the app had started.
        route, urls = shown_at(request.scope, self._label)
        # Before the endpoint is called: a task whose URL nobody can say would run all the same.
        urls("0")
        if key is None:
            returned = await self._called(core, values)
        else:
            returned = await self._keyed(core, request, key, route, values)
        task_id = self._id_of(returned)
        if task_id is None:
            return returned
        task = await self._task(core, task_id)
        shown_to = None if route.access is None else route.access.owner
        nobodys = task is not None and task.owner is None and shown_to is not None
        if nobodys and self._is_news(_NOBODY):
            _LOGGER.warning(_NOBODY, self._label, why_nobody(shown_to))
        body = self._model.model_construct(**body_of(task_id, task, urls))
        headers = response.headers
        headers.setdefault("location", body.status_url)
        pause = SHORTEST if isinstance(task_id, PledgedId) else 0
        if task is not None:
            pause = 0 if task.status.is_final else pause_of(Task(task, scene=core.scene))
        headers.setdefault("retry-after", str(pause))
        if route.view is not None and task is not None:
            exposes = route.access is not None and route.access.expose_errors
            shown = Task(task, scene=core.scene)
            shown = shown if route.access is None else route.access.shown(shown)
            content = view_of(shown, expose_errors=exposes, view=route.view)
            return _response(content, response, response.status_code or self._status)
        return body if self._alone else _response(body.model_dump(mode="json"), response, 202)

    async def _keyed(
        self, core: Core, request: Request, key: str, route: StatusRoute, values: dict[str, Any]
    ) -> Any:
        """Return what the endpoint returns, or the id of the task that has the request's key."""
        # The tasks of the app have one owner, whichever of its routers shows this one.
        access = route.access
        if access is None or access.owner is None:
            owner = core.owners.here()
        else:
            owner = access.owner_of(request)
        async with core.keys.hold(id_for(request, owner, key)) as held:
            if held.found is not None:
                return TaskId(held.task_id)
            returned = await self._called(core, values)
            task_id = self._id_of(returned)
            if (
                task_id not in (None, held.task_id)
                and not _is_unique(core.ledger.find(str(task_id)))
                and self._is_news(_KEYLESS)
            ):
                _LOGGER.warning(_KEYLESS, self._label)
            return returned

    async def _called(self, core: Core, values: dict[str, Any]) -> Any:
        """Return what the endpoint returns, once the task is stored safely if it must be.

        Raises:
            StoreUnavailableError: If it cannot be stored.
        """
        returned = await self._call(**values)
        if core.durable.is_needed:
            task_id = self._id_of(returned)
            task = None if task_id is None else core.ledger.find(task_id)
            if isinstance(task, LiveTask) and not task.secured:
                await suspend(core.durable.secure(task, own=True))
        return returned

    def _is_news(self, text: str) -> bool:
        """Return whether *text* was not logged yet for this route; True once."""
        known = text in self._told
        self._told.add(text)
        return not known

    def _id_of(self, returned: Any) -> str | None:
        """Return the id of the task that the endpoint returned; None for something else.

        Raises:
            TypeError: If it must not return anything else.
        """
        if isinstance(returned, TaskId) or (self._alone and isinstance(returned, str)):
            return returned
        if isinstance(returned, (Task, Accepted)):
            return returned.task_id
        if isinstance(returned, Response) or not self._alone:
            return None
        hint = ""
        if inspect.iscoroutine(returned):
            returned.close()  # said here, so that Python need not
            hint = f": write 'await {returned.__name__}(...)'"
        raise TypeError(
            f"{self._label} must return the id of a task, or a Task, as its annotation "
            f"Accepted says, not a value of type {type(returned).__qualname__}{hint}"
        )

    async def _task(self, core: Core, task_id: str) -> TaskRecord | None:
        """Return a task; None if it was accepted, and has been removed already.

        Raises:
            TaskNotFoundError: If there is no such task.
        """
        task = core.ledger.find(task_id)
        if task is None:
            # If the request has yet to commit it, nobody has it, and asking them would take as long
            # as they are slow: on SQLite until the transaction of the request lets them write.
            task = await core.others.find(task_id, patient=not isinstance(task_id, PledgedId))
        if task is None and not isinstance(task_id, TaskId):
            raise TaskNotFoundError(task_id)
        return task


_KEYLESS: Final = (
    "%s: Idempotency-Key has no effect on the task that the route returns: it must be the first "
    "one that the route submits, without a task_id of its own"
)
_NOBODY: Final = (
    "%s: the task that it has started has no owner, so its Location answers 404 to everybody: %s, "
    "or the task an owner, as in make_report.options(owner=user)(...)"
)


def _is_unique(task: TaskRecord | None) -> bool:
    """Whether there may be one such task: then another request may have submitted it."""
    return isinstance(task, LiveTask) and bool(task.spec.options["unique"])


def _response(content: dict[str, Any], collected: Response, status: int) -> Response:
    """Return a response, with the headers that were collected for the route's own one."""
    response = JSONResponse(content, status)
    response.headers.raw.extend(collected.headers.raw)
    return response
