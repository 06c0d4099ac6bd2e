"""Convert records to rows of the database, and back.

A row has timestamps of the wall clock, and a record has those of this process's monotonic
clock. They are converted by the difference between the two clocks at that moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from framework._records.chains import After
from framework._records.ids import TaskId
from framework._records.jsonsafe import safe_str
from framework._records.pages import wall_end
from framework._records.records import Heading, Restart, TaskRecord, heading_of
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.errors.kept import decode_error, encode_error, reported_error
from framework._tasks.options import NORMAL, PRIORITIES
from framework._tasks.wire import decode_result, encode_result
from framework.exceptions import RemoteTaskError


class TaskRow(NamedTuple):
    """What is read of a task: the facts of its record, and in some queries whose it is.

    Attributes:
        version: That of its last change; 0 if it was not asked for.
        process: The process that has it; "" if it was not asked for.
    """

    task_id: str
    name: str
    description: str
    status: str
    remote: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    attempts: int
    progress: float | None
    progress_message: str
    result: str | None
    error: str | None
    reason: str
    cancel_requested: int
    still_running: int
    run_again_of: str | None
    owner: str | None
    after: str | None = None
    label: str | None = None
    slept: float | None = None
    meta: str | None = None
    arguments: str | None = None
    version: int = 0
    process: str = ""


COLUMNS: Final = TaskRow._fields[:-2]
"""The facts of a record, in this order."""

WRITTEN: Final = (
    *COLUMNS[:-5],
    *("call", "restart", "level", "due_at", "after", "label", "slept", "meta", "arguments"),
)
"""What is written of a task. A new one comes last, since `SUBMISSIONS` has rows in this order."""

_NOTHING: Final[dict[str, Any]] = {}
_SCALARS: Final = (type(None), bool, int, float)
_PENDING: Final = TaskStatus.PENDING
_RUNNING: Final = TaskStatus.RUNNING
_COMPLETED: Final = TaskStatus.COMPLETED
_STATUS_OF: Final = {status.value: status for status in TaskStatus}
NEVER: Final = 1e15
"""The wall second at which a task is due that waits for others; see `chains`."""

_DRAWN: Final = 32
"""The length of random ids; a chosen id of this length counts as random."""

_MAX_BARE: Final = 200

NOT_WHOLE: Final = "its record could not be stored completely: "
"""The beginning of the reason of a task whose record is incomplete in the store."""


class Written(NamedTuple):
    """A record as it is written to the database.

    Attributes:
        text: Its row as JSON, in the order of `WRITTEN`.
        ended_at: When it became final, in wall seconds; None while it is live.
        task_id: Its id.
        restart: What another process needs to run it; None if no other does.
        starts: Whether it becomes RUNNING by this row, if the row may be written.
        waits_for: For a task that begins to wait by this row: its id, one that it waits for, and
            what becomes of it if that has no result; each.
        unwritten: Whether those may be without a row yet.
        goes_on_from: The task whose steps it has from this row on; "" for none.
        name: Of its function, as it stands in the row.
    """

    text: str
    ended_at: float | None
    task_id: str
    restart: Restart | None = None
    starts: bool = False
    waits_for: Sequence[tuple[str, str, str]] = ()
    unwritten: bool = False
    goes_on_from: str = ""
    name: str = ""

    @property
    def is_free(self) -> bool:
        """Whether this row sets the task free for any process."""
        return self.restart is not None and self.restart.state == "free"

    @property
    def sleeps(self) -> bool:
        """Whether the task waits for a time or a message, of which its code knows."""
        # As the reason stands in JSON.
        return self.ended_at is None and ('@[\\"sleeping' in self.text or self.receives)

    @property
    def receives(self) -> bool:
        """Whether it waits for a message, at least."""
        return self.ended_at is None and '@[\\"receiving' in self.text

    @property
    def is_new(self) -> bool:
        """Whether it sets a task free of which nothing was written, nor may have been."""
        # One that has ended may be free already, since it is written as its submission fails.
        return (
            self.is_free
            and self.ended_at is None
            and self.restart is not None
            and not self.restart.written
        )

    @property
    def is_offer(self) -> bool:
        """Whether nothing else has to be written with it, in the same transaction."""
        return self.is_new and not (self.waits_for or self.goes_on_from)

    def as_read(self, version: int) -> TaskRow:
        """Return what is read of it, if it was written with *version* as a free task's."""
        # Without the last ones if an older release has written it.
        facts = dict(zip(WRITTEN, json.loads(self.text), strict=False))
        columns: Any = [facts.get(name) for name in COLUMNS]
        return TaskRow(*columns)._replace(version=version)

    @property
    def has_chosen_id(self) -> bool:
        """Whether a user chose its id."""
        return len(self.task_id) != _DRAWN


