"""Pulse: this process's signs of life, by themselves or with what is written anyway.

Relies on: calls on the store's own thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from framework.stores.sql._shared.free.sharing import Sharing
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.database import FAULTS


class Pulse:
    """Increments this process's counter, so that the others know that it lives.

    Args:
        site: What it works with.
        sharing: Says with each beat what this process has places for.

    Attributes:
        due_at: The monotonic second at which the next beat is due.
    """

    def __init__(self, site: Site, sharing: Sharing) -> None:
        self._site = site
        self._sharing = sharing
        self.due_at = site.pace.beat
        # What the latest beat says of this process's lock, and the latest that was committed.
        self._said: str | None = None
        self._told: str | None = None

    def is_due(self) -> bool:
        """Return whether it is time for a beat; as soon as this process has its lock, it is.

        If it is killed within the first second, the others see at once that it is dead.
        """
        has_news = self._site.link.presence != self._told
        return has_news or self._site.clock.monotonic() >= self.due_at

    def given(self) -> None:
        """Note that a beat, or the row of this process, is committed."""
        self._told = self._said
        self.due_at = self._site.clock.monotonic() + self._site.pace.beat

    @contextmanager
    def beating(self) -> Iterator[Connection]:
        """Open a transaction to read in, and give a sign of life if it is time for one.

        That is one transaction. Whoever writes into a file keeps all others out, so there it writes
        last, and in a second one if others have written meanwhile.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails.
        """
        database = self._site.database
        due = self.is_due()
        is_first = due and not database.dialect.is_local
        with database.writing() if is_first else database.reading() as connection:
            if is_first:
                self.give_in(connection)
            yield connection
            done = is_first or (due and self._give_last(connection))
        if done:
            self.given()
        self.beat()

    def _give_last(self, connection: Connection) -> bool:
        """Beat in a transaction that was made to read; return whether that can be."""
        try:
            self.give_in(connection)
        except FAULTS as error:
            if not self._site.database.is_busy(error):
                raise
            return False
        return True

    def beat(self) -> None:
        """Give a sign of life, if it is time.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails.
        """
        if self.is_due():
            with self._site.database.writing() as connection:
                self.give_in(connection)
            self.given()

    def give_in(self, connection: Connection) -> None:
        """Give a sign of life in a transaction; it counts when that is committed.

        Raises:
            GivenUpError: If the others consider this process dead.
        """
        self._said = self._site.link.presence
        self._site.membership.beat(connection, self._sharing.introduction())
        if self._site.database.dialect.is_local:
            # If a transaction was rolled back, it was told of all the same.
            self._site.statements.tell(connection)
