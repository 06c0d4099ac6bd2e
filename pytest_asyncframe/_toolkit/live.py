"""A client of a live server that behaves like the clients without one.

Its URLs keep the host name of the other clients, and an exception in a route or in the
lifespan is raised in the test.

Relies on: uvicorn calling the app once for its lifespan, and once for each request.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pytest_asyncframe._toolkit.pristine import async_classes, sync_classes

_HEADER = b"x-asyncframe-request"
"""Tells which request an exception belongs to; the app does not see it."""

Send: TypeAlias = Callable[[Any], Awaitable[None]]


class WatchedApp:
    """An ASGI app whose exceptions are kept for the clients that cause them.

    Args:
        app: The app.
        watch: Whether those of routes are kept; if not, the server answers with status 500.
        scope: Entries for the scope of each request.
    """

    def __init__(self, app: Any, scope: Mapping[str, Any], *, watch: bool) -> None:
        self._app = app
        self._scope = scope
        self._watch = watch
        self._numbers = itertools.count(1)
        self._errors: dict[bytes, BaseException] = {}
        self._failure: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Run the app."""
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            except BaseException as error:  # raised again, and in the test by `raise_failure`
                self._failure = error
                raise
            return
        number, scope = _without_number({**scope, **self._scope})
        if number is None or not self._watch:
            await self._app(scope, receive, send)
        else:
            await self._run_watched(number, scope, receive, send)

    async def _run_watched(self, number: bytes, scope: Any, receive: Any, send: Send) -> None:
        response = _Response(send)
        try:
            await self._app(scope, receive, response.send)
        except Exception as error:  # whatever a route may raise
            if response.sent:
                raise
            # The client is answered after this, and then raises it in the test.
            self._errors[number] = error
            await response.refuse()
        else:
            await response.flush()

    def raise_failure(self) -> None:
        """Raise what its lifespan has raised, once, if it has."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def next_number(self) -> bytes:
        """Return the number of the next request."""
        return b"%d" % next(self._numbers)

    def raise_error_of(self, number: bytes) -> None:
        """Raise what the app has raised for a request, if it has."""
        error = self._errors.pop(number, None)
        if error is not None:
            raise error


def _without_number(scope: Any) -> tuple[bytes | None, Any]:
    headers = [pair for pair in scope.get("headers", ()) if pair[0] != _HEADER]
    number = next((value for name, value in scope.get("headers", ()) if name == _HEADER), None)
    return number, {**scope, "headers": headers}


class _Response:
    """Passes on a response, but keeps back one that reports an error of the server.

    Starlette answers with status 500 first, and raises the exception after that.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kept: list[Any] = []
        self.sent = False

    async def send(self, message: Any) -> None:
        if not self.sent and (self._kept or message.get("status", 0) >= 500):
            self._kept.append(message)
            return
        self.sent = True
        await self._send(message)

    async def flush(self) -> None:
        """Pass on what was kept back."""
        for message in self._kept:
            await self._send(message)

    async def refuse(self) -> None:
        """Answer in place of what was kept back."""
        headers = [(b"content-length", b"0")]
        await self._send({"type": "http.response.start", "status": 500, "headers": headers})
        await self._send({"type": "http.response.body", "body": b""})


def async_client(url: str, app: WatchedApp, options: dict[str, Any]) -> Any:
    """Return an ``httpx.AsyncClient`` whose requests all go to a server.

    Args:
        url: The server's.
        app: What it serves.
        options: Options of the client.
    """
    client, transport = async_classes()
    readdressed = _Addresses(url, app, transport.__module__)

    class Transport(transport):  # type: ignore[misc, valid-type]  # known at run time only
        async def handle_async_request(self, request: Any) -> Any:
            number, sent = readdressed(request)
            response = await super().handle_async_request(sent)
            try:
                app.raise_error_of(number)
            except BaseException:  # raised again: the test gets no response
                await response.aclose()
                raise
            return response

    return client(transport=Transport(), **options)


def sync_client(test_client: Any, url: str, app: WatchedApp, options: dict[str, Any]) -> Any:
    """Return a client like Starlette's ``TestClient`` whose requests all go to a server.

    Args:
        test_client: The class ``TestClient``.
        url: The server's.
        app: What it serves.
        options: Options of the client.
    """
    client, transport = sync_classes(test_client)
    readdressed = _Addresses(url, app, transport.__module__)

    class Transport(transport):  # type: ignore[misc, valid-type]  # known at run time only
        def handle_request(self, request: Any) -> Any:
            number, sent = readdressed(request)
            response = super().handle_request(sent)
            try:
                app.raise_error_of(number)
            except BaseException:  # raised again: the test gets no response
                response.close()
                raise
            return response

    headers = {"user-agent": "testclient", **dict(options.pop("headers", None) or {})}
    return client(
        transport=Transport(), **{"follow_redirects": True, "headers": headers, **options}
    )


class _Addresses:
    """Addresses requests to a server, whatever their URL says.

    Args:
        url: The server's.
        app: What it serves.
        module: The name of a module of the package that the requests are of.
    """

    def __init__(self, url: str, app: WatchedApp, module: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._app = app
        self._request = importlib.import_module(module.partition(".")[0]).Request

    def __call__(self, request: Any) -> tuple[bytes, Any]:
        """Return the number of a request, and the request to send."""
        number = self._app.next_number()
        # The header Host has been set already, from the URL of the request.
        url = request.url.copy_with(scheme="http", host=self._host, port=self._port)
        headers = [*request.headers.raw, (_HEADER, number)]
        sent = self._request(
            request.method,
            url,
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return number, sent
