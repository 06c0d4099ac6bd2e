"""Lists: pages of the tasks of all processes, and how many there are, for a store that is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from framework._records.pages import FIELDS, PageQuery
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._reading.history import History
from framework.stores.sql._tables.database import FAULTS, why


class Lists:
    """Pages and counts; see `protocols.TimedStore`. May block.

    Args:
        store: The store, for messages.

    Raises:
        StoreUnavailableError: Each method, if the database has to be asked, and fails.
    """

    def __init__(self, store: object) -> None:
        self._store = store
        self._history: History | None = None

    def open(self, history: History) -> None:
        """Begin, with what reads the tasks of the open store."""
        self._history = history

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return a page of the tasks of all processes."""
        with answering(self._store):
            return self._opened.page(query)

    def count(self, query: PageQuery) -> int:
        """Return how many tasks of all processes match.

        Counted without a look at the database, unless by name, owner, text or end.
        """
        with answering(self._store):
            return self._opened.count(query)

    def count_by(self, query: PageQuery, field: str) -> Mapping[Any, int]:
        """Return what `count` does for each value of a field."""
        with answering(self._store):
            return self._opened.counts(query, FIELDS[field])

    def count_ends(self, query: PageQuery, width: float) -> Mapping[tuple[int, TaskStatus], int]:
        """Return how many ended in each span of time, and how."""
        with answering(self._store):
            return self._opened.ends(query, width)

    def count_starts(self, query: PageQuery, since: float, width: float) -> Mapping[int, int]:
        """Return how many started in each span of time."""
        with answering(self._store):
            return self._opened.starts(query, since, width)

    @property
    def _opened(self) -> History:
        assert self._history is not None
        return self._history


@contextmanager
def answering(store: object) -> Iterator[None]:
    """Raise what the database raises as the error of a *store* that does not answer."""
    try:
        yield
    except FAULTS as error:
        raise StoreUnavailableError(
            f"{store!r} did not answer: {why(error)}; try again later"
        ) from error
