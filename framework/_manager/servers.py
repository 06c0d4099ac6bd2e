"""Servers: find out how many worker processes serve an app, inside one of them.

uvicorn, gunicorn and hypercorn do not pass that to their workers in the environment. But the
function that runs the app is on the stack, and the server's settings are among its variables.
"""

from __future__ import annotations

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
