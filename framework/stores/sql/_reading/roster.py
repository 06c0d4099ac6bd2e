"""The roster: the processes that share the database, and what each of them does.

The page and the command line show it. A process gives its signs of life by a counter, see
`_shared.membership`, so how long one has been silent is known only to those who look twice. One
that was killed stays until another one buries it, but its machine or the server sees at once that
it is gone.

Lock order: there is no lock. `_seen` is read once and replaced as a whole; of two who look at the
same time, the earlier look may win, and a silence then counts from the next one.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._records.statuses import TaskStatus
from framework.exceptions import StoreUnavailableError
from framework.protocols import ProcessInfo
from framework.stores.sql._shared.membership import freed_among, has_ended
from framework.stores.sql._tables.database import FAULTS, Database, why
from framework.stores.sql._tables.schema import PROCESSES, TASKS


class Roster:
    """Reads the processes of one database, on any thread; see `protocols.ProcessBook`.

    Args:
        database: Which.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # By process its counter, and when that was first seen.
        self._seen: dict[str, tuple[int, float]] = {}

    def processes(self, now: float) -> list[ProcessInfo]:
        """Return the processes, the oldest first; see `protocols.ProcessBook`."""
        try:
            with self._database.reading() as connection:
                return self.read(connection, now)
        except FAULTS as error:
            raise StoreUnavailableError(
                f"the processes that share the store cannot be read: {why(error)}"
            ) from error

    def read(self, connection: Connection, now: float) -> list[ProcessInfo]:
        """Return the same, in a transaction that is open."""
        rows = connection.execute(_PROCESSES).all()
        dialect = self._database.dialect
        runs = sa.text(_RUNNING.format(live=dialect.by_index(TASKS, "asyncframe_tasks_live")))
        running = {
            row.process_id: connection.execute(runs, {"process": row.process_id}).all()
            for row in rows
        }
        freed = freed_among(connection, dialect, rows)
        before, seen = self._seen, dict[str, tuple[int, float]]()
        for row in rows:
            beat, at = before.get(row.process_id, (-1, now))
            seen[row.process_id] = (row.beat, at if beat == row.beat else now)
        self._seen = seen
        return [
            ProcessInfo(
                process_id=row.process_id,
                host=row.host,
                pid=row.pid,
                role=row.role,
                started_at=row.started_at,
                places=row.places,
                running={one.name: one.many for one in running[row.process_id]},
                running_since=min((one.since for one in running[row.process_id]), default=None),
                silent=max(0.0, now - seen[row.process_id][1]),
                is_gone=row.process_id in freed
                or has_ended(dialect, row.process_id, row.pid, is_free=False),
            )
            for row in rows
        ]


def waiting(connection: Connection) -> dict[str, int]:
    """Return how many tasks wait in each process, by its id.

    "" has those that are free and may start now; those that sleep need no place.
    """
    return {row.process: row.many for row in connection.execute(_WAITING)}


_PROCESSES: Final = sa.select(PROCESSES).order_by(PROCESSES.c.started_at, PROCESSES.c.process_id)

_LIVE: Final = (TASKS.c.ended_at.is_(None), TASKS.c.remote == 0)

# Of one process: asked for those of some, SQLite reads all that are free, perhaps a million. It
# does so for one as well if its statistics know of none but free ones, so the index is named.
_RUNNING: Final = """
SELECT name, count(*) AS many, min(started_at) AS since FROM {live}
WHERE ended_at IS NULL AND remote = 0 AND process = :process AND status = 'running'
GROUP BY name ORDER BY count(*) DESC, name
"""

_WAITING: Final = (
    sa.select(TASKS.c.process, sa.func.count().label("many"))
    .where(*_LIVE, TASKS.c.status == TaskStatus.PENDING.value)
    .where(sa.or_(TASKS.c.process != "", TASKS.c.due_at.is_(None)))
    .group_by(TASKS.c.process)
)
