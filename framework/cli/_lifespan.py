"""The lifespan of an ASGI app, run without its server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from framework.cli._mistakes import CommandError
from framework.exceptions import StoreUnavailableError

Message: TypeAlias = MutableMapping[str, Any]  # Any: as ASGI says
ASGIApp: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


class Lifespan:
    """Starts and stops an app as a server does.

    Args:
        app: The app.
        name: What to call it in messages.
    """

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name
        self._told = asyncio.Queue[Message]()
        self._asked = asyncio.Queue[Message]()
        self._task: asyncio.Future[None] | None = None

    async def _run(self) -> None:
        scope: Message = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {},
        }
        await self._app(scope, self._asked.get, self._told.put)

    async def start(self) -> None:
        """Let the app start.

        Raises:
            CommandError: If it does not.
        """
        self._task = asyncio.ensure_future(self._run())
        # sys.exit() in the app ends the loop, and nobody asks for how the task has ended.
        self._task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self._ask("startup")

    def at_end(self, call: Callable[[], object]) -> None:
        """Call something once the app has stopped, also if nobody has asked it to."""
        assert self._task is not None
        self._task.add_done_callback(lambda _: call())

    async def stop(self) -> None:
        """Let the app stop, which has started.

        Raises:
            CommandError: If it fails, or has stopped by itself.
        """
        await self._ask("shutdown")
        assert self._task is not None
        await asyncio.wait([self._task])

    async def _ask(self, what: str) -> None:
        """Ask the app to start or to stop, and wait until it has."""
        assert self._task is not None
        await self._asked.put({"type": f"lifespan.{what}"})
        answer = asyncio.ensure_future(self._told.get())
        both: list[asyncio.Future[Any]] = [answer, self._task]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            error = self._task.exception()
            why = "it has no lifespan" if error is None else f"{type(error).__name__}: {error}"
            raise CommandError(f"{self._name} did not answer to its {what}: {why}")
        message = answer.result()
        if message["type"] != f"lifespan.{what}.complete":
            # The message tells of what it raises.
            [error] = await asyncio.gather(self._task, return_exceptions=True)
            said = str(message.get("message", "")).strip()
            if isinstance(error, StoreUnavailableError):
                said = str(error)  # which says it all, while the message is a long traceback
            raise CommandError(f"the {what} of {self._name} has failed: {said}")