def row_of(record: TaskRecord, call: str | None = None, starts: bool = False) -> Written:
    """Return the row of a record, which must not change meanwhile.

    Args:
        record: The record.
        call: Its call, as `StoreHost.call_of` returned it; None to keep what the row has.
        starts: See `Written`.

    Raises:
        TypeError: If its result cannot be put into JSON.
        ValueError: If its result is too long.
    """
    created_at, created = record.created_at, record.created
    started, status = record.started, record.status
    started_at = None if started is None else created_at + (started - created)
    ended_at = None
    if status.is_final:
        ended_at = wall_end(record)
    # Not the attributes: a row is made twice or more for each task.
    rest = record.rest or _NOTHING
    restart: Restart | None = rest.get("restart")
    may_restart = ended_at is None and (
        status is _PENDING or (restart is not None and restart.idempotent)
    )
    error = rest.get("error")
    after: After | None = rest.get("after")
    waits = after is not None and after.waits and status is _PENDING
    row = (
        record.task_id,
        clean(record.name),
        clean(record.description),
        status.value,
        int(rest.get("remote", False)),
        created_at,
        started_at,
        ended_at,
        record.attempts,
        rest.get("progress"),
        clean(rest.get("progress_message", "")),
        _result_text(record) if status is _COMPLETED else None,
        None if error is None else encode_error(error),
        clean(str(rest.get("reason", ""))),
        _mark_of(status, restart, rest),
        int(rest.get("still_running", False)),
        rest.get("run_again_of") or None,
        record.owner,
        call,
        None if restart is None or not may_restart else restart.facts(),
        NORMAL if restart is None else PRIORITIES.index(restart.priority),
        NEVER if waits else None if restart is None or status is not _PENDING else restart.due,
        None if after is None else after.text(),
        None if record.label is None else clean(record.label),
        rest.get("slept"),
        record.meta,
        record.arguments,
    )
    text, name = json.dumps(row), str(row[1])
    written = Written(text, ended_at, record.task_id, restart, starts, name=name)
    if after is None or not waits or after.stored:
        return written
    links = [(record.task_id, parent, after.on_failure) for parent in sorted(after.open)]
    return written._replace(waits_for=links, unwritten=after.unwritten)


ENDS: Final = 1
"""What stands in a row whose task is to be cancelled: if it is free, whoever finds it ends it."""

RAISES: Final = 2
"""The same if its code has begun: whoever takes it goes on, and the cancellation is raised there.

It is above `ENDS`: of two the higher one stays, so nobody overwrites what another one has asked.
"""


def _mark_of(status: TaskStatus, restart: Restart | None, rest: Mapping[str, Any]) -> int:
    """Return the mark in the row of a record, by its rare attributes; 0 if nobody cancels it."""
    if rest.get("cancel_waits"):
        return ENDS if status.is_final else RAISES
    if not rest.get("cancel_requested"):
        return 0
    goes_on = status is _RUNNING and restart is not None and restart.resumes
    return RAISES if goes_on else ENDS


