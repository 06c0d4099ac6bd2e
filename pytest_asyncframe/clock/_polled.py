"""What reads real time again and again while virtual time moves: a wait that cannot see it end.

Relies on: the frames of the calling thread, to say whose code reads.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType

from pytest_asyncframe._places import outwards, place_of

_MANY = 10_000
"""Moments at which one line reads real time before it is told."""


class RealTimeReads:
    """Counts at how many virtual moments each line reads ``time.monotonic()`` and the like.

    Args:
        now: Returns the nanoseconds of virtual time.
        note: Called with a text and a place as soon as there is something to tell.

    Attributes:
        many: Moments after which a line is told, from 1 on.
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
            place = place_of(outwards(caller))
            self._note(f"reads time.{name}(), which is real, again and again", place)
            self._found.append(
                f"real time: time.{name}() was read at {self.many:,} moments of virtual time, at "
                f"{place}: it is real, so what waits for it takes real time, and sleeps beside it "
                "do not; read get_task_manager().clock.monotonic() there, or the time of the loop"
            )

    def findings(self) -> list[str]:
        """Return what has read real time so often, a line each."""
        return self._found
