"""Own waits: those of a task's own retry and throttle, with none of the user's code around them.

A task may leave such a wait and begin anew: nothing runs twice by that. It may not leave the wait
of another function that it calls, nor that of its own function if this one calls itself, nor that
below a decorator of the user's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Final

_PACKAGE: Final = Path(__file__).parents[2]
_BETWEEN: Final = tuple(
    f"{_PACKAGE / part}{os.sep}" for part in ("_decorators", "_running", "_threads", "worker")
)
_CALLERS: Final = frozenset(
    str(_PACKAGE / "_running" / name) for name in ("runner.py", "coroutines.py")
)
"""Whose frames call the functions of tasks."""


def is_own() -> bool:
    """Return whether the caller waits for the current task itself; to be called inside a task."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file in _CALLERS:
            return True
        if not file.startswith(_BETWEEN):
            return False
        frame = frame.f_back
    return False
