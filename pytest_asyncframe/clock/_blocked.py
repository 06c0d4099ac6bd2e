"""Waits that go wrong: calls that blocked an event loop, and code that polls real time.

Relies on: the frames of the calling thread, to tell the tested code from the test's own, and to
say which code polls.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from pytest_asyncframe._locations import is_users, location_of, outwards
from pytest_asyncframe.clock._patched.threads import is_join

_STEP: CodeType = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # asyncio's
"""Runs the callbacks of a loop."""


_MANY = 10_000
"""Moments of virtual time at which a line may read real time before it is reported."""


class BlockedLoops:
    """Records where the event loops of one test were blocked, and for how long.

    A loop is blocked while its thread waits in a callback.

    Args:
        monotonic: Returns the seconds of the test's clock.
        find_own: Returns the code of the test function and its fixtures.
    """

    def __init__(
        self, monotonic: Callable[[], float], find_own: Callable[[], Collection[CodeType]]
    ) -> None:
        self._find_own = find_own
        self._monotonic = monotonic
        self._found: dict[tuple[str, str], list[float]] = {}

    @contextmanager
    def recording(self, what: str) -> Iterator[None]:
        """Record that the calling thread, which runs a loop, waits inside the block.

        Args:
            what: The name of the waiting function, for a direct call of the user's.
        """
        caller = outwards(sys._getframe(2))
        frames = list(itertools.takewhile(lambda one: one.f_code is not _STEP, caller))
        begun = self._monotonic()
        try:
            yield
        finally:
            seconds = self._monotonic() - begun
            # A join that takes no time does not count: a pool's thread is just ending, say.
            if seconds or not any(is_join(frame.f_code) for frame in frames):
                self._note(what, frames, seconds)

    @functools.cached_property
    def own(self) -> Collection[CodeType]:
        """The code of the test function and its fixtures, which may block their loop."""
        return self._find_own()

    def _note(self, what: str, frames: list[FrameType], seconds: float) -> None:
        coroutine = next((one.f_code for one in frames if _is_of_coroutine(one.f_code)), None)
        if coroutine is None or coroutine not in self.own:
            location = location_of(frames) or "no line of your own"
            self._found.setdefault((_called(frames) or what, location), []).append(seconds)

    def findings(self) -> list[str]:
        """Return what blocked a loop, a line each."""
        return [
            f"blocked event loop: {what} at {location}, {_how_long(times)}: in production "
            "everything else on that loop waits meanwhile; await instead, or use "
            "asyncio.to_thread()"
            for (what, location), times in self._found.items()
        ]


class RealTimeReads:
    """Counts at how many moments each line reads ``time.monotonic()`` and the like.

    Code that polls real time while virtual time moves waits too long.

    Args:
        now: Returns the nanoseconds of virtual time.
        note: Called with a text and a location when a line is reported.

    Attributes:
        many: Moments after which a line is reported, from 1 on.
    """

    def __init__(self, now: Callable[[], int], note: Callable[[str, str], object]) -> None:
        self.many: int = _MANY
        self._now = now
        self._note = note
        self._seen: dict[tuple[CodeType, int], tuple[int, int]] = {}
        self._found: list[str] = []

    def count(self, name: str, caller: FrameType) -> None:
        """Count a read of ``time.<name>()`` by *caller*; any thread."""
        line, now = (caller.f_code, caller.f_lineno), self._now()
        moments, before = self._seen.get(line, (0, -1))
        if now == before:
            return
        self._seen[line] = (moments + 1, now)
        if moments + 1 == self.many:
            location = location_of(outwards(caller))
            self._note(f"polls time.{name}(), which shows real time", location)
            self._found.append(
                f"real time: time.{name}() was read at {self.many:,} moments of virtual time, at "
                f"{location}: it shows real time, so code that polls it waits in real time, while "
                "sleeps take none; use get_task_manager().clock.monotonic() or loop.time() there"
            )

    def findings(self) -> list[str]:
        """Return what polled real time, a line each."""
        return self._found


def _is_of_coroutine(code: CodeType) -> bool:
    return bool(code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))


def _called(frames: list[FrameType]) -> str:
    """Return the function that the user's code called; "" if that is the waiting one."""
    called = ""
    for frame in frames:
        if is_users(frame.f_code):
            return called
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        # A replaced function has a name that no user knows.
        called = "" if "<locals>" in name or name.startswith("contextlib.") else name
    return ""


def _how_long(times: list[float]) -> str:
    often = "" if len(times) == 1 else f"{len(times)} times, "
    return f"{often}for {sum(times):.9g} s of virtual time"
