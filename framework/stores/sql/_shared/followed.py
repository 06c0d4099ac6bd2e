"""Followed sessions: what is to be done once the transaction of a session is committed.

It is for tests in which the database of the session has no tables of a store, so that no row can
say whether a submission is committed; see `submissions`. The events of the session say it then.

Guarantees: nothing is called before the commit of the outermost transaction, nor after that was
rolled back, or a savepoint that was open at the call or around one that was.
Relies on: a session that commits. One on a connection whose transaction a test rolls back at its
end counts as committed when it has committed itself, as the test wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import event

from framework.stores.sql._shared.sessions import resolved

_FOLLOWED: Final = "asyncframe_followed"
"""Where a session keeps what follows it."""


def follow(session: Any, committed: Callable[[], object]) -> None:  # Any: as the user gives it
    """Call *committed* once the transaction of *session* is committed, and not otherwise.

    Raises:
        TypeError: If nothing tells when it is.
    """
    session, connection = resolved(session)
    if session is connection:
        raise TypeError(
            "session: in a test with memory in the place of the store, nothing tells when a "
            "Connection has committed: use a Session or AsyncSession"
        )
    followed = session.info.get(_FOLLOWED)
    if followed is None:
        followed = session.info[_FOLLOWED] = _Followed(session)
    followed.add(session, committed)


class _Followed:
    """Hears how the transactions of one session end.

    Args:
        session: The session.
    """

    def __init__(self, session: Any) -> None:
        # Each with the transaction in which it was added, perhaps one of a savepoint.
        self._waits: list[tuple[Any, Callable[[], object]]] = []
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_soft_rollback", self._rolled_back)
        event.listen(session, "after_transaction_end", self._ended)

    def add(self, session: Any, committed: Callable[[], object]) -> None:
        """Wait for the end of the transaction that is open now."""
        transaction = session.get_nested_transaction() or session.get_transaction()
        self._waits.append((transaction, committed))

    def _committed(self, session: Any) -> None:
        # A savepoint that is released says the same.
        if session.get_nested_transaction() is None:
            waits, self._waits = self._waits, []
            for _, committed in waits:
                committed()

    def _rolled_back(self, session: Any, transaction: Any) -> None:
        self._waits = [one for one in self._waits if not _is_inside(one[0], transaction)]

    def _ended(self, session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            self._waits.clear()


def _is_inside(transaction: Any, outer: Any) -> bool:
    """Return whether a transaction is *outer*, or was begun inside it."""
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is not None
