"""The line of code that tells a user most: file, line and function.

Relies on: file names, to tell the user's code from installed packages, the standard library
and this project.
"""

from __future__ import annotations

import functools
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import framework

_OWN = (
    "<",
    *(str(Path(file).parent) + os.sep for file in (framework.__file__, __file__)),
)
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))
_STANDARD = tuple(
    {str(Path(os.__file__).parent) + os.sep, sysconfig.get_path("stdlib") + os.sep},
)
"""Prefixes of file names: this project's, installed packages', the standard library's."""


def raised_at(traceback: TracebackType | None) -> str:
    """Return the innermost line of the user's code in a traceback; see `location_of`."""
    locations = []
    while traceback is not None:
        locations.append((traceback.tb_frame.f_code, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _chosen(reversed(locations))


def users_part(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame of the user's code on.

    Without such a frame, return all of it, or None if it consists of this project's frames.
    """
    step, whole = traceback, None
    while step is not None and not is_users(step.tb_frame.f_code):
        if not is_own(step.tb_frame.f_code):
            whole = traceback
        step = step.tb_next
    return whole if step is None else step


def without_ways(traceback: TracebackType) -> TracebackType:
    """Return a traceback without this project's frames on the way to other code.

    Those after the last frame of other code stay: there the error was raised.
    """
    steps = [traceback]
    while (step := steps[-1].tb_next) is not None:
        steps.append(step)
    shown, passed = None, False
    for step in reversed(steps):
        own = is_own(step.tb_frame.f_code)
        if not (own and passed):
            shown = TracebackType(shown, step.tb_frame, step.tb_lasti, step.tb_lineno)
        passed = passed or not own
    assert shown is not None, "the last step is always shown"
    return shown


def is_own(code: CodeType) -> bool:
    """Return whether code is this project's, or not from a file."""
    return code.co_filename.startswith(_OWN)


def location_of(frames: Iterable[FrameType]) -> str:
    """Return the innermost line of the user's code in *frames*, given innermost first.

    Without such a frame, return the outermost line of an installed package; else "".
    """
    return _chosen((frame.f_code, frame.f_lineno) for frame in frames)


def _chosen(locations: Iterable[tuple[CodeType, int]]) -> str:
    body = ""
    for code, line in locations:
        if is_users(code):
            return at(code, line)
        # The user's package may be installed as well, so its outermost line is next best.
        if is_installed(code):
            body = at(code, line)
    return body


def is_users(code: CodeType) -> bool:
    """Whether code is the user's: not of this project, not installed, not of Python's library."""
    return is_users_file(code.co_filename)


@functools.cache  # called for each frame of each sleep
def is_users_file(name: str) -> bool:
    """Whether the code in a file is the user's; see `is_users`."""
    return not name.startswith((*_OWN, *_INSTALLED, *_STANDARD))


def is_installed(code: CodeType) -> bool:
    """Whether code is that of an installed package, and not this project's."""
    return code.co_filename.startswith(_INSTALLED) and not code.co_filename.startswith(_OWN)


def package_of(code: CodeType) -> str:
    """Return the name of the package that code is in, or of its module."""
    name = code.co_filename
    folder = next((one for one in (*_INSTALLED, *_STANDARD) if name.startswith(one)), "")
    return Path(name.removeprefix(folder)).parts[0].removesuffix(".py")


def at(code: CodeType, line: int) -> str:
    """Return ``file:line in function``."""
    return f"{code.co_filename}:{line} in {code.co_qualname}"


def where_is(frames: Mapping[int, FrameType], ident: int | None) -> str:
    """Return where a thread is, without the folder; "nowhere" if it has no frame.

    Args:
        frames: The frames of all threads; see `sys._current_frames`.
        ident: The identifier of the thread; None for one that is just starting.
    """
    frame = None if ident is None else frames.get(ident)
    return "nowhere" if frame is None else shown(list(outwards(frame)))


def shown(frames: list[FrameType]) -> str:
    """Return the most telling location of frames given innermost first, without its folder."""
    return Path(location_of(frames) or at(frames[0].f_code, frames[0].f_lineno)).name


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame, its caller, the caller of that, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def inwards(body: Any) -> Iterator[FrameType]:  # Any: whatever a coroutine may await
    """Yield the frame of a coroutine, of what that awaits, and so on."""
    while body is not None:
        frame = getattr(body, "cr_frame", None) or getattr(body, "gi_frame", None)
        if frame is not None:
            yield frame
        body = getattr(body, "cr_await", None) or getattr(body, "gi_yieldfrom", None)


def users_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the user's code, from *frame* outwards; else None."""
    # No generator, for speed: each sleep and each call of the bare pool is looked up.
    while frame is not None and not is_users_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def called_at(frame: FrameType) -> str:
    """Return the innermost line of the user's code, from *frame* outwards; else ""."""
    found = users_frame(frame)
    return "" if found is None else at(found.f_code, found.f_lineno)


def users_location(caller: FrameType | None) -> str:
    """Return the line of *caller* if it is the user's code; else ""."""
    if caller is not None and is_users(caller.f_code):
        return at(caller.f_code, caller.f_lineno)
    return ""
