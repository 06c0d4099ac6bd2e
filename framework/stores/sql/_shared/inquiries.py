"""Inquiries of one process to all others: whether they have written all that they had accepted.

A process that does not find an id increments ``asked``, of which there is one. Each of the others
reads it together with the changes, and writes what it has accepted by then. It answers with the
number in its own row. When all have answered, nobody has a task that was accepted before.

Guarantees: an answer is committed after all that was accepted before the inquiry, whatever is
accepted meanwhile. A process without a row cannot answer, and has no tasks. Records that the
database refuses, and that were set aside, do not delay an answer.
Relies on: calls on the store's own thread, except for `ask`, `is_answered` and `expected`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework.stores.sql._shared.membership import GivenUpError
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.schema import META, PLACES, PROCESSES
from framework.stores.sql._tables.statements import parts

_ASK: Final = sa.update(META).values(asked=META.c.asked + 1)
_ANSWER: Final = (
    sa.update(PROCESSES)
    .where(PROCESSES.c.process_id == bindparam("own"))
    .values(answered=bindparam("number"))
)
# Null in the row of a process that has not accepted a task yet, or is of an older release.
_OPEN: Final = (
    sa.select(PROCESSES.c.process_id)
    .where(PROCESSES.c.process_id != bindparam("own"), PROCESSES.c.answered < bindparam("number"))
    .limit(1)
)
_EXPECTED: Final = sa.select(PLACES.c.task_id).where(
    PLACES.c.task_id.in_(bindparam("task_ids", expanding=True))
)


class InquiryRows:
    """Asks the others, and answers them.

    Args:
        site: What it works with.
    """

    def __init__(self, site: Site) -> None:
        self._database = site.database
        self._asked = sa.select(
            META.c.asked,
            site.database.dialect.tell("", META.c.version, META.c.asked, META.c.free),
        )
        self._membership = site.membership
        self._backlog = site.backlog
        self._answered = 0
        # The number to answer, and what has to be written before; see `Backlog.mark`.
        self._heard: tuple[int, int] | None = None

    # -- any thread; each may raise a `SQLAlchemyError`

    def ask(self) -> int:
        """Ask all others; return the number of the inquiry."""
        with self._database.writing() as connection:
            connection.execute(_ASK)
            return int(connection.execute(self._asked).scalar_one())

    def is_answered(self, number: int) -> bool:
        """Return whether all others that live have answered an inquiry."""
        values = {"own": self._membership.process_id, "number": number}
        with self._database.reading() as connection:
            return connection.execute(_OPEN, values).first() is None

    def expected(self, task_ids: Collection[str]) -> set[str]:
        """Return the ids that have a place, so that their processes will write the tasks."""
        found = set[str]()
        with self._database.reading() as connection:
            for some in parts(task_ids):
                found.update(connection.execute(_EXPECTED, {"task_ids": some}).scalars())
        return found

    # -- the store's thread

    def enter(self, connection: Connection) -> None:
        """Take part from now on, before the first task is accepted under this process's id."""
        self._answered, self._heard = 0, None
        self._answer(connection, 0)

    def hear(self, number: int) -> None:
        """Note the number of the latest inquiry, as the database has it now."""
        if number != self._answered and self._heard is None:
            self._heard = number, self._backlog.mark()

    @property
    def waits(self) -> bool:
        """Whether there is an inquiry to answer."""
        return self._heard is not None

    def settle(self) -> None:
        """Answer, if all that was accepted before the inquiry is written.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails.
        """
        if self._heard is None:
            return
        number, mark = self._heard
        if self._backlog.is_past(mark):
            with self._database.writing() as connection:
                self._answer(connection, number)
            self._answered, self._heard = number, None

    def _answer(self, connection: Connection, number: int) -> None:
        values = {"own": self._membership.process_id, "number": number}
        if not connection.execute(_ANSWER, values).rowcount:
            raise GivenUpError
