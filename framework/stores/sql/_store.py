"""SQLStore: the store that the framework uses, made of the mirror and the writer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from sqlalchemy.engine import URL

from framework._records import checks
from framework._records.reasons import span
from framework._records.records import TaskRecord
from framework._records.schedules import RunClaim, ScheduleState
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework._tasks.wire import settled
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework.exceptions import StoreUnavailableError
from framework.protocols import Features, StoreHost, WindowAnswer, WindowRequest
from framework.stores.sql._backlog import Backlog, Permitted, Told
from framework.stores.sql._dialects.chosen import checked_url, shown
from framework.stores.sql._reading.history import History
from framework.stores.sql._reading.lists import Lists, answering
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._reading.roster import Roster
from framework.stores.sql._shared.opening import open_in_time
from framework.stores.sql._shared.site import Pace, site_of
from framework.stores.sql._shared.transactions import AppTransactions
from framework.stores.sql._tables.database import FAULTS, Database, why
from framework.stores.sql._tables.rows import can_be_kept
from framework.stores.sql._writing.steps import StepRows
from framework.stores.sql._writing.writer import Writer

_LOGGER = SafeLogger("asyncframe")

_NOT_WRITTEN: Final = "the store could not write %d task records before it was closed: %s"


class SQLStore:
    """Keeps the tasks of several processes in one database.

    Pass it to ``setup_async_framework(app, store=SQLStore("sqlite:///tasks.db"))``. With
    ``uvicorn --workers 4`` every worker then knows the tasks of all workers, and the history
    survives a restart. The store keeps results, as JSON according to the return annotation.
    It keeps the arguments of tasks that have not COMPLETED, as JSON according to the
    annotations of their parameters, if the function is decorated.

    Tasks only wait for memory. One thread, "asyncframe-store", writes in batches and reads what
    other processes have written. Each process holds the latest 10,000 finished tasks in memory.
    It counts older ones, and reads them from the database when somebody asks for them.

    While the database fails, up to 100,000 records wait; after that, new tasks are refused. In
    ``get_stats()``, ``store_errors`` counts failed attempts and ``store_backlog`` waiting records.

    If a process dies, or hangs for six seconds, the others detect it. Its live tasks end
    INTERRUPTED within ten seconds, and mostly within one or two if it was killed.

    Args:
        url: The database as a SQLAlchemy URL: ``sqlite:///tasks.db`` (a file on a local
            disk) or ``postgresql://user:password@host/name``.
        durable: Whether ``await submit(...)``, and a submission from a thread, return only
            when the record is on disk. Calling a decorated function in a coroutine never
            waits.
        keep_arguments: The arguments of a task are kept if they take at most this many bytes
            of JSON; 0 or False to keep none.

    Attributes:
        durable: Like the argument.
        keep_arguments: Like the argument; 0 for False.

    Raises:
        TypeError: If *url* is not a string or URL, *durable* is not a bool, or *keep_arguments*
            is not an integer.
        ValueError: If *url* is for another database, or for one in memory, or
            *keep_arguments* is negative.
        ImportError: If SQLAlchemy or the database's driver is not installed.
    """

    keeps_chains: Final = True

    def __init__(self, url: str | URL, durable: bool = False, keep_arguments: int = 65_536) -> None:
        self._url: URL = checked_url(url)
        self.durable: bool = checks.flag("durable", durable)
        self.keep_arguments: int = checks.amount("keep_arguments", keep_arguments)
        # Here already, for an error where it is made; it connects when it is opened.
        self._database = Database(self._url, self.durable)
        self._transactions = AppTransactions(self._database, self)
        self._roster, self._steps = Roster(self._database), StepRows(self._database)
        self._lists = Lists(self)
        self._pace, self._open = Pace(), False
        self._begin(None)

    def __repr__(self) -> str:
        return f"SQLStore({shown(self._url)!r})"

    def _begin(self, host: StoreHost | None) -> None:
        self._clock = SystemClock()
        self._backlog = Backlog(self._clock)
        self._mirror = Mirror(self._clock if host is None else host.clock, self._backlog)

    @property
    def features(self) -> Features:
        """What it can do; see `protocols.Featured`."""
        return Features(
            shared=self,
            pages=self._lists,
            counts=self._lists,
            groups=self._lists,
            times=self._lists,
            calls=self,
            requeue=self,
            leaving=self,
            steps=self._steps,
            messages=self._steps.messages,
            batching=self,
            large=self,
            processes=self._roster,
            schedules=self,
            places=self,
            windows=self,
            directory=self,
            asking=self,
            news=self,
            fallible=self,
            transactional=self._transactions,
            chains=self,
        )

    # -- beginning and ending

    def open(self, host: StoreHost) -> None:
        """Create the tables if needed, read the history and start writing; blocks.

        Raises:
            StoreUnavailableError: If the database cannot be used, for five seconds; at once, if
                a newer release has made its tables; or if processes of an older release still
                use them after a minute.
            RuntimeError: If it is open: each framework needs a store of its own.
        """
        if self._open:
            raise RuntimeError(
                f"{self!r} is already in use by a framework: give each framework its own "
                "SQLStore; they may have the same url"
            )
        file = self._database.dialect.file_of(self._url)
        if file is not None and not (folder := file.parent).is_dir():
            raise StoreUnavailableError(f"{self!r} cannot be used: there is no folder {folder}")
        self._begin(host)
        try:
            open_in_time(self._database, self._clock, self._pace, partial(self._enter, host))
        except BaseException as error:
            self._database.close()
            if isinstance(error, FAULTS):
                # Where in its driver it failed fills a screen, and says nothing of the database.
                error.__cause__, error.__suppress_context__ = None, True
                cause = error.with_traceback(None)
                raise StoreUnavailableError(f"{self!r} cannot be used: {why(error)}") from cause
            raise
        self._open = True

    def _enter(self, host: StoreHost) -> None:
        """Enter among the processes of the database, and start the thread."""
        site = site_of(self._database, self._backlog, host, self._clock, self._pace)
        writer = Writer(site, self._mirror, self.keep_arguments)
        writer.enter()
        self._transactions.open(site.membership, writer.follower.submissions)
        self._history = History(site, self._mirror, writer.follower, writer.pages)
        self._lists.open(self._history)
        end = partial(self._ask_to_cancel, at_once=True)
        self._steps.open(site, writer.follower.submissions, end)
        writer.start()
        self._writer = writer

    def close(self, patience: float) -> None:
        """Write waiting records for at most *patience* seconds and close; blocks.

        Records that could not be written are logged. The latest finished tasks can still be
        read until the store is opened again.
        """
        if not self._open:
            return
        self._open = False
        self._steps.close(patience)
        if not self._writer.close(patience):
            fault = self._backlog.fault or f"it took longer than {span(patience)}"
            _LOGGER.error(_NOT_WRITTEN, len(self._backlog), fault)
        self._backlog.close()
        self._clock.close()
        self._database.close()

    # -- what the framework tells

    def note(self, record: TaskRecord) -> None:
        """Queue a live record that is new or has changed; half a microsecond, any thread.

        Raises:
            StoreUnavailableError: If it is new and 100,000 records wait to be written.
        """
        self._backlog.note(record)

    def together(self, task_ids: Collection[str]) -> AbstractContextManager[None]:
        """Write at once what comes together, up to 5,000 records; see `protocols.BatchingStore`."""
        return self._backlog.together(task_ids)

    def put(self, record: TaskRecord) -> None:
        """Store a record that has just become final; any thread."""
        # In this order: at any moment it is known here as live, as final or as both.
        self._mirror.put(record)
        self._backlog.put(record)

    def secure(self, record: TaskRecord, told: Told) -> None:
        """Call *told* when the current state of a record is committed, or after five seconds.

        Args:
            record: Live or final.
            told: Called once, on another thread, with None or a `StoreUnavailableError`.
        """
        self._backlog.secure(record, told)

    def start(self, record: TaskRecord, told: Permitted) -> None:
        """Store that a task starts, if it still may; see `protocols.RequeueStore`."""
        self._backlog.start(record, told)

    def release(self, record: TaskRecord) -> None:
        """Leave a task to the other processes; see `protocols.RequeueStore`."""
        self._backlog.release(record)

    def leave_behind(self, record: TaskRecord) -> bool:
        """Leave a task as it is stored; see `protocols.LeavingStore`."""
        return self._backlog.leave(record)

    def settle(self, record: TaskRecord, result: Any) -> Any:  # whatever the task returned
        """Return a result as every process reads it: via JSON, by the return annotation.

        Raises:
            TypeError: If JSON has nothing for it, or it does not fit the annotation.
            ValueError: If it is longer than a mebibyte of JSON.
        """
        value, text = settled(registry.find_function(record.name), result)
        if text is not None and not record.status.is_final:
            # The text, since whoever gets the result may change it before it is written.
            record.store_note = text
        return value

    # -- what the framework asks; never blocks

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task that is in memory; None for any other."""
        return self._mirror.get(task_id)

    def active(self) -> Sequence[TaskRecord]:
        """Return the live tasks of other processes; see `protocols.LargeStore`."""
        with answering(self):
            return self._history.live() if self._open else self._mirror.others()

    def unread(self) -> Sequence[TaskRecord]:
        """Return the failures of this process that nobody has read, and that were not logged."""
        return self._mirror.unread()

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Sequence[TaskRecord]]:
        """Remove the oldest finished tasks of all processes; see `protocols.TaskStore`.

        They are gone here immediately; the database and other processes follow. Records that
        are not in memory are counted, and with *completed* reported to the host as the
        database deletes them.
        """
        removed, records, bound = self._mirror.remove(
            ended_before=ended_before, keep=keep, completed=completed
        )
        if bound is not None and self._open:
            rest = completed and removed > len(records)
            self._writer.remove(bound, [str(one.task_id) for one in records] if rest else None)
        return removed, records

    def figures(self) -> dict[str, int]:
        """Return the number of tasks of each status, without this process's live ones.

        Also ``store_errors``, the number of failed attempts to use the database, and
        ``store_backlog``, the number of records that wait to be written.
        """
        errors, backlog = self._backlog.errors if self._open else 0, len(self._backlog)
        return self._mirror.figures() | {"store_errors": errors, "store_backlog": backlog}

    def fault(self) -> str:
        """Return the latest error of the failing database; "" while it works."""
        return self._backlog.fault if self._open else ""

    # -- what may block; `StoreUnavailableError` if the database has to be asked, and fails

    def list(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return finished tasks in the order of their end, then the others' live ones.

        If not all of them are in memory, they are read from the database, some 30,000 a second.
        Waits until what others have committed is read, but not long for a database that fails.
        """
        with answering(self):
            return self._history.records(status) if self._open else self._mirror.records(status)

    def has(self, task_id: str) -> bool:
        """Return whether a task that is not live here has this id; see `protocols.LargeStore`."""
        if self._backlog.free(task_id) is not None or self._mirror.has_other(task_id):
            return True
        is_known = self._mirror.is_whole and self._writer.follower.is_close
        return not is_known and bool(self.fetch([task_id]))

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of some ids from the database; see `protocols.SharedStore`."""
        wanted = [task_id for task_id in task_ids if can_be_kept(task_id)]
        self._backlog.let_write(wanted)
        with answering(self), self._database.reading() as connection:
            return self._writer.follower.read(connection, wanted)

    def fetch_call(self, task_id: str) -> str | None:
        """Return the kept arguments of a task as JSON; see `protocols.CallStore`."""
        if not can_be_kept(task_id):
            return None
        with answering(self), self._database.reading() as connection:
            return self._writer.statements.call(connection, task_id)

    def is_alone(self) -> bool:
        """Return whether no other process shares the database; see `protocols.SharedDirectory`.

        A process writes all its records before it leaves in order.
        """
        with answering(self), self._database.reading() as connection:
            return self._writer.membership.is_alone(connection)

    def doubt(self) -> StoreUnavailableError | None:
        """Return why other processes may be unable to write; None if this one can write."""
        if not (fault := self._backlog.fault):
            return None
        return StoreUnavailableError(
            f"{self!r} cannot be written: {fault}; so this process may not know tasks that other "
            "processes have accepted; try again later"
        )

    # -- unknown ids, see `protocols.AskingDirectory`; may block

    def ask(self) -> int:
        """Ask all other processes to write what they have accepted."""
        with answering(self):
            return self._writer.inquiries.ask()

    def is_answered(self, number: int) -> bool:
        """Return whether all other live processes have done so."""
        with answering(self):
            return self._writer.inquiries.is_answered(number)

    def expected(self, task_ids: Collection[str]) -> Collection[str]:
        """Return those ids that another process will write."""
        with answering(self):
            return self._writer.inquiries.expected([one for one in task_ids if can_be_kept(one)])

    def request_cancel(self, task_id: str) -> bool:
        """Ask the process of a live task to cancel it; see `protocols.SharedStore`."""
        return self._ask_to_cancel(task_id, at_once=False)

    def _ask_to_cancel(self, task_id: str, *, at_once: bool) -> bool:
        if not can_be_kept(task_id):
            return False
        self._backlog.let_write([task_id])
        with answering(self), self._database.writing() as connection:
            version = self._writer.statements.advance(connection, "").version
            self._writer.follower.submissions.move(connection, version, task_id)
            asked = self._writer.statements.request_cancel
            owner = asked(connection, task_id, version, at_once=at_once)
        if owner == "":
            # There is no process that would end it.
            self._writer.follower.settle_soon()
        return owner is not None

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* with the ids of tasks of other processes that change, 0.05 s later."""
        return self._writer.follower.tell(told)

    # -- places, see `protocols.SharedPlaces`; never blocks

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place in a line of all processes."""
        self._writer.lines.join(request, told)

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines."""
        self._writer.lines.leave(task_id)

    # -- windows, see `protocols.SharedWindows`; never blocks

    def reserve(self, request: WindowRequest, told: Callable[[WindowAnswer], object]) -> None:
        """Count a call in a window of all processes."""
        self._writer.windows.reserve(request, told)

    def give_back(self, key: str, entry: str) -> None:
        """Take a counted call out of its window."""
        self._writer.windows.give_back(key, entry)

    # -- schedules, see `protocols.ScheduleBook`; may block

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs, and return what is known about it."""
        with answering(self):
            return self._writer.schedules.enter(name, timing, now)

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of a schedule, in one transaction with the row of its task."""
        with answering(self):
            return self._writer.schedules.claim(name, due, record, skip)

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume a schedule for all processes; False if the name is not known."""
        with answering(self):
            return self._writer.schedules.pause(name, paused, now)

    def schedules(self) -> Sequence[ScheduleState]:
        """Return the schedules of all processes, by name."""
        with answering(self):
            return self._writer.schedules.all()
