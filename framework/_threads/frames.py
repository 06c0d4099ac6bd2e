"""Frames: an error that is kept must not keep the local variables of what raised it."""

from __future__ import annotations

import gc
import inspect
import traceback
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Final

_PAUSES: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""Flags of code whose frame can wait, outside of any thread, and go on later."""


def clear_frames(error: BaseException) -> None:
    """Free the local variables of all ended frames in the tracebacks of *error* and its causes.

    Frames that run or wait are left alone. A coroutine that caught the error, and waits for
    something else by now, goes on.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        _clear(one.__traceback__)
        pending += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions


def _clear(raised: TracebackType | None) -> None:
    for frame, _ in traceback.walk_tb(raised):
        if frame.f_code.co_flags & _PAUSES and not _has_ended(frame):
            continue
        with suppress(RuntimeError):  # it runs
            frame.clear()


def _has_ended(frame: FrameType) -> bool:
    """Return whether a coroutine or generator has left *frame* for good.

    Before Python 3.13, ``clear()`` of a frame that waits closes its coroutine. A frame owns
    what it refers to, its code too, only after its coroutine has ended.
    """
    return any(one is frame.f_code for one in gc.get_referents(frame))
