"""Level "awaits": each part of a stream between a client and the app is a step of the event loop.

A real server waits there while the other side is slow. In one process nobody is slow, so an app
that sends a part of its response would always go on at once. A message without a next one is no
step: what comes after it has no order with others that they could notice.

Nor is the end of a request body that has come whole: a server has it together with the last part,
and httpx sends an empty message for it.

That goes for all clients of httpx and Starlette, also those that a test or a fixture has made: the
transports that call the app do so.

It is no place where anyio cancels. Starlette asks for a message in a scope that is cancelled, to
see whether there is one, and must get it.

Relies on: transports keeping the app under the name ``app``, and looking it up for each request.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from anyio.lowlevel import cancel_shielded_checkpoint

_TRANSPORTS = (
    ("httpx._transports.asgi", "ASGITransport", "handle_async_request"),
    ("httpx2._transports.asgi", "ASGITransport", "handle_async_request"),
    ("starlette.testclient", "_TestClientTransport", "handle_request"),
)
"""What calls an app in this process: the module, the class, and its method."""


@contextmanager
def installed() -> Iterator[None]:
    """Let clients in this process call their apps in steps inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, method in _TRANSPORTS:
            transport = getattr(sys.modules.get(module), name, None)
            if transport is not None:
                patch.setattr(transport, method, _through_steps(getattr(transport, method)))
        yield


def _through_steps(real: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(real)
    def handle(self: Any, request: Any) -> Any:
        # A copy for each request, since a transport may outlive the run.
        transport = copy.copy(self)
        transport.app = in_steps(self.app)
        return real(transport, request)

    return handle


def in_steps(app: Any) -> Any:
    """Return *app*, any ASGI app, so that others may run before each part of its streams."""

    async def app_in_steps(scope: Any, receive: Any, send: Any) -> None:
        is_followed, missing = False, _length(scope)

        async def receive_later() -> Any:
            nonlocal is_followed, missing
            if is_followed:
                await cancel_shielded_checkpoint()
            message = await receive()
            missing -= len(message.get("body", b""))
            is_followed = _is_part(message) and missing > 0
            return message

        async def send_later(message: Any) -> None:
            if _is_part(message):
                await cancel_shielded_checkpoint()
            await send(message)

        await app(scope, receive_later, send_later)

    return app_in_steps


def _length(scope: Any) -> float:
    """Return how many bytes the body of a request has; infinity if its end alone shows that."""
    headers = dict(scope.get("headers", ()))
    length = headers.get(b"content-length", b"")
    if length.isdigit():
        return int(length)
    return math.inf if length or b"transfer-encoding" in headers else 0


def _is_part(message: Any) -> bool:
    """Whether a message is a part of a stream that goes on after it."""
    return bool(message.get("more_body")) or message["type"] == "websocket.send"
