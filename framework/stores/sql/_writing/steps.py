"""Steps of tasks: written by a thread of their own, many in each transaction.

A step waits for its commit, and its task for the step. So this is another thread than the one that
writes tasks, which gathers records and takes turns: nobody reads steps but who goes on with their
task, so they need no version and no turn. Whatever comes while a transaction is under way goes into
the next one.

The invariant: a step is stored only while the row of its task names this process, and is not final.
The transaction holds that row, so nobody takes the task over in between.

Guarantees: steps of a task are stored in the order of the calls. Each call is answered once, unless
the process ends: while the database fails, what waits is tried again.
Relies on: calls for one task from one thread at a time.
Lock order: there is no lock.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.steps import StepRecord
from framework._threads.loggers import SafeLogger
from framework.exceptions import StepTakenError, StoreUnavailableError
from framework.protocols import MessageCameError, StepChange
from framework.stores.sql._shared.site import Site
from framework.stores.sql._shared.submissions import Submissions
from framework.stores.sql._tables.database import FAULTS, Database, why
from framework.stores.sql._tables.schema import STEPS_OF_TASKS
from framework.stores.sql._tables.steps import adding, holder, read, row_of
from framework.stores.sql._writing.messages import MessageRows, left, take

_LOGGER = SafeLogger("asyncframe")

Told: TypeAlias = Callable[[BaseException | None], object]

_PAUSE: Final = 0.1
"""Seconds between two attempts."""

_MOST: Final = 200
"""How many requests go into one transaction at most."""

_OF_TASK: Final = STEPS_OF_TASKS.c.task_id == bindparam("of_task")
_DELETE: Final = sa.delete(STEPS_OF_TASKS).where(
    _OF_TASK, STEPS_OF_TASKS.c.number.in_(bindparam("numbers", expanding=True))
)
_RETIRE: Final = (
    sa.update(STEPS_OF_TASKS)
    .where(_OF_TASK, STEPS_OF_TASKS.c.number.in_(bindparam("numbers", expanding=True)))
    .values(state="ended")
)


class _Request(NamedTuple):
    """Steps of one task to store, with what else changes."""

    task_id: str
    numbers: Sequence[int]
    rows: Sequence[str]
    change: StepChange
    told: Told
    fails: Callable[[Exception], object] | None = None

    @property
    def only_adds(self) -> bool:
        """Whether it has steps, and nothing else changes."""
        change = self.change
        changes = change.instead_of or change.retires or change.takes or change.unless
        return bool(self.rows) and not changes


class StepRows:
    """Stores the steps of this process's tasks; see `protocols.StepStore`.

    Args:
        database: The database.

    Attributes:
        messages: To these tasks.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.messages = MessageRows(database)
        self._hold = holder(database.dialect)
        self._add = adding(database.dialect)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # What has come while the database failed; of the thread alone.
        self._late: deque[_Request | None] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked = itertools.count()
        # A hundred tasks may begin at once, and whoever waits too long for a connection gets none.
        self._connections = threading.BoundedSemaphore(1)

    def open(self, site: Site, submissions: Submissions, end: Callable[[str], bool]) -> None:
        """Let steps and messages come; the thread starts with the first step.

        Args:
            site: Of the store.
            submissions: The tasks that apps submit in transactions of their own.
            end: See `cancel_at_once`.
        """
        self._end = end
        self._membership = site.membership
        self.messages.open(site, submissions)
        self._requests, self._closing = queue.SimpleQueue(), threading.Event()
        self._thread, self._asked, self._late = None, itertools.count(), deque()

    def close(self, patience: float) -> None:
        """Store what waits for at most *patience* seconds, and end; blocks."""
        self._closing.set()
        self._requests.put(None)
        if self._thread is not None:
            self._thread.join(min(patience, threading.TIMEOUT_MAX))

    def fetch_steps(self, task_id: str) -> Sequence[StepRecord]:
        """Return the steps of a task, in the order in which they ended; blocks.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        try:
            with self._connections, self._database.reading() as connection:
                return read(connection, task_id)
        except FAULTS as error:
            raise StoreUnavailableError(f"steps could not be read: {why(error)}") from error

    def store_steps(
        self,
        task_id: str,
        records: Sequence[StepRecord],
        told: Told,
        change: StepChange | None = None,
        fails: Callable[[Exception], object] | None = None,
    ) -> None:
        """Store steps together; see `protocols.StepStore`."""
        # At once, since the records change.
        rows = [row_of(task_id, one) for one in records]
        numbers = [one.number for one in records]
        self._put(_Request(task_id, numbers, rows, change or StepChange(), told, fails))

    def cancel_at_once(self, task_id: str) -> bool:
        """Cancel a task whose code does not run any more; see `protocols.StepStore`."""
        return self._end(task_id)

    def _put(self, request: _Request) -> None:
        if self._closing.is_set():
            # A thread that was left behind may still run a task.
            self._tell([request], (), StoreUnavailableError("a step ended after its store"))
            return
        self._requests.put(request)
        # One call of it gets the 0, on whichever threads they are.
        if next(self._asked) == 0:
            self._thread = threading.Thread(target=self._run, name="asyncframe-steps", daemon=True)
            self._thread.start()

    # -- the thread

    def _run(self) -> None:
        while (first := self._next()) is not None:
            some, ends = [first], False
            while len(some) < _MOST and (self._late or not self._requests.empty()):
                one = self._next()
                if one is None:
                    ends = True
                    break
                some.append(one)
            self._write(some)
            if ends:
                return

    def _next(self) -> _Request | None:
        return self._late.popleft() if self._late else self._requests.get()

    def _write(self, some: Sequence[_Request]) -> None:
        """Write requests in one transaction, and answer them.

        They are tried again while the database fails. If it refuses what one of them has, each is
        written alone, and that one is answered with an error.
        """
        again = False
        while True:
            try:
                late, own = self._attempt(some, again)
                break
            except FAULTS as error:
                refused = self._database.is_data_fault(error)
                if refused and len(some) > 1:
                    for one in some:
                        self._write([one])
                    return
                if refused or self._closing.is_set():
                    reason = f"a step could not be stored: {why(error)}"
                    self._tell(some, (), StoreUnavailableError(reason))
                    return
                if not again:
                    _LOGGER.warning(
                        "steps cannot be stored, for which their tasks wait until they can: %s",
                        why(error),
                    )
                self._tell_of(error, some)
                self._closing.wait(_PAUSE)
                again = True
        self._tell(late, own, MessageCameError())
        self._tell([one for one in some if one not in late], own)

    def _attempt(
        self, some: Sequence[_Request], again: bool
    ) -> tuple[Sequence[_Request], Collection[str]]:
        """Write requests; *again* if an attempt before may have had its effect.

        Returns:
            Those that came too late, and which tasks are this process's own.
        """
        task_ids = {one.task_id for one in some}
        if not again and all(one.only_adds for one in some):
            with self._database.alone() as connection:
                if self._insert(connection, some) == sum(len(one.rows) for one in some):
                    return (), task_ids
            # Those of others are found by what follows.
            again = True
        with self._database.writing() as connection:
            own = self._own(connection, task_ids)
            mine = [one for one in some if one.task_id in own]
            late = _too_late(connection, mine)
            stored = [one for one in mine if one not in late]
            _change(connection, stored, again)
            self._insert(connection, stored)
        return late, own

    def _insert(self, connection: Connection, some: Sequence[_Request]) -> int:
        """Write the steps of tasks that are this process's own, and return how many."""
        rows = [row for one in some for row in one.rows]
        if not rows:
            return 0
        values = {"own": self._membership.process_id, "rows": f"[{','.join(rows)}]"}
        return self._add.count(connection, values | _of_tasks({one.task_id for one in some}))

    def _tell_of(self, error: Exception, some: Sequence[_Request]) -> None:
        """Tell all that wait, here and behind, that the database has failed."""
        while not self._requests.empty():
            self._late.append(self._requests.get())
        fault = StoreUnavailableError(why(error))
        for one in [*some, *self._late]:
            if one is not None and one.fails is not None:
                one.fails(fault)

    def _tell(
        self, some: Sequence[_Request], own: Collection[str], fault: BaseException | None = None
    ) -> None:
        """Answer requests: with a fault, or whether their tasks are this process's own."""
        for one in some:
            try:
                one.told(fault or (None if one.task_id in own else StepTakenError(one.task_id)))
            except Exception:  # it must not end the thread
                _LOGGER.exception("unexpected error in the thread that stores steps")

    def _own(self, connection: Connection, task_ids: Collection[str]) -> set[str]:
        own = self._membership.process_id
        found = self._hold.all(connection, _of_tasks(task_ids))
        return {task_id for task_id, process, ended in found if process == own and ended is None}


def _of_tasks(task_ids: Collection[str]) -> dict[str, str]:
    return {"task_ids": json.dumps([*task_ids])}


def _too_late(connection: Connection, some: Sequence[_Request]) -> list[_Request]:
    """Return those that were not to be stored beside a message that is there by now."""
    return [
        one
        for one in some
        if one.change.unless
        and any(message.name == one.change.unless for message in left(connection, one.task_id))
    ]


def _change(connection: Connection, some: Sequence[_Request], again: bool) -> None:
    """Delete and change what requests say, and delete what *again* adds."""
    for one in some:
        added = one.numbers if again else ()
        if one.change.instead_of or added:
            values = {"of_task": one.task_id, "numbers": [*one.change.instead_of, *added]}
            connection.execute(_DELETE, values)
        if one.change.retires:
            values = {"of_task": one.task_id, "numbers": [*one.change.retires]}
            connection.execute(_RETIRE, values)
        if one.change.takes:
            take(connection, one.task_id, one.change.takes)
