"""Code that polls real time while virtual time moves, and so waits too long.

Relies on: the frames of the calling thread, to say which code polls.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType

from pytest_asyncframe._locations import location_of, outwards

_MANY = 10_000
"""Moments of virtual time at which a line may read real time before it is reported."""


class RealTimeReads:
    """Counts at how many moments each line reads ``time.monotonic()`` and the like.

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
