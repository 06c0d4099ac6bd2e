"""What other threads ask the store's thread for, of what all processes share.

Relies on: `Site.turn`, which makes all writers of the database take turns; calls on the
store's own thread, except for `Requests.add`.
Lock order: none is held here; the requests are in a deque, to which other threads append.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Final, Generic, TypeAlias, TypeVar

from sqlalchemy.engine import Connection

from framework.stores.sql._shared.site import Site

One = TypeVar("One")
Tell: TypeAlias = Callable[[], object]

BATCH: Final = 200
"""Maximum number of requests in one transaction."""


class Requests(Generic[One]):
    """Requests in their order; each is kept until the transaction that answers it is committed.

    Args:
        site: What it works with.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._asked: deque[One] = deque()

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, one: One) -> None:
        """Ask for something; any thread."""
        self._asked.append(one)
        self._site.backlog.wake()

    def first(self) -> list[One]:
        """Return those that would be answered next."""
        return list(islice(self._asked, BATCH))

    def drop(self, count: int) -> None:
        """Forget the first *count*, which were answered."""
        for _ in range(count):
            self._asked.popleft()

    def settle(
        self,
        answer: Callable[[Connection, int, list[One]], Tell],
        may_be_answered: Callable[[One], bool] = lambda _: True,
    ) -> None:
        """Answer all, up to the first that may not be answered yet.

        Args:
            answer: Answers some in a transaction with a version, and returns what tells everybody
                after its commit.
            may_be_answered: Whether one may be answered now.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails; requests that have no answer are kept.
        """
        while some := list(takewhile(may_be_answered, self.first())):
            with self._site.turn() as (connection, version, _):
                tell = answer(connection, version, some)
            self.drop(len(some))
            tell()
