"""Chained rows: what a batch does about tasks that wait for others.

Relies on: calls on the store's own thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from framework._records.reasons import awaited_tasks
from framework.stores.sql._reading.chained import Over
from framework.stores.sql._reading.follower import Follower
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables import chains
from framework.stores.sql._tables.chains import NOTHING, WAKES, Settled
from framework.stores.sql._tables.rows import Written


class ChainedRows:
    """Settles what waits for others in the transactions of one process.

    Args:
        site: What it works with.
        follower: Tells the framework of its tasks.
    """

    def __init__(self, site: Site, follower: Follower) -> None:
        self._site = site
        self._follower = follower

    def settle(
        self, connection: Connection, version: int, rows: Sequence[Written], *, chained: bool
    ) -> Settled:
        """Settle what waits for others, after *rows* were written.

        Args:
            connection: A transaction in this process's turn.
            version: Its version.
            rows: What it has written.
            chained: Whether tasks waited for others before.
        """
        dialect = self._site.database.dialect
        links = [link for row in rows for link in row.waits_for]
        links += [
            (row.task_id, awaited, WAKES)
            for row in rows
            if row.is_free and row.receives
            for awaited in awaited_tasks(row.as_read(version).reason)
        ]
        if links:
            chains.begin(connection, dialect, links)
        ended = [row.task_id for row in rows if row.ended_at is not None]
        if not links and not (chained and ended):
            return NOTHING
        process, now = self._site.membership.process_id, self._site.host.clock.time()
        begun = {parent for _, parent, _ in links}
        unwritten = {parent for row in rows if row.unwritten for _, parent, _ in row.waits_for}
        backlog = self._site.backlog

        def is_coming(task_id: str) -> bool:
            own = task_id in backlog.live or backlog.holds(task_id)
            return own or task_id in unwritten

        return chains.settle(connection, dialect, process, version, now, ended, begun, is_coming)

    def committed(self, rows: Sequence[Written], settled: Settled) -> bool:
        """Tell the framework what has become of its tasks, once that is safe.

        Returns:
            Whether no other tasks than those of this process have changed by it.
        """
        waiting = self._follower.chained.waiting
        waiting.update(row.task_id for row in rows if row.waits_for and not row.is_free)
        if waiting:
            waiting.difference_update([one.task_id for one in rows if one.ended_at or one.is_free])
        if settled is NOTHING:
            return True
        own = self._site.membership.process_id
        over = Over(settled.released.get(own, ()), settled.cancelled.get(own, {}))
        self._follower.chained.end(over)
        if "" in settled.cancelled:
            self._follower.bury_free(settled.cancelled[""])
        return {own}.issuperset(settled.released) and {own}.issuperset(settled.cancelled)
