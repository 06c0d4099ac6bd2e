"""Drafts: the rows of records that are to be written, and what was written of them before.

Relies on: the store's own thread, but for `Drafts.call_of`.
"""

from __future__ import annotations

from typing import Final

from framework._records.records import Restart, TaskRecord
from framework._records.statuses import TaskStatus
from framework.stores.sql._reading.follower import BREATH
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.rows import Written, bare_row_of, begin, row_of

_SLICE: Final = 32
"""Records to convert before the thread releases the interpreter for `BREATH` seconds."""

_MAX_TEXT: Final = 8_000_000
"""Characters after which a batch is full; a single result may have a million."""


class Drafts:
    """Makes the rows of one process's records.

    Args:
        site: What it works with.
        keep_arguments: Longest call to keep, in bytes; 0 for none.
    """

    def __init__(self, site: Site, keep_arguments: int) -> None:
        self._site = site
        self._keep_arguments = keep_arguments
        # The live tasks whose rows have their calls already.
        self._with_call: set[str] = set()

    def rows_of(
        self, records: list[TaskRecord], until: float
    ) -> tuple[dict[str, Written], list[tuple[TaskRecord, Exception]]]:
        """Return the rows of the first records, as many as fit into a batch.

        Releases the interpreter now and then, up to the monotonic second *until*.

        Returns:
            The rows by their ids, and the records that have none, with what they raise.
        """
        rows, refused, size = dict[str, Written](), list[tuple[TaskRecord, Exception]](), 0
        for number, record in enumerate(records, 1):
            if size > _MAX_TEXT:
                break
            if number % _SLICE == 0 and self._site.clock.monotonic() < until:
                # A loop that waits for the interpreter gets it now, and not 5 ms later.
                self._site.clock.sleep(BREATH)
            try:
                # What does not change needs no copy.
                still = record if _stays(record) else self._site.host.snapshot(record)
                restart = None if still.rest is None else still.restart
                if restart is not None and not self._may_write(restart):
                    self._site.backlog.written([record])
                    continue
                starts = restart is not None and self._begin(still, restart)
                row = row_of(still, self.call_of(record, still), starts)
                row = rows[record.task_id] = self._going_on(still, row)
            except Exception as error:
                refused.append((record, error))
            else:
                size += len(row.text)
        return rows, refused

    def bare_row_of(self, record: TaskRecord, error: BaseException, said: str) -> Written:
        """Return a shorter row of a record whose contents the database refuses.

        Args:
            record: The record.
            error: What the database has raised.
            said: The same for people.
        """
        still = self._site.host.snapshot(record)
        restart = still.restart
        starts = restart is not None and self._begin(still, restart)
        return self._going_on(still, bare_row_of(still, error, said)._replace(starts=starts))

    def _going_on(self, still: TaskRecord, row: Written) -> Written:
        """Return a row, which brings the steps of another task if it is the first one."""
        repeated = still.run_again_of
        if not repeated or row.restart is None or row.task_id in self._with_call:
            return row
        return row._replace(goes_on_from=repeated)

    def _may_write(self, restart: Restart) -> bool:
        """Return whether a task that others may run is this process's to write."""
        if restart.state == "free":
            # A row that was written under another id belongs to nobody, or to another process
            # by now, which may have run and removed the task.
            return restart.written in ([], [self._site.membership.process_id])
        return restart.state != "left"

    def _begin(self, still: TaskRecord, restart: Restart) -> bool:
        """Make the copy of a record RUNNING if its start was asked for; whether to answer that."""
        # One that is given away is not begun, though its start may not be refused yet.
        if still.status is not TaskStatus.PENDING or restart.state == "free":
            return False
        starts = self._site.backlog.starts(still.task_id)
        if starts:
            restart.begin(self._site.host.clock.monotonic())
        if restart.started is not None:
            # Nor may a later change take the start back, of which the runner does not know yet.
            begin(still, restart.started)
        return starts

    def call_of(self, record: TaskRecord, still: TaskRecord | None = None) -> str | None:
        """Return the call to write of a task; None if it needs none, or its row has it.

        Args:
            record: The task.
            still: A copy that does not change; None if *record* itself does not.
        """
        still = still or record
        if still.status is TaskStatus.COMPLETED or record.task_id in self._with_call:
            return None
        if still.restart is not None:
            return still.restart.call
        if not self._keep_arguments:
            return None
        return self._site.host.call_of(record, self._keep_arguments)

    def written(self, record: TaskRecord, row: Written) -> None:
        """Note that a row is safe, and let go of what only the database has to hold."""
        if row.waits_for and record.after is not None:
            record.after.stored = True
        # Only if the final row was written: a task that has ended since still needs it.
        if row.ended_at is None and not row.is_free:
            if self._keep_arguments or row.restart is not None:
                self._with_call.add(record.task_id)
            if row.restart is not None:
                # From here on the row has it, and nobody needs it in memory.
                row.restart.call = ""
            return
        self._with_call.discard(record.task_id)
        if record.rest:
            record.store_note = record.restart = None


def _stays(record: TaskRecord) -> bool:
    """Return whether a record is final, or the copy that sets a task free: neither changes."""
    restart: Restart | None = record.restart
    return record.status.is_final or (restart is not None and restart.state == "free")