def begin(still: TaskRecord, started: float) -> None:
    """Make a copy of a record RUNNING, whose start was to be stored at monotonic second *started*.

    The task itself does not know of it yet.
    """
    still.status, still.started = TaskStatus.RUNNING, started
    still.attempts += 1


def bare_row_of(record: TaskRecord, error: BaseException, why: str) -> Written:
    """Return a shorter row for a record that the database refuses.

    If the task COMPLETED with a result that is no JSON, it is stored as FAILED with *error*.

    Args:
        record: A copy, which is changed.
        error: Why it was refused.
        why: The same in words.
    """
    record.heading = Heading(record.name[:_MAX_BARE], "", record.owner)
    record.attempts = min(record.attempts, 2**31 - 1)
    record.progress, record.progress_message = None, ""
    record.reason = NOT_WHOLE + why
    failed = record.error
    if failed is not None:
        cls = type(failed)
        record.error = RemoteTaskError(
            f"{cls.__module__}.{cls.__qualname__}", safe_str(failed, _MAX_BARE)
        )
    try:
        return row_of(record)
    except (TypeError, ValueError):
        record.status, record.result, record.error = TaskStatus.FAILED, None, error
        return row_of(record)


def _result_text(record: TaskRecord) -> str:
    encoded: str | None = record.store_note
    if encoded is not None:
        return encoded
    result = record.result
    if type(result) in _SCALARS:
        return json.dumps(result)
    return encode_result(registry.find_function(record.name), result)


def clean(text: str) -> str:
    """Return *text* without lone surrogates and NUL, which databases cannot store."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def can_be_kept(task_id: str) -> bool:
    """Return whether every database can store this id unchanged."""
    return clean(task_id) == task_id


class Unread:
    """A result that nobody has read yet, as JSON text in place of the value.

    Most results of other processes are never read in this one.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def readable(record: TaskRecord) -> TaskRecord:
    """Return *record* with its result decoded."""
    result = record.result
    if type(result) is Unread:
        record.result = decode_result(registry.find_function(record.name), result.text)
    return record


def record_of(row: TaskRow, offset: float) -> TaskRecord:
    """Return the record of a *row*; any thread.

    Args:
        row: Its row.
        offset: Wall clock minus monotonic clock, in seconds.
    """
    record = TaskRecord()
    record.task_id = TaskId(row.task_id)
    about = row.label, row.meta, row.arguments
    record.heading = heading_of(row.name, row.description, row.owner, *about)
    record.status = kind = _STATUS_OF[row.status]
    record.created_at = row.created_at
    record.created = record.queued = created = row.created_at - offset
    # Clocks of several machines differ; no duration may be negative for that.
    started = None if row.started_at is None else max(row.started_at - offset, created)
    record.started = started
    record.ended = None if row.ended_at is None else max(row.ended_at - offset, started or created)
    record.attempts = row.attempts
    record.result = None if row.result is None else Unread(row.result)
    record.code = record.rest = None
    record.instruction = 0
    _add_rest(record, row)
    if kind is not _COMPLETED and kind.is_final:
        record.error = _error_of(record, row.error)
        # Its own process tells of a failure that nobody has read.
        record.read = True
    return record


def _add_rest(record: TaskRecord, row: TaskRow) -> None:
    """Give a record what few have."""
    if row.progress is not None:
        record.progress = row.progress
    if row.progress_message:
        record.progress_message = row.progress_message
    if row.reason:
        record.reason = row.reason
    if row.remote:
        record.remote = True
    if row.cancel_requested:
        record.cancel_requested = True
    if row.still_running:
        record.still_running = True
    if row.run_again_of:
        record.run_again_of = row.run_again_of
    if row.slept:
        record.slept = row.slept
    if row.after:
        record.after = After.of(row.after)


def _error_of(record: TaskRecord, text: str | None) -> BaseException:
    if text is None:
        # Another process wrote so, in one statement for all tasks of the dead one.
        return reported_error(record, record.status, None)
    try:
        return decode_error(text)
    except ValueError:
        return RemoteTaskError("an unknown error", text)
