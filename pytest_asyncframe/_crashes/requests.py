"""Clients of apps that a process serves which may die."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias  # Any: of httpx, whichever of its two packages it is

from pytest_asyncframe._toolkit.pristine import blocking_class, client_classes, httpx_name

Answer: TypeAlias = tuple[int, Any, bytes]
"""A status, headers and a body."""

Ask: TypeAlias = Callable[[Any], Future[Answer]]
"""Asks for the answer to a request whose body was read."""


async def answer(
    app: Any, state: dict[str, Any], request: Any, raises: bool, point: Callable[[str], object]
) -> Answer:
    """Let an app answer a request whose body was read; there is a point before the answer.

    Args:
        app: The app.
        state: The state that its lifespan has set.
        request: The request of httpx.
        raises: Whether an exception in a route is raised here.
        point: Called with what happens at a point.
    """
    scopes: list[Any] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        scopes.append({**scope, "state": state.copy()})
        await app(scopes[-1], receive, send)

    httpx, (_, asgi_transport) = importlib.import_module(httpx_name()), client_classes()
    transport = asgi_transport(watched, raise_app_exceptions=raises)
    asked = httpx.Request(
        request.method, str(request.url), headers=request.headers.raw, content=request.content
    )
    response = await transport.handle_async_request(asked)
    # As it is sent: who asks decodes it, as the headers say.
    content = b"".join([chunk async for chunk in response.aiter_raw()])
    # The path as it was declared, which is the same whatever the test asks for.
    path = getattr(scopes[0].get("route"), "path", "") if scopes else ""
    point(f"before the answer to {request.method} {path}".rstrip())
    return response.status_code, response.headers.raw, content


def async_client(ask: Ask, died: type[Exception], options: dict[str, Any]) -> Any:
    """Return an ``httpx.AsyncClient`` whose requests are answered elsewhere.

    Args:
        ask: Asks for the answer to a request.
        died: What an answer raises if there is none, since the process has died.
        options: Options of the client.
    """
    client, _ = client_classes()
    httpx = importlib.import_module(httpx_name())

    class Transport(httpx.AsyncBaseTransport):  # type: ignore[misc, name-defined]  # at run time
        async def handle_async_request(self, request: Any) -> Any:
            await request.aread()
            try:
                answer = await asyncio.wrap_future(ask(request))
            except died as error:
                raise httpx.RemoteProtocolError(_DIED, request=request) from error
            return _response(httpx, request, answer)

    return client(transport=Transport(), **options)


def sync_client(ask: Ask, died: type[Exception], options: dict[str, Any]) -> Any:
    """Return an ``httpx.Client`` of the same kind, with the defaults of ``TestClient``.

    Args:
        ask: As there.
        died: As there.
        options: As there.
    """
    httpx = importlib.import_module(httpx_name())

    class Transport(httpx.BaseTransport):  # type: ignore[misc, name-defined]  # at run time
        def handle_request(self, request: Any) -> Any:
            request.read()
            try:
                answer = ask(request).result()
            except died as error:
                raise httpx.RemoteProtocolError(_DIED, request=request) from error
            return _response(httpx, request, answer)

    headers = {"user-agent": "testclient", **dict(options.pop("headers", None) or {})}
    defaults = {"follow_redirects": True, "headers": headers}
    return blocking_class()(transport=Transport(), **{**defaults, **options})


def _response(httpx: Any, request: Any, answer: Answer) -> Any:
    status, headers, content = answer
    return httpx.Response(status, headers=headers, content=content, request=request)


_DIED = "Server disconnected without sending a response."
"""What httpx says of a server that has died."""
