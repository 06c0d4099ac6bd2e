"""Messages to tasks: kept in rows of their own until a step takes them.

The invariant: of a task that is free, asleep and waits for a name, no message with that name is
left. Whoever stores a message, and whoever sets such a task free, takes a writer's turn and looks
whether the other one was first. So a task never sleeps beside its message.

Lock order: there is no lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.reasons import message_names
from framework._records.steps import MessageRecord, Sent
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._shared.site import Site
from framework.stores.sql._shared.submissions import Submissions
from framework.stores.sql._tables import calls
from framework.stores.sql._tables.chains import WAKE
from framework.stores.sql._tables.database import FAULTS, Database, why
from framework.stores.sql._tables.rows import Written
from framework.stores.sql._tables.schema import MESSAGES, TASKS
from framework.stores.sql._tables.statements import parts

_OF_TASK: Final = MESSAGES.c.task_id == bindparam("of_task")
_LEFT: Final = (
    sa.select(MESSAGES.c.number, MESSAGES.c.name, MESSAGES.c.value)
    .where(_OF_TASK, MESSAGES.c.taken == 0)
    .order_by(MESSAGES.c.number)
)
_LAST: Final = sa.select(sa.func.coalesce(sa.func.max(MESSAGES.c.number), 0)).where(_OF_TASK)
_SAME: Final = sa.select(MESSAGES.c.value).where(
    _OF_TASK, MESSAGES.c.name == bindparam("its_name"), MESSAGES.c.key == bindparam("its_key")
)
_INSERT: Final = sa.insert(MESSAGES)
_TAKE: Final = (
    sa.update(MESSAGES)
    .where(_OF_TASK, MESSAGES.c.number.in_(bindparam("numbers", expanding=True)))
    .values(taken=1)
)
_WHOSE: Final = sa.select(TASKS.c.ended_at, TASKS.c.process, TASKS.c.due_at, TASKS.c.reason).where(
    TASKS.c.task_id == bindparam("of_task")
)
_WAITING: Final = sa.select(MESSAGES.c.task_id, MESSAGES.c.name).where(
    MESSAGES.c.task_id.in_(bindparam("task_ids", expanding=True)), MESSAGES.c.taken == 0
)


class MessageRows:
    """Keeps messages to tasks; see `protocols.MessageStore`.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, site: Site, submissions: Submissions) -> None:
        """Let messages come.

        Args:
            site: Of the store.
            submissions: The tasks that apps submit in transactions of their own.
        """
        self._site, self._submissions = site, submissions

    def fetch_messages(self, task_id: str) -> Sequence[MessageRecord]:
        """Return what no step has taken; see `protocols.MessageStore`."""
        try:
            with self._database.reading() as connection:
                return left(connection, task_id)
        except FAULTS as error:
            raise _unavailable(error) from error

    def send_message(self, task_id: str, name: str, value: str, key: str | None) -> Sent:
        """Store a message; see `protocols.MessageStore`."""
        site = self._site
        # It may have been submitted here a moment ago.
        site.backlog.let_write([task_id])
        try:
            with self._database.writing() as connection:
                version = site.statements.advance(connection, "").version
                self._submissions.move(connection, version, task_id)
                return _send(connection, site, version, task_id, name, value, key)
        except FAULTS as error:
            raise _unavailable(error) from error


def _send(
    connection: Connection,
    site: Site,
    version: int,
    task_id: str,
    name: str,
    value: str,
    key: str | None,
) -> Sent:
    values: dict[str, Any] = {"of_task": task_id, "its_name": name, "its_key": key}
    task = connection.execute(_WHOSE, values).first()
    if task is None:
        return "unknown"
    if key is not None:
        same = connection.execute(_SAME, values).scalar_one_or_none()
        if same is not None:
            return "again" if same == value else "other"
    if task.ended_at is not None:
        return "ended"
    last = int(connection.execute(_LAST, values).scalar_one())
    row = {"task_id": task_id, "number": last + 1, "name": name, "value": value, "key": key}
    connection.execute(_INSERT, {**row, "taken": 0})
    if not task.process and task.due_at is not None and name in message_names(task.reason):
        connection.execute(WAKE, {"task_ids": [task_id], "at_version": version})
        calls.call(connection, site.database.dialect, "", version, [task_id])
    return "sent"


def left(connection: Connection, task_id: str) -> list[MessageRecord]:
    """Return the messages of a task that no step has taken, the oldest first."""
    return [MessageRecord(*row) for row in connection.execute(_LEFT, {"of_task": task_id})]


def take(connection: Connection, task_id: str, numbers: Collection[int]) -> None:
    """Mark messages of a task as taken."""
    connection.execute(_TAKE, {"of_task": task_id, "numbers": list(numbers)})


def wake_beside(connection: Connection, rows: Iterable[Written], version: int) -> bool:
    """Wake those tasks, set free in this turn, for which a message is there that they wait for.

    Args:
        connection: A transaction in a writer's turn, in which the rows are written.
        rows: What it has written.
        version: Its version.

    Returns:
        Whether there were some.
    """
    free = [row for row in rows if row.is_free and row.receives]
    names = {row.task_id: message_names(row.as_read(version).reason) for row in free}
    waiting = [task_id for task_id, some in names.items() if some]
    found = set[str]()
    for some in parts(waiting):
        for task_id, name in connection.execute(_WAITING, {"task_ids": some}):
            if name in names[task_id]:
                found.add(task_id)
    for some in parts(sorted(found)):
        connection.execute(WAKE, {"task_ids": some, "at_version": version})
    return bool(found)


def _unavailable(error: BaseException) -> StoreUnavailableError:
    return StoreUnavailableError(f"messages cannot be stored or read: {why(error)}")
