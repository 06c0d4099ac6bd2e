"""Stacks of other threads: which line keeps an event loop from turning.

Nothing here keeps a frame: it would keep everything alive that its function has.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import sysconfig
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

_SUSPENDS: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR

# Without this method of asyncio's the caller of the coroutines is found, as with other loops.
_CALLBACK: Final[CodeType | None] = getattr(getattr(asyncio.Handle, "_run", None), "__code__", None)

_FRAMEWORK: Final = f"{Path(__file__).resolve().parents[2]}/"
_STDLIB: Final = tuple(
    f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib") if sysconfig.get_path(name)
)
_INSTALLED: Final = ("/site-packages/", "/dist-packages/")
_DEBUGGERS: Final = tuple(
    f"{folder}{name}.py" for folder in _STDLIB for name in ("bdb", "code", "pdb")
)
_DEBUGGER_PACKAGES: Final = ("pydevd", "debugpy", "/IPython/terminal/")


def turn_of(frame: FrameType) -> CodeType | None:
    """Return the code that runs callbacks on an event loop.

    That is a method of asyncio, or with another loop the caller of the coroutines.

    Args:
        frame: A frame of a coroutine that runs on the loop.
    """
    found: CodeType | None = None
    outer: FrameType | None = frame
    while outer is not None:
        code = outer.f_code
        if code is _CALLBACK:
            return code
        # Not the first one with asyncio: a task factory may call a coroutine from another one.
        if found is None and not code.co_flags & _SUSPENDS:
            found = code
        outer = outer.f_back
    return found


def frames_of(thread: int, turn: CodeType | None) -> list[FrameType]:
    """Return the frames of what an event loop runs now, the innermost first; [] if it is idle.

    Args:
        thread: Identifier of the loop's thread.
        turn: What `turn_of` returned on that loop.
    """
    frame = sys._current_frames().get(thread)
    frames: list[FrameType] = []
    while frame is not None and frame.f_code is not turn:
        frames.append(frame)
        frame = frame.f_back
    return [] if frame is None else frames


def is_debugged(frames: list[FrameType]) -> bool:
    """Return whether a debugger or a console has stopped the code and waits for a person."""
    names = [frame.f_code.co_filename for frame in frames]
    return any(
        name in _DEBUGGERS or any(one in name.replace("\\", "/") for one in _DEBUGGER_PACKAGES)
        for name in names
    )


def place(frames: list[FrameType], function: CodeType | None) -> str:
    """Return the line to blame, as ``file:line in function``.

    That is the innermost one in code of the user's. If there is none, for example since the app
    itself was installed, it is that of *function*, or else the innermost one in any package.

    Args:
        frames: The frames of the thread, the innermost first, at least one.
        function: Code of the task's function; None if there is no task.
    """
    packaged = [frame for frame in frames if not _is_machinery(frame)]
    users = [frame for frame in packaged if not _is_installed(frame)]
    tasks = [frame for frame in frames if frame.f_code is function]
    blamed = [*users, *tasks, *packaged, *frames][0]
    inner = "" if blamed is frames[0] else f", in {_line(frames[0])}"
    return f"{_line(blamed)}{inner}"


def _line(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"


def _is_machinery(frame: FrameType) -> bool:
    """Return whether a frame is one of Python's own or of this framework."""
    name = frame.f_code.co_filename
    own = name.startswith((_FRAMEWORK, "<frozen "))
    return own or (name.startswith(_STDLIB) and not _is_installed(frame))


def _is_installed(frame: FrameType) -> bool:
    name = frame.f_code.co_filename.replace("\\", "/")
    return any(part in name for part in _INSTALLED)
