"""Submissions: tasks that an app inserts in a transaction of its own, and how they become free.

The app's transaction inserts one row into a table that nothing else writes. Once that is committed,
any process of the store moves the row among the free tasks; see `claims`.

Invariants:

1. A submission is moved only after the app's commit: before, nobody but the app sees its row. If
   the transaction or a savepoint around it is rolled back, there was none.
2. Each is moved once: in the transaction that makes the free task, its row is deleted, and all
   who move take turns. So a reader that sees one moment finds it in one table or the other.
3. The app's transaction locks nothing that a process of the store writes, on a server. In a file,
   whoever writes keeps all others out, whatever is written.
4. No order among submissions is relied on: they are found because they are there. The one that
   began first may be committed last.

Guarantees: a submission is only taken by the database in which this process is among the living.
Relies on: `Site.turn` or `Statements.advance` before `Submissions.move`.
Lock order: there is no lock. `hinted` and `waits` are flags: whoever sets one in vain costs a look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import accumulate
from typing import Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework.stores.sql._shared.free.claims import MOST, MOST_TEXT
from framework.stores.sql._tables.rows import TaskRow, Written
from framework.stores.sql._tables.schema import PROCESSES, SUBMISSIONS
from framework.stores.sql._tables.statements import Statements, parts

_ID: Final = SUBMISSIONS.c.task_id
ANY: Final = sa.select(_ID).limit(1)
"""One of those that are there."""
_FIRST: Final = sa.select(_ID, sa.func.length(SUBMISSIONS.c.written)).limit(MOST)
_THESE: Final = _ID.in_(bindparam("task_ids", expanding=True))
_ROWS: Final = sa.select(_ID, SUBMISSIONS.c.written).where(_THESE)
_DELETE: Final = sa.delete(SUBMISSIONS).where(_THESE)

# In one statement with the insert: it cannot become another database in between.
_IS_OURS: Final = sa.exists().where(PROCESSES.c.process_id.in_(bindparam("own", expanding=True)))
_INSERT: Final = (
    sa.insert(SUBMISSIONS)
    .from_select(
        ["task_id", "written"],
        sa.select(
            sa.cast(bindparam("task_id", type_=sa.Text()), sa.Text),
            sa.cast(bindparam("written", type_=sa.Text()), sa.Text),
        ).where(_IS_OURS),
    )
    .execution_options(preserve_rowcount=True)
)


class Submissions:
    """Finds submissions that are committed, and moves them among the free tasks.

    Args:
        statements: The SQL about tasks.
        wake: Wakes the store's thread; any thread.

    Attributes:
        hinted: Whether some may be committed that nobody has looked for yet.
        waits: Whether there were some at the last look.
    """

    def __init__(self, statements: Statements, wake: Callable[[], object]) -> None:
        self._statements = statements
        self._wake = wake
        self.hinted = self.waits = False

    def hint(self) -> None:
        """Let the store's thread look for some at once; any thread."""
        self.hinted = True
        self._wake()

    def see(self, connection: Connection) -> None:
        """Find out whether there are any."""
        self.waits = connection.execute(ANY).first() is not None

    def rows(self, connection: Connection, task_ids: Collection[str]) -> list[TaskRow]:
        """Return the submissions with some ids, as they are read once they are free."""
        return [
            Written(text, None, task_id).as_read(0)
            for some in parts(task_ids)
            for task_id, text in connection.execute(_ROWS, {"task_ids": some})
        ]

    def move(self, connection: Connection, version: int, task_id: str | None = None) -> bool:
        """Make free tasks of the submissions that are there; of many, of some.

        Args:
            connection: A transaction in a writer's turn.
            version: Its version.
            task_id: The only one to move; None for any.

        Returns:
            Whether there was any.
        """
        wanted = _FIRST if task_id is None else _FIRST.where(_ID.in_([task_id]))
        found = connection.execute(wanted).all()
        sizes = accumulate(size for _, size in found)
        moved = [
            one
            for (one, size), total in zip(found, sizes, strict=True)
            if total <= MOST_TEXT or total == size
        ]
        if moved:
            rows = connection.execute(_ROWS, {"task_ids": moved})
            written = [Written(text, None, one) for one, text in rows]
            self._statements.hand_over(connection, written, "", "", version)
            connection.execute(_DELETE, {"task_ids": moved})
        if task_id is None:
            self.waits = len(moved) < len(found) or len(found) == MOST
        return bool(moved)


def insert(connection: Connection, row: Written, own: Collection[str]) -> bool:
    """Insert a submission in a transaction of the app.

    Args:
        connection: The app's.
        row: The task, PENDING.
        own: The ids that this process has, or had.

    Returns:
        Whether it is in the database of this process; if not, nothing was inserted.

    Raises:
        SQLAlchemyError: If the database refuses it.
    """
    values = {"task_id": row.task_id, "written": row.text, "own": list(own)}
    return connection.execute(_INSERT, values).rowcount == 1
