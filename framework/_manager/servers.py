"""How many worker processes a server runs, found out inside one of them.

uvicorn, gunicorn and hypercorn tell their workers nothing in the environment. But what
runs the app stands further down on the stack, and there it has its settings at hand.
"""

from __future__ import annotations

import os
from types import FrameType
from typing import Any, Final

_SERVERS: Final = ("uvicorn", "gunicorn", "hypercorn")
_SETTINGS: Final = ("config", "cfg")


def worker_count(frame: FrameType | None) -> int:
    """Return how many processes serve the app that is being started; 1 if nothing says so.

    Args:
        frame: Of whoever asks, on the main thread.
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
    """Return the number of workers that a server's settings among some variables tell."""
    holders = [names, getattr(names.get("self"), "__dict__", {})]
    for holder in holders:
        for name in _SETTINGS:
            settings = holder.get(name)
            if getattr(settings, "should_reload", False):
                # uvicorn runs one worker then, whatever else it was told.
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
