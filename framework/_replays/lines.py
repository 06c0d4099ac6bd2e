"""Lines: which line of the user's code runs or waits, for people."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CoroutineType, FrameType, TracebackType
from typing import Any, Final

_OWN: Final = str(Path(__file__).parents[1])
_LIBRARY: Final = sysconfig.get_path("stdlib")
_PACKAGES: Final = ("site-packages", "dist-packages")


def calling() -> str:
    """Return the line that has called the framework; "" if none is the user's."""
    return of_thread(sys._getframe(1))


def of_thread(frame: FrameType | None) -> str:
    """Return the innermost line of the user's from a frame outwards, up to its event loop."""
    while frame is not None and frame.f_code is not asyncio.events.Handle._run.__code__:
        if _is_users(frame):
            return _line(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def waiting(coroutine: Any) -> str:  # Any: whatever an asyncio task runs
    """Return the innermost line of the user's at which a suspended coroutine waits."""
    found = ""
    for frame in _inwards(coroutine):
        if _is_users(frame):
            found = _line(frame, frame.f_lineno)
    return found


def sleeps(coroutine: Any) -> bool:  # Any: as above
    """Return whether a suspended coroutine waits in `asyncio.sleep`."""
    frames = list(_inwards(coroutine))
    return bool(frames) and frames[-1].f_code is asyncio.sleep.__code__  # noqa: TID251  # waits for nothing


def raising(traceback: TracebackType | None) -> str:
    """Return the innermost line of the user's that an error has passed."""
    found = ""
    while traceback is not None:
        if _is_users(traceback.tb_frame):
            found = _line(traceback.tb_frame, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def _inwards(coroutine: Any) -> Iterator[FrameType]:
    while isinstance(coroutine, CoroutineType) and coroutine.cr_frame is not None:
        yield coroutine.cr_frame
        coroutine = coroutine.cr_await


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith((_OWN, "<frozen ")):
        return False
    # An app may be installed as a package.
    return not file.startswith(_LIBRARY) or any(one in file for one in _PACKAGES)


def _line(frame: FrameType, number: int) -> str:
    path = Path(frame.f_code.co_filename)
    here = Path.cwd()
    file = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{file}:{number} in {frame.f_code.co_qualname}"
