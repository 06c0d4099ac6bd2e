"""Lines: which tasks of one process have a place, and which wait for one.

Guarantees: whenever the lock is free, no line has more places than the limit of each task that
has one, and the first that waits could not have one; see `places.ask` for the rule. So a task
that waits cannot be forgotten.
Lock order: `_lock` guards the lines; `is_over` is called under it, and nothing else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain, islice
from typing import TypeAlias

from framework._tasks.places import (
    GRANTED,
    MOST_AHEAD,
    PlaceAnswer,
    PlaceRequest,
    ask,
    leave,
)

Told: TypeAlias = Callable[[PlaceAnswer], object]


class _Line:
    """The tasks of one key.

    Attributes:
        placed: The ids of those that have a place.
        waiting: The requests of those that wait, by rank and id, in the order in which they came.
            No rank is empty.
    """

    __slots__ = ("placed", "waiting")

    def __init__(self) -> None:
        self.placed: dict[str, None] = {}
        self.waiting: dict[int, OrderedDict[str, PlaceRequest]] = {}

    def forget(self, task_id: str) -> None:
        """Remove a task that waits."""
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
        self._lock = threading.Lock()
        self._table = _Table(is_over)

    def __len__(self) -> int:
        return len(self._table.lines)

    def join(self, request: PlaceRequest, told: Told) -> None:
        """Ask for a place; see `protocols.SharedPlaces.join`."""
        with self._lock:
            answer = ask(self._table, request)
            if request.waits and not answer.granted:
                self._table.told[request.key, request.task_id] = told
            granted = self._table.take_granted()
        for one in granted:
            one(GRANTED)
        told(answer)

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines; see `protocols.SharedPlaces.leave`."""
        with self._lock:
            leave(self._table, task_id)
            granted = self._table.take_granted()
        for told in granted:
            told(GRANTED)


class _Table:
    """The lines of one process, as a `places.LineTable`.

    Args:
        is_over: Whether a task needs no place any more.

    Attributes:
        lines: The lines that are not empty, by their keys.
        told: Whom to tell, by line and task, when one that waits has its place.
    """

    def __init__(self, is_over: Callable[[str], bool]) -> None:
        self._is_over = is_over
        self._keys: dict[str, list[str]] = {}
        self._granted: list[Told] = []
        self.lines: dict[str, _Line] = {}
        self.told: dict[tuple[str, str], Told] = {}

    def has_place(self, request: PlaceRequest) -> bool | None:
        """See `places.LineTable`."""
        if request.key not in self._keys.get(request.task_id, ()):
            return None
        return request.task_id in self.lines[request.key].placed

    def placed(self, key: str) -> int:
        """See `places.LineTable`."""
        return len(self.lines[key].placed) if key in self.lines else 0

    def first(self, key: str) -> PlaceRequest | None:
        """See `places.LineTable`."""
        waiting = self.lines[key].waiting if key in self.lines else None
        return next(iter(waiting[min(waiting)].values())) if waiting else None

    def others(self, request: PlaceRequest) -> tuple[str, ...]:
        """See `places.LineTable`."""
        line = self.lines[request.key]
        ids = chain(line.placed, *(line.waiting[rank] for rank in sorted(line.waiting)))
        return tuple(islice((one for one in ids if one != request.task_id), MOST_AHEAD))

    def enter(self, request: PlaceRequest, granted: bool) -> None:
        """See `places.LineTable`."""
        line = self.lines.setdefault(request.key, _Line())
        self._keys.setdefault(request.task_id, []).append(request.key)
        if granted:
            line.placed[request.task_id] = None
        else:
            line.waiting.setdefault(request.rank, OrderedDict())[request.task_id] = request

    def grant(self, request: PlaceRequest) -> None:
        """See `places.LineTable`."""
        line = self.lines[request.key]
        line.forget(request.task_id)
        line.placed[request.task_id] = None
        self._granted.append(self.told.pop((request.key, request.task_id)))

    def drop_over(self, key: str) -> list[str]:
        """See `places.LineTable`."""
        over = [one for one in self.lines[key].placed if self._is_over(one)]
        return [freed for one in over for freed in self.drop(one)]

    def drop(self, task_id: str) -> list[str]:
        """See `places.LineTable`."""
        keys = self._keys.pop(task_id, [])
        for key in keys:
            line = self.lines[key]
            if task_id in line.placed:
                del line.placed[task_id]
            else:
                line.forget(task_id)
                del self.told[key, task_id]
            if not line.placed and not line.waiting:
                del self.lines[key]
        return keys

    def take_granted(self) -> list[Told]:
        """Return whom to tell of their places since the last call."""
        granted, self._granted = self._granted, []
        return granted
