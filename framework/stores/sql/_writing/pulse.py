"""The signs of life of this process: when the next one is due.

Relies on: calls on the store's own thread, or before it starts.
"""

from __future__ import annotations

from framework.stores.sql._shared.site import Site


class Pulse:
    """Increments this process's counter, so that the others know that it lives.

    Args:
        site: What it works with.

    Attributes:
        due_at: The monotonic second at which the next beat is due.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.due_at = site.pace.beat

    def is_due(self) -> bool:
        """Return whether it is time for a beat."""
        return self._site.clock.monotonic() >= self.due_at

    def given(self) -> None:
        """Note that a beat, or the row of this process, is committed."""
        self.due_at = self._site.clock.monotonic() + self._site.pace.beat

    def beat(self) -> None:
        """Give a sign of life, if it is time.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails.
        """
        if self.is_due():
            with self._site.database.writing() as connection:
                self._site.membership.beat(connection)
            self.given()
