"""What a query asks of packed tasks, worked out once for all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from framework._records.pages import SEARCHED_LABEL, PageQuery, finder
from framework._records.records import Label

NO, BY_ID, YES = range(3)
"""Whether a task with a label matches: not, if its id has what is searched for, or yes."""

_TEXTS: Final = tuple(one.name for one in fields(Label))

WIDTH: Final = len(_TEXTS)
"""How many texts a label has."""

texts_of: Final = attrgetter(*_TEXTS)
"""Returns the texts of a label."""


def texts(labels: Sequence[Any], name: str) -> Sequence[Any]:
    """Return one text of each label, of labels whose texts are in one row."""
    return labels[_TEXTS.index(name) :: WIDTH]


_HEX: Final = frozenset("0123456789abcdef")
_ID_DIGITS: Final = 32


class Filter:
    """Tells which tasks match a query, wherever its page begins. Not thread-safe.

    Args:
        query: The query.
        token: Its `filters`; the same object for all queries with the same ones.

    Attributes:
        query: The query.
        token: Like the argument; blocks remember with it how many of their tasks match.
        statuses: Those that match; None for all.
        takes_all: Whether every task matches.
    """

    def __init__(self, query: PageQuery, token: PageQuery) -> None:
        self.query = query
        self.token = token
        self.statuses = query.chosen
        self.takes_all: bool = token == _ALL
        self._given = [(one.name, getattr(query, one.name)) for one in query.given]
        self._has = finder(query.search) if query.search else None
        self._small = query.search.lower()
        # Random ids have small letters and digits only; most words have others.
        self._in_random = len(query.search) <= _ID_DIGITS and _HEX.issuperset(self._small)
        # The texts that were looked at, and those that have it: most tasks share theirs.
        self._known: set[str] = set()
        self._having: set[str] = set()

    def fits(self, labels: Sequence[Any]) -> list[int]:  # Any: of three kinds in turn
        """Return for each label whether its tasks match: `NO`, `BY_ID` or `YES`.

        Args:
            labels: For each its texts, in one row.
        """
        fits = [YES] * (len(labels) // WIDTH)
        for name, wanted in self._given:
            found = texts(labels, name)
            fits = [fit if one == wanted else NO for fit, one in zip(fits, found, strict=True)]
        return fits if self._has is None or YES not in fits else self._searched(fits, labels)

    def _searched(self, fits: list[int], labels: Sequence[Any]) -> list[int]:
        """Return `BY_ID` in place of `YES` for each label that has not what is searched for."""
        columns = [texts(labels, name) for name in SEARCHED_LABEL]
        fresh = {*chain(*columns)} - self._known
        if fresh:
            self._known |= fresh
            self._having.update(filter(self._has, fresh))
        having = self._having
        if having.isdisjoint(chain(*columns)):
            return [BY_ID if fit else NO for fit in fits]
        return [
            BY_ID if fit and having.isdisjoint(some) else fit
            for fit, *some in zip(fits, *columns, strict=True)
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


_ALL: Final = PageQuery(1)
