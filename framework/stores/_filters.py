"""What a query asks of packed tasks, worked out once for all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from framework._records.pages import PageQuery
from framework._records.searching import finder
from framework._records.statuses import TaskStatus

NO, BY_ID, YES = range(3)
"""Whether a task with a label matches: not, if its id has what is searched for, or yes."""

_HEX: Final = frozenset("0123456789abcdef")
_ID_DIGITS: Final = 32


class Filter:
    """Tells which tasks match a query, wherever its page begins. Not thread-safe.

    Args:
        query: The query.
        token: The same object for queries with the same filters; None for a new one.

    Attributes:
        query: The query.
        token: Like the argument; blocks remember with it how many of their tasks match.
        statuses: Those that match; None for all.
        takes_all: Whether every task matches.
    """

    def __init__(self, query: PageQuery, token: object = None) -> None:
        self.query = query
        self.token: object = object() if token is None else token
        chosen = query.status is not None or bool(query.statuses)
        self.statuses: frozenset[TaskStatus] | None = None
        if chosen:
            self.statuses = frozenset(filter(query.has_status, TaskStatus))
        self._any_label = query.name is None and query.owner is None and not query.search
        self.takes_all: bool = self._any_label and not chosen and query.ended_since is None
        self._has = finder(query.search) if query.search else None
        self._small = query.search.lower()
        # Random ids have small letters and digits only; most words have others.
        self._in_random = len(query.search) <= _ID_DIGITS and _HEX.issuperset(self._small)
        # The texts that were looked at, and those that have it: most tasks share theirs.
        self._known: set[str] = set()
        self._having: set[str] = set()

    def has_status(self, status: TaskStatus) -> bool:
        """Return whether tasks with *status* match."""
        return self.statuses is None or status in self.statuses

    def fits(self, labels: Sequence[Any]) -> list[int]:  # Any: of three kinds in turn
        """Return for each label whether its tasks match: `NO`, `BY_ID` or `YES`.

        Args:
            labels: For each its name, its description and its owner, in one row.
        """
        query, names = self.query, labels[::3]
        fits = [YES] * len(names)
        if query.name is not None:
            name = query.name
            fits = [YES if one == name else NO for one in names]
        if query.owner is not None and YES in fits:
            owner, owners = query.owner, labels[2::3]
            fits = [fit if one == owner else NO for fit, one in zip(fits, owners, strict=True)]
        if self._has is not None and YES in fits:
            fits = self._searched(fits, names, labels[1::3])
        return fits

    def _searched(
        self, fits: list[int], names: Sequence[str], descriptions: Sequence[str]
    ) -> list[int]:
        """Return `BY_ID` in place of `YES` for each label that has not what is searched for."""
        assert self._has is not None
        fresh = {*names, *descriptions} - self._known
        if fresh:
            self._known |= fresh
            self._having.update(filter(self._has, fresh))
        having = self._having
        if having.isdisjoint(names) and having.isdisjoint(descriptions):
            return [BY_ID if fit else NO for fit in fits]
        return [
            fit if not fit or name in having or description in having else BY_ID
            for fit, name, description in zip(fits, names, descriptions, strict=True)
        ]

    def found_in(self, ids: bytes | tuple[str, ...]) -> list[int]:
        """Return the indexes in packed *ids* of those that have what is searched for."""
        if isinstance(ids, bytes):
            return self._found_in_random(ids.hex()) if self._in_random else []
        has = self._has
        return [] if has is None else [place for place, one in enumerate(ids) if has(one)]

    def _found_in_random(self, digits: str) -> list[int]:
        small, found = self._small, list[int]()
        at = digits.find(small)
        while at >= 0:
            place, begin = divmod(at, _ID_DIGITS)
            if begin + len(small) <= _ID_DIGITS:
                found.append(place)
                at = digits.find(small, (place + 1) * _ID_DIGITS)
            else:
                # It goes over into the next id.
                at = digits.find(small, at + 1)
        return found
