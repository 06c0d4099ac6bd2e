"""The health of a process that has no server of its own: answers for probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from framework.cli._mistakes import CommandError

_PATIENCE: Final = 5.0
"""Seconds within which a request must have come."""


@asynccontextmanager
async def answering(port: int | None, why_not: Callable[[], str]) -> AsyncIterator[None]:
    """Answer probes at ``/health/live`` and ``/health/ready`` as long as the loop turns.

    Args:
        port: The port, on all addresses of this machine; None to answer none.
        why_not: Returns why the process is not ready, or "". It is sent as it is.

    Raises:
        CommandError: If the port cannot be used.
    """
    if port is None:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(request, why_not))
            await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # it was no request, or nobody waits any more
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, None, port)
    except OSError as error:
        raise CommandError(f"the port {port} for health checks cannot be used: {error}") from None
    try:
        yield
    finally:
        server.close()


def _response(request: bytes, why_not: Callable[[], str]) -> bytes:
    """Return the answer to a request."""
    method, path = ([*request.split(b" ", 2), b"", b""])[:2]
    status, text = "404 Not Found", "not found"
    if method in {b"GET", b"HEAD"} and path == b"/health/live":
        status, text = "200 OK", "ok"
    elif method in {b"GET", b"HEAD"} and path == b"/health/ready":
        why = why_not()
        status, text = ("503 Service Unavailable", why) if why else ("200 OK", "ok")
    body = b"" if method == b"HEAD" else text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text.encode())}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body
