"""The handlers of ``@app.on_event``, which FastAPI does not run if an app has a lifespan."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette


async def run_handlers(app: Starlette, which: str) -> None:
    """Run those event handlers of the app that no router's own lifespan runs.

    Args:
        app: The app.
        which: ``on_startup`` or ``on_shutdown``.
    """
    routers = [
        getattr(one, "_router", None)
        for one in lifespans_in(app.router.lifespan_context)
        if type(one).__name__ == "_DefaultLifespan"
    ]
    if app.router in routers:
        return
    # For an included router FastAPI keeps the lifespan, but also copies the handlers.
    run_by_others = [handler for router in routers for handler in getattr(router, which, ())]
    for handler in list(getattr(app.router, which, ())):
        if handler in run_by_others:
            continue
        result = handler()
        if inspect.isawaitable(result):
            await result


def lifespans_in(lifespan: object, seen: list[object] | None = None) -> Iterator[object]:
    """Yield *lifespan* and whatever it wraps.

    FastAPI merges the lifespans of included routers into closures around the app's own, and keeps
    neither these routers nor their lifespans anywhere else. If it does so in another way, they are
    not found, and handlers of such routers run twice.
    """
    seen = [] if seen is None else seen
    if any(one is lifespan for one in seen):
        return
    seen.append(lifespan)
    yield lifespan
    inside = [getattr(lifespan, "__wrapped__", None)]
    if isinstance(lifespan, FunctionType):
        # A variable without a value is none yet.
        with suppress(ValueError):
            inside += inspect.getclosurevars(lifespan).nonlocals.values()
    for one in inside:
        if one is not None:
            yield from lifespans_in(one, seen)
