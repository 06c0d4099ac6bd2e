"""Requests: they find the framework of their app while it runs."""

from __future__ import annotations

from contextvars import Token
from typing import TYPE_CHECKING

from framework._tasks.current import current_scope, end_scope
from framework._tasks.live import Home, current_home
from framework._tasks.mistakes import explain, explain_response

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Receive, Scope, Send


class Requests:
    """ASGI middleware that sets the current home and scope for every request of an app.

    It is put on by an assignment: when a lifespan starts, the app has built its stack, and refuses
    `add_middleware`.

    Args:
        app: The app, whose stack it wraps, and builds first if necessary.
        home: The home.
    """

    def __init__(self, app: Starlette, home: Home) -> None:
        self._app = app
        self._home = home
        self._before = app.middleware_stack
        built = app.build_middleware_stack() if self._before is None else self._before
        self._inner: ASGIApp = built
        app.middleware_stack = self

    def take_off(self) -> None:
        """Restore the app's middleware stack, unless something else has wrapped it since."""
        if self._app.middleware_stack is self:
            self._app.middleware_stack = self._before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection with the home and its scope in its context."""
        if scope["type"] == "lifespan" or self._home.closed:
            await self._inner(scope, receive, send)
            return
        token, outer = current_home.set(self._home), current_scope.set(scope)
        try:
            await self._inner(scope, receive, send)
        except Exception as error:  # raised again, with a word on what the app can do
            explain(error)
            explain_response(error)
            raise
        finally:
            current_scope.reset(outer)
            current_home.reset(token)
            # A mounted app shares the scope with the one around it, which goes on.
            if outer.old_value in (None, Token.MISSING):
                end_scope(scope)
