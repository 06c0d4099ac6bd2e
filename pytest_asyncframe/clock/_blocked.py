"""What has blocked an event loop: waits of threads that were in the middle of a loop's step.

Relies on: the frames of the calling thread, to tell the code that is tested from the test's own.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from pytest_asyncframe._places import is_users, outwards, place_of
from pytest_asyncframe.clock._threads import is_join

_STEP: CodeType = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # asyncio's
"""What calls the callbacks of a loop."""


class BlockedLoops:
    """Notes where the event loops of one test were blocked, and for how long.

    Args:
        monotonic: Returns the seconds of the test's clock.

    Attributes:
        own: The code of the test function and of its fixtures, which may block their loop.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.own: Collection[CodeType] = ()
        self._monotonic = monotonic
        self._found: dict[tuple[str, str], list[float]] = {}

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note that the calling thread, which runs a loop, waits inside.

        Args:
            what: The function that waits, if the user's code has called it itself.
        """
        caller = outwards(sys._getframe(2))
        frames = list(itertools.takewhile(lambda one: one.f_code is not _STEP, caller))
        begun = self._monotonic()
        try:
            yield
        finally:
            seconds = self._monotonic() - begun
            # Threads that are about to end are joined in no time, such as those of a pool.
            if seconds or not any(is_join(frame.f_code) for frame in frames):
                self._note(what, frames, seconds)

    def _note(self, what: str, frames: list[FrameType], seconds: float) -> None:
        coroutine = next((one.f_code for one in frames if _is_of_coroutine(one.f_code)), None)
        if coroutine is None or coroutine not in self.own:
            place = place_of(frames) or "no line of your own"
            self._found.setdefault((_called(frames) or what, place), []).append(seconds)

    def findings(self) -> list[str]:
        """Return what has blocked a loop, a line each."""
        return [
            f"blocked event loop: {what} at {place}, {_how_long(times)}: in production everything "
            "else on that loop waits meanwhile; await something, or use asyncio.to_thread()"
            for (what, place), times in self._found.items()
        ]


def _is_of_coroutine(code: CodeType) -> bool:
    return bool(code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))


def _called(frames: list[FrameType]) -> str:
    """Return which function the user's code has called; "" if it is the one that waits."""
    called = ""
    for frame in frames:
        if is_users(frame.f_code):
            return called
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        # What stands in the place of a function has no name that a user knows.
        called = "" if "<locals>" in name or name.startswith("contextlib.") else name
    return ""


def _how_long(times: list[float]) -> str:
    often = "" if len(times) == 1 else f"{len(times)} times, "
    return f"{often}for {sum(times):.9g} s of virtual time"
