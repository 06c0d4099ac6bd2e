"""Level "awaits": each part of a stream between a client and the app is a step of the event loop.

A real server waits there while the other side is slow. In one process nobody is slow, so an app
that sends a part of its response would always go on at once. A message without a next one is no
step: what comes after it has no order with others that they could notice.

It is no place where anyio cancels. Starlette asks for a message in a scope that is cancelled, to
see whether there is one, and must get it.
"""

from __future__ import annotations

from typing import Any

from anyio.lowlevel import cancel_shielded_checkpoint


def in_steps(app: Any) -> Any:
    """Return *app*, any ASGI app, so that others may run before each part of its streams."""

    async def app_in_steps(scope: Any, receive: Any, send: Any) -> None:
        is_followed = False

        async def receive_later() -> Any:
            nonlocal is_followed
            if is_followed:
                await cancel_shielded_checkpoint()
            message = await receive()
            is_followed = _is_part(message)
            return message

        async def send_later(message: Any) -> None:
            if _is_part(message):
                await cancel_shielded_checkpoint()
            await send(message)

        await app(scope, receive_later, send_later)

    return app_in_steps


def _is_part(message: Any) -> bool:
    """Whether a message is a part of a stream that goes on after it."""
    return bool(message.get("more_body")) or message["type"] == "websocket.send"
