"""Servers: find out how many worker processes serve an app, and whether this one is leaving.

uvicorn, gunicorn and hypercorn do not pass the number to their workers in the environment. But
the function that runs the app is on the stack, and the server's settings are among its variables.
Nor do they tell an app that they are about to leave: they wait for its responses first, those
that never end included.

In a server whose variables have other names, one process is counted, and streams end only when
the server closes them.
"""

from __future__ import annotations

import asyncio
import os
from types import FrameType
from typing import Any, Final

_SERVERS: Final = ("uvicorn", "gunicorn", "hypercorn")
_SETTINGS: Final = ("config", "cfg")


def worker_count(frame: FrameType | None) -> int:
    """Return how many processes serve the app that is being started; 1 if it is unknown.

    Args:
        frame: The frame of the caller, on the main thread.
    """
    while frame is not None:
        server = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if server in _SERVERS:
            found = _workers_of(frame.f_locals)
            if found is not None:
                return found
        frame = frame.f_back
    return _number(os.environ.get("WEB_CONCURRENCY")) or 1


def _workers_of(names: dict[str, Any]) -> int | None:  # Any: a frame's variables
    """Return the number of workers in a server's settings, if *names* has them."""
    holders = [names, getattr(names.get("self"), "__dict__", {})]
    for holder in holders:
        for name in _SETTINGS:
            settings = holder.get(name)
            if getattr(settings, "should_reload", False):
                # uvicorn ignores the number of workers then, and runs one.
                return 1
            found = _number(getattr(settings, "workers", None))
            if found is not None:
                return found
    return None


def _number(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None


def find_server() -> object | None:
    """Return the uvicorn server that runs the event loop of the caller; None for another one.

    Its `serve` is a coroutine of one of the loop's tasks, also in a worker of gunicorn.
    """
    for task in asyncio.all_tasks():
        inner: Any = task.get_coro()
        while inner is not None:
            frame = getattr(inner, "cr_frame", None)
            if frame is None:
                break
            server = frame.f_locals.get("self")
            module = str(frame.f_globals.get("__name__", ""))
            # uvicorn's object for the lifespan has the first one as well.
            is_server = hasattr(server, "should_exit") and hasattr(server, "server_state")
            if is_server and module.startswith("uvicorn"):
                return server  # type: ignore[no-any-return]  # an object of uvicorn's
            inner = inner.cr_await
    return None


def is_leaving(server: Any) -> bool:
    """Return whether a server has begun to shut down, and waits for the responses that are open.

    Args:
        server: What `find_server` has returned.
    """
    if server.should_exit:
        return True
    # After its last request, `limit_max_requests`, it only stops to listen.
    listeners = getattr(server, "servers", ())
    return bool(listeners) and not any(one.is_serving() for one in listeners)
