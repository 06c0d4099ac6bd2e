"""The lifespan of an app under test, for clients on the event loop of the test."""

from __future__ import annotations

import asyncio
from typing import Any


class Lifespan:
    """The lifespan of an app, run in a single task from start to end.

    One task, since a cancel scope of anyio must be left by the task that has entered it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._state: dict[str, Any] = {}

    async def __aenter__(self) -> dict[str, Any]:
        """Start the app, and return the state that it has set."""
        loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started: asyncio.Future[str | None] = loop.create_future()
        self._stopped: asyncio.Future[str | None] = loop.create_future()
        self._went_on_receiving: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._run(), name="lifespan of the app")
        await self._messages.put({"type": "lifespan.startup"})
        await self._wait("startup", self._started)
        return self._state

    async def __aexit__(self, *error: object) -> None:
        """Stop the app."""
        if not self._task.done():
            await self._messages.put({"type": "lifespan.shutdown"})
            await self._wait("shutdown", self._stopped)
        await self._task

    async def _wait(self, phase: str, future: asyncio.Future[str | None]) -> None:
        """Wait until the app has completed a phase; raise its own error if it failed."""
        ended: list[asyncio.Future[Any]] = [future, self._task]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            # An app without lifespan support raises at once, or returns.
            self._task.result()
            return
        failure = future.result()
        if failure is None:
            return
        # The app sends the text of its error first, and then raises the error itself, or goes on
        # receiving.
        either: list[asyncio.Future[None]] = [self._went_on_receiving, self._task]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        else:
            self._task.cancel()
        raise RuntimeError(f"the app's {phase} failed: {failure or 'it gave no message'}")

    async def _run(self) -> None:
        """Run the app with the scope of a lifespan; errors before its start mean no support."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException:  # before its start it means no support
            if self._started.done():
                raise

    async def _receive(self) -> dict[str, Any]:
        if any(one.done() and one.result() is not None for one in (self._started, self._stopped)):
            self._went_on_receiving.set_result(None)
        return await self._messages.get()

    async def _send(self, message: dict[str, Any]) -> None:
        phase, _, outcome = message["type"].removeprefix("lifespan.").partition(".")
        future = self._started if phase == "startup" else self._stopped
        future.set_result(message.get("message", "") if outcome == "failed" else None)


def with_state(app: Any, state: dict[str, Any]) -> Any:
    """Return *app* so that each request gets a copy of the lifespan's state."""

    async def app_with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": state.copy()}, receive, send)

    return app_with_state
