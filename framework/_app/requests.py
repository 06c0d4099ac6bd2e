"""Requests: they find the framework of their app while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, TypeAlias

from framework._tasks.current import OVER, current_home, current_scope
from framework._tasks.live import Home
from framework._tasks.mistakes import explain, explain_response

if TYPE_CHECKING:
    from starlette.applications import Starlette

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Requests:
    """ASGI middleware that sets the current home and scope for every request of an app.

    It is put on by an assignment: when a lifespan starts, the app has built its stack, and refuses
    `add_middleware`.
    """

    def __init__(self, inner: ASGIApp, home: Home, built: bool) -> None:
        self._inner = inner
        self._home = home
        self._built = built

    @classmethod
    def put_on(cls, app: Starlette, home: Home) -> Requests:
        """Wrap the app's middleware stack, and build it first if necessary."""
        built = app.middleware_stack is None
        inner: Any = app.build_middleware_stack() if built else app.middleware_stack
        requests = cls(inner, home, built)
        app.middleware_stack = requests
        return requests

    def take_off(self, app: Starlette) -> None:
        """Restore the app's middleware stack, unless something else has wrapped it since."""
        current: object = app.middleware_stack
        if current is self:
            app.middleware_stack = None if self._built else self._inner

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
            # A mounted app shares the scope with the one around it, which goes on.
            if outer.old_value in (None, Token.MISSING):
                scope[OVER] = True
            current_scope.reset(outer)
            current_home.reset(token)
