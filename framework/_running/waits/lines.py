"""Lines: which tasks of one process have a place, and which wait for one.

Guarantees: whenever the lock is free, no line has more places than the limit of each task that
has one, and the first that waits could not have one. So each leave that frees a place grants it
in the same step: a task that waits cannot be forgotten.
Lock order: `_lock` guards the lines; `is_over` is called under it, and nothing else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain, islice
from typing import TypeAlias

from framework._tasks.places import GRANTED, MOST_AHEAD, PlaceAnswer, PlaceRequest

Told: TypeAlias = Callable[[PlaceAnswer], object]


class _Line:
    """The tasks of one key.

    Attributes:
        placed: The ids of those that have a place.
        waiting: Those that wait, by rank, each by its id with its request and whom to tell, in
            the order in which they came. No rank is empty.
    """

    __slots__ = ("placed", "waiting")

    def __init__(self) -> None:
        self.placed: dict[str, None] = {}
        self.waiting: dict[int, OrderedDict[str, tuple[PlaceRequest, Told]]] = {}

    def others(self, most: int = MOST_AHEAD) -> tuple[str, ...]:
        """Return who has a place, and then who waits, *most* at most."""
        ids = chain(self.placed, *(self.waiting[rank] for rank in sorted(self.waiting)))
        return tuple(islice(ids, most))

    def first(self) -> tuple[PlaceRequest, Told] | None:
        """Return the first that waits."""
        if not self.waiting:
            return None
        return next(iter(self.waiting[min(self.waiting)].values()))

    def repeat(self, request: PlaceRequest, told: Told) -> PlaceAnswer:
        """Answer a task that has a place or waits, and asks once more."""
        task_id = request.task_id
        for ones in self.waiting.values():
            if task_id in ones:
                ones[task_id] = ones[task_id][0], told
                others = [one for one in self.others(MOST_AHEAD + 1) if one != task_id]
                return PlaceAnswer(False, tuple(others[:MOST_AHEAD]))
        return GRANTED

    def remove(self, task_id: str) -> None:
        """Remove a task that has a place or waits."""
        if task_id in self.placed:
            del self.placed[task_id]
            return
        rank = next(rank for rank, ones in self.waiting.items() if task_id in ones)
        del self.waiting[rank][task_id]
        if not self.waiting[rank]:
            del self.waiting[rank]


class Lines:
    """The lines of one process; a `protocols.SharedPlaces` that answers at once.

    Args:
        is_over: Whether a task needs no place any more, although nobody has said so yet.
    """

    def __init__(self, is_over: Callable[[str], bool]) -> None:
        self._is_over = is_over
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._keys: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def join(self, request: PlaceRequest, told: Told) -> None:
        """Ask for a place; see `protocols.SharedPlaces.join`."""
        with self._lock:
            granted = self._drop_over(request)
            answer = self._enter(request, told)
        for one in granted:
            one(GRANTED)
        told(answer)

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines; see `protocols.SharedPlaces.leave`."""
        with self._lock:
            granted = self._remove(task_id)
        for told in granted:
            told(GRANTED)

    # -- called with the lock held

    def _enter(self, request: PlaceRequest, told: Told) -> PlaceAnswer:
        line = self._lines.setdefault(request.key, _Line())
        first, task_id = line.first(), request.task_id
        if request.key in self._keys.get(task_id, ()):
            return line.repeat(request, told)
        if len(line.placed) < request.limit and (first is None or first[0].rank > request.rank):
            line.placed[task_id] = None
            self._keys.setdefault(task_id, []).append(request.key)
            return GRANTED
        others = line.others()
        if request.waits:
            line.waiting.setdefault(request.rank, OrderedDict())[task_id] = request, told
            self._keys.setdefault(task_id, []).append(request.key)
        return PlaceAnswer(False, others)

    def _drop_over(self, request: PlaceRequest) -> list[Told]:
        """Remove whoever has a place in a full line and needs it no more.

        Returns:
            Whom to tell that they have one now.
        """
        line = self._lines.get(request.key)
        if line is None or len(line.placed) < request.limit:
            return []
        over = [one for one in line.placed if self._is_over(one)]
        return [told for one in over for told in self._remove(one)]

    def _remove(self, task_id: str) -> list[Told]:
        granted: list[Told] = []
        for key in self._keys.pop(task_id, ()):
            line = self._lines[key]
            line.remove(task_id)
            granted += _grant(line)
            if not line.placed:
                del self._lines[key]
        return granted


def _grant(line: _Line) -> list[Told]:
    """Give the free places of a line to the first that wait; return whom to tell."""
    granted = []
    while (first := line.first()) is not None and len(line.placed) < first[0].limit:
        request, told = first
        line.remove(request.task_id)
        line.placed[request.task_id] = None
        granted.append(told)
    return granted
