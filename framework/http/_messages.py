"""The routes that send messages to tasks, one for each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Header, HTTPException, Path, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from framework._records import checks
from framework.exceptions import MessageRefusedError
from framework.http._access.access import Access
from framework.http._access.marker import marked
from framework.http._responses import answer
from framework.http.views import MessageSent, Problem
from framework.steps import Message

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Problem, "description": "No task has this id"},
    409: {"model": Problem, "description": "The task has ended, or the key was used before"},
    413: {"model": Problem, "description": "The message takes more than 1 MiB as JSON"},
    503: {"model": Problem, "description": "The store or the broker does not answer"},
}

_Id = Annotated[str, Path(description="The id of a task")]


def checked_messages(messages: Sequence[Message[Any]]) -> Sequence[Message[Any]]:
    """Return the kinds of messages that clients may send.

    Raises:
        TypeError: If one is no `Message`.
        ValueError: If two have one name.
    """
    names = set[str]()
    for one in messages:
        if not isinstance(one, Message):
            raise TypeError(f"messages must be framework.steps.Message, not {checks.show(one)}")
        if one.name in names:
            raise ValueError(f"messages has two of the name {one.name!r}")
        names.add(one.name)
    return messages


def add_messages(router: APIRouter, access: Access, messages: Sequence[Message[Any]]) -> None:
    """Add a route for each kind of message, and one that refuses all others.

    Args:
        router: The router of the tasks.
        access: Which tasks a request may see.
        messages: What `checked_messages` returned.
    """
    for one in messages:
        router.add_api_route(
            f"/{{task_id}}/messages/{one.name}",
            _route(one, access),
            methods=["POST"],
            status_code=202,
            name=f"send_{one.name}",
            response_model=MessageSent,
            **marked(_RESPONSES, csrf_header=access.csrf_header),
            summary=f"Send {one.name}",
        )
    router.add_api_route(
        "/{task_id}/messages/{name}",
        _refusal([one.name for one in messages], access),
        methods=["POST"],
        include_in_schema=False,
        route_class_override=UnknownMessageRoute,
        **marked({}, csrf_header=access.csrf_header),
    )


class UnknownMessageRoute(APIRoute):
    """The route that says that there is no such message, unless a later route of the app fits."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return at most a partial match, which is used if no route has a full one."""
        match, found = super().matches(scope)
        return (Match.PARTIAL, found) if match is Match.FULL else (Match.NONE, {})


def _refusal(names: Sequence[str], access: Access) -> Callable[..., Any]:
    known = f"it has {', '.join(map(repr, names))}" if names else "its task_router() was given none"

    async def refuse(task_id: _Id, name: str, request: Request) -> None:
        await access.task(request, task_id)
        raise HTTPException(404, f"This app has no message {checks.show(name)}: {known}")

    return refuse


def _route(kind: Message[Any], access: Access) -> Callable[..., Any]:
    async def send(
        task_id: _Id,
        value: Any,
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(max_length=255, description="A second request with it sends nothing"),
        ] = None,
    ) -> Response:
        await access.task(request, task_id)
        try:
            await kind.send(task_id, value, key=idempotency_key)
        except MessageRefusedError as error:
            raise HTTPException(409, f"This message is refused: {error.reason}") from None
        except ValueError as error:
            # Its type fits by now, so it is too long.
            raise HTTPException(413, str(error)) from None
        return answer({"task_id": task_id, "message": kind.name}, 202)

    send.__doc__ = f"Send the message ``{kind.name}`` to a task that waits for it, or will."
    # A type that is known only here: what a strange annotation would say as text.
    send.__annotations__["value"] = Annotated[kind.type_, Body()]
    return send
