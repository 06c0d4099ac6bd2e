"""Servers: find out how many worker processes serve an app, and whether this one is leaving.

uvicorn, gunicorn and hypercorn do not pass the number to their workers in the environment, nor to
the app. But the function that runs the app is on the stack, and the server's settings are among its
variables. Where they have other names, one process is counted.

Nor do servers tell an app that they are about to leave: they wait for its responses first, those
that never end included. A uvicorn says so to who asks. In other servers, streams end only when the
server closes them.
"""

from __future__ import annotations

import os
import signal
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
    """Return the uvicorn server of this process; None if there is none, or not on the main thread.

    It handles signals by a method of its own, also in a worker of gunicorn.
    """
    # The second one may be delayed, see `framework.http.health_router`.
    for number in (signal.SIGINT, signal.SIGTERM):
        server: object = getattr(signal.getsignal(number), "__self__", None)
        if hasattr(server, "should_exit") and hasattr(server, "server_state"):
            return server
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
