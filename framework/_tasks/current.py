"""The current request, and whose task has just ended.

They are context variables, so they follow a request or a task wherever its context goes; so do
the current framework and the current task, see `live`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final  # an ASGI scope has values of any type

current_scope: ContextVar[MutableMapping[str, Any] | None] = ContextVar(
    "asyncframe_scope", default=None
)
"""The ASGI scope of the request or connection that is handled here, or None.

Tasks are made with a copy of their request's context, so they see the scope of a request that
may be over: where `live.current_record` is set, the scope says nothing about the present. The
same holds where it has `OVER`: for what a request has started and left running.
"""

OVER: Final = "asyncframe.over"
"""A key that is in a scope once its response, and all that runs after it, has ended."""

_AFTER: Final = "asyncframe.after"
"""A key of a scope, of what is called then."""


def when_over(call: Callable[[], object]) -> None:
    """Call *call* once the request that is handled here is over; at once if there is none."""
    scope = current_scope.get()
    if scope is None or OVER in scope:
        call()
    else:
        scope.setdefault(_AFTER, []).append(call)


def end_scope(scope: MutableMapping[str, Any]) -> None:
    """Note that a request is over, and do what waits for that."""
    scope[OVER] = True
    for call in scope.pop(_AFTER, ()):
        call()


hook_owner: ContextVar[tuple[str | None] | None] = ContextVar("asyncframe_hook_owner", default=None)
"""In a hook, the owner of the task that has ended, whoever has ended it; None elsewhere."""
