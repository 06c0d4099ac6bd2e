"""Streams: a task's states as server-sent events, and waits that end when the server leaves."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from framework._manager.core import Core
from framework._manager.frameworks import require_core
from framework._tasks.task import Task
from framework._threads.loggers import SafeLogger
from framework.http._access.access import Access
from framework.http._streaming.frames import BEAT
from framework.http._streaming.hub import PATIENCE, EndOfStreamError, Seat, hub_of
from framework.http.views import Problem, TaskView

_LOGGER = SafeLogger("asyncframe")

_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    # nginx would collect the events, and send many at once.
    "X-Accel-Buffering": "no",
}

_RETRY: Final = 1_000
"""Milliseconds after which a client connects again, at least; spread, since after a restart
all clients of a server do so."""

_DESCRIPTION: Final = """\
The states of the task as server-sent events. The data of each event is what `GET /tasks/{id}`
answers. The first event has the state of now. Then comes a `progress` event when only the progress
has changed, and else a `status` event. The stream ends after a final status.

Of a task that has steps, a `steps` event has what `GET /tasks/{id}/steps` answers: one comes after
the first event, and then when a step begins or ends. Of a task that runs in another process they
are looked at once a second.

A client that comes back with the header `Last-Event-ID`, as an `EventSource` does, gets the state
only if it has changed, and 204 if it has seen the final one: there is nothing more to read."""


class EventStreamResponse(Response):
    """Streams the states of a task.

    Args:
        core: The core that has the task.
        task: The task.
        seen: The id of the last state that the client has; "" for none.
        access: What the client may see.
    """

    media_type: str | None = "text/event-stream"

    def __init__(self, core: Core, task: Task, seen: str, access: Access) -> None:
        super().__init__(None, headers=_HEADERS)
        del self.headers["content-length"]
        self._core = core
        self._task = task
        self._seen = seen
        self._shown = (access.expose_errors, access.owner is not None, access.view)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send states until the last one, the end of the server, or the end of the client."""
        hub = hub_of(self._core)
        # That of the connection in a uvicorn; None in other servers.
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        keep_little(transport)
        seat = hub.listen(self._task)
        seat.seen = self._seen
        watching = asyncio.ensure_future(left(receive))
        watching.add_done_callback(lambda _: seat.drop())
        sending, was_cancelled = asyncio.current_task(), False

        def cut() -> None:
            """Cut the connection of a client that does not read."""
            nonlocal was_cancelled
            _LOGGER.info(
                "the stream of task %s ends: its client has read nothing for %g s",
                self._task.task_id,
                PATIENCE,
            )
            # What waits to be sent would wait for as long as the client lives.
            if callable(abort := getattr(transport, "abort", None)):
                abort()
            elif sending is not None:
                was_cancelled = sending.cancel()

        seat.on_slow = cut
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send_states(seat, send, hub.spread())
            if not seat.is_gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if sending is None or not was_cancelled:
                raise
            sending.uncancel()
        finally:
            watching.cancel()
            hub.unlisten(seat)

    async def _send_states(self, seat: Seat, send: Send, spread: int) -> None:
        chunk = f"retry: {_RETRY + spread}\n\n".encode()
        with suppress(EndOfStreamError):
            while True:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                before = seat.seen
                frame = await seat.next()
                chunk = BEAT if frame is None else frame.event(before, *self._shown)
                if frame is not None and frame.is_final:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    return


def _event(view: type[BaseModel]) -> dict[str, Any]:  # Any: JSON
    """Return the shape of an event, as FastAPI describes those of its own streams."""
    # As FastAPI names the shape of a model.
    name = re.sub(r"[^\w.-]", "_", view.__name__, flags=re.ASCII)
    return {
        "type": "object",
        "required": ["data", "event"],
        "properties": {
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {
                    "anyOf": [
                        {"$ref": f"#/components/schemas/{name}"},
                        {"$ref": "#/components/schemas/StepList"},
                    ]
                },
            },
            "event": {"enum": ["status", "progress", "steps"]},
            "id": {"type": "string"},
        },
    }


_UNSENT: Final = 16_384
"""Bytes that the kernel keeps of a stream before it sends them: a few states."""


def keep_little(transport: Any) -> None:  # Any: the server's
    """Make the kernel's buffer small, so that a client that does not read is noticed early.

    By default it takes up to 4 MB for each client, and only then the server notices. What is on
    its way is not limited, so a fast client loses nothing.
    """
    # Not uvicorn, no socket of TCP, or a system without this limit.
    with suppress(AttributeError, OSError):
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


async def left(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def add_stream(router: APIRouter, access: Access) -> None:
    """Add ``GET /{task_id}/events`` to a router of tasks.

    Args:
        router: The router.
        access: Which tasks a request may see, and how much of them.
    """

    @router.get(
        "/{task_id}/events",
        response_class=Response,
        summary="Stream a task's states",
        description=_DESCRIPTION,
        responses={
            200: {
                "description": "The events, each with a state as its data.",
                # OpenAPI 3.1, which FastAPI writes, refuses the itemSchema of 3.2. A schema
                # beside it would be taken for that of each event.
                "content": {"text/event-stream": {"x-itemSchema": _event(access.view or TaskView)}},
            },
            204: {"description": "The task has ended, and the client knows how."},
            404: {"model": Problem, "description": "The task is unknown."},
        },
    )
    async def stream_task_events(
        task_id: str,
        request: Request,
        last_event_id: Annotated[
            str, Header(description="The id of the last event that the client got.")
        ] = "",
    ) -> Response:
        task = await access.task(request, task_id)
        if task.status.is_final and last_event_id == task.status.value:
            return Response(status_code=204, headers=_HEADERS)
        return EventStreamResponse(require_core(), task, last_event_id, access)
