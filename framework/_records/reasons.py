"""Reasons: why a task waits and how it ended, put into words when somebody asks.

What is true of a wait changes while it lasts: how many seconds are left, and which place in the
queue. So a record's ``reason`` holds facts, such as when the wait ends, and whoever shows the task
makes a sentence of them. The facts are a text, which every store and engine carries as it is.

Times in them are wall seconds on the scale of the record's ``created_at``. A reason that is no
such text is already in words: a task that has ended has one, and other engines may give one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from framework._records.jsonsafe import safe_str
from framework._records.records import CancelOutcome, Kind, TaskRecord
from framework._records.statuses import TRAITS, TaskStatus
from framework.exceptions import TaskTimeoutError

_MARK: Final = "@["
"""How the text of facts begins; no reason in words does."""

_TASK: Final = "task "
"""How what stands for the result of a task begins. No name of a message has a space."""

_FEW: Final = 3
"""How many of the tasks are named that one waits for."""

_LONGEST: Final = 300
"""Characters that are kept of an error's message."""

_OUTAGE: Final = '@["unreachable",'
"""How the facts of a wait for a store that fails begin."""


class Facts(NamedTuple):
    """What a task waits for.

    Attributes:
        kind: One of the keys of `_WORDS`.
        until: Wall second at which the wait ends; None if that is not known.
        values: What else the words need, in the order of the arguments in `_WORDS`.
        rest: Words that were added to the facts; "" for none.
    """

    kind: str
    until: float | None
    values: list[Any]  # plain JSON
    rest: str


# -- making


def cancelled(begun: bool) -> str:
    """Return the reason of a task that was cancelled while it waited; see `has_begun`."""
    return f"it was cancelled {'while it waited to go on' if begun else 'before it started'}"


def delayed(until: float) -> str:
    """Return the reason of a task that is handed to the engine at wall second *until*."""
    return _text("delayed", until)


def after(task_ids: Sequence[str]) -> str:
    """Return the reason of a task that waits for others to end."""
    return _text("after", None, task_ids[:_FEW], len(task_ids))


def retrying(until: float, attempt: int, attempts: int, error: str | None) -> str:
    """Return the reason of a task that waits for its next attempt.

    Args:
        until: Wall second of the next attempt.
        attempt: Number of the attempt that has failed, from 1.
        attempts: How many attempts there may be.
        error: What it has raised, from `error_text`; None if unknown.
    """
    return _text("retrying", until, attempt, attempts, error)


def throttled(until: float | None, name: str, rate: int, window: float) -> str:
    """Return the reason of a task that waits for a throttle.

    Args:
        until: Wall second of the slot that it can have; None if unknown.
        name: Name of the throttled function.
        rate: How many calls a window allows.
        window: Length of the window in seconds.
    """
    return _text("throttled", until, name, rate, window)


def sleeping(until: float) -> str:
    """Return the reason of a task that sleeps until wall second *until*."""
    return _text("sleeping", until)


def unreachable(since: float, error: BaseException) -> str:
    """Return the reason of a task that waits for its store, which fails since wall second *since*.

    Args:
        since: From then on it waits.
        error: Why the store fails.
    """
    return _text("unreachable", None, since, safe_str(error, _LONGEST))


def receiving(until: float | None, names: Sequence[str]) -> str:
    """Return the reason of a task that waits for messages, until wall second *until* at most.

    Args:
        until: None for no end.
        names: Those of the messages, and `result_of` the tasks for whose results it waits.
    """
    return _text("receiving", until, *names)


def result_of(task_id: str) -> str:
    """Return what stands among the names of messages for the result of a task."""
    return f"{_TASK}{task_id}"


def has_begun(attempts: int, reason: str) -> bool:
    """Return whether a task that is PENDING has begun before, by its attempts and its reason."""
    facts = facts_of(reason)
    return attempts > 0 or (facts is not None and facts.kind in _AMID)


def is_amid(reason: str) -> bool:
    """Return whether a task that waits for this reason does so in its own code."""
    facts = facts_of(reason)
    return facts is not None and facts.kind in _IN_ITS_CODE


def is_outage(reason: str) -> bool:
    """Return whether a task that waits for this reason waits for its store, which fails."""
    return reason.startswith(_OUTAGE)


def message_names(reason: str) -> Sequence[str]:
    """Return the names of the messages that a task waits for, by its reason."""
    facts = facts_of(reason)
    return facts.values if facts is not None and facts.kind == "receiving" else ()


def awaited_tasks(reason: str) -> Sequence[str]:
    """Return the ids of the tasks for whose results a task waits, by its reason."""
    names = message_names(reason)
    return [one.removeprefix(_TASK) for one in names if one.startswith(_TASK)]


def error_text(error: BaseException) -> str:
    """Return the type and the message of an error in one text."""
    return f"{type(error).__name__}: {safe_str(error, _LONGEST)}"


def _text(kind: str, until: float | None, *values: object) -> str:
    return "@" + json.dumps([kind, until, *values], separators=(",", ":"))


# -- reading


def facts_of(reason: str) -> Facts | None:
    """Return the facts in a reason; None if it is in words."""
    if not reason.startswith(_MARK):
        return None
    try:
        (kind, until, *values), end = json.JSONDecoder().raw_decode(reason, 1)
    except ValueError:
        return None
    return Facts(kind, until, values, reason[end:])


def last_error(record: TaskRecord) -> str | None:
    """Return type and message of the last attempt's error; None if the task waits for no other."""
    if record.last_error is not None:
        return record.last_error
    facts = facts_of(record.reason)
    if facts is None or facts.kind != "retrying":
        return None
    error: str | None = facts.values[2]
    return error


def in_words(reason: str, now: float | None, *, whole: bool = False) -> str:
    """Return a reason in words.

    Args:
        reason: The reason of a record.
        now: The time on the scale of the record's ``created_at``; None if unknown.
        whole: Whether to include the message of an error, and not only its type.
    """
    facts = facts_of(reason)
    if facts is None:
        return reason
    values = facts.values
    if facts.kind == "retrying" and not whole and values[2] is not None:
        values = [*values[:2], values[2].partition(":")[0]]
    if facts.kind == "unreachable" and not whole:
        values = values[:1]
    due = Due(facts.until, now)
    try:
        return _WORDS[facts.kind](due, *values) + facts.rest
    except (KeyError, TypeError):  # a newer release has written it
        return f"it waits: {facts.kind}{facts.rest}"


class Due(NamedTuple):
    """When a wait ends.

    Attributes:
        until: Wall second at which it ends; None if unknown.
        now: The time on the same scale; None if unknown.
    """

    until: float | None
    now: float | None

    @property
    def left(self) -> float | None:
        """How many seconds are left; None if unknown."""
        return None if self.until is None or self.now is None else self.until - self.now

    def __str__(self) -> str:
        """Return when it is: "12:00:20 UTC, in 12.4 s", or "later" if nobody knows."""
        if self.until is None:
            return "later"
        at = moment(self.until, self.now)
        return at if self.left is None else f"{at}, in {span(self.left)}"


def _delayed(due: Due) -> str:
    # Seen for longer only where no process takes it, as workers over a store do.
    over = "its delay is over: it waits for a process that knows its function"
    return over if _is_over(due) else f"delayed until {due}"


def _sleeping(due: Due) -> str:
    return "its sleep is over" if _is_over(due) else f"sleeps until {due}"


def _receiving(due: Due, *names: str) -> str:
    messages = [repr(one) for one in names if not one.startswith(_TASK)]
    tasks = [one for one in names if one.startswith(_TASK)]
    told = [f"message {' or '.join(messages)}"] if messages else []
    if tasks:
        more = [f"{len(tasks) - _FEW:,} more"] if len(tasks) > _FEW else []
        told.append(f"{' or '.join([*tasks[:_FEW], *more])} to end")
    at = "" if due.until is None else f" until {due}"
    return f"waits for {' or '.join(told)}{at}"


def _unreachable(due: Due, since: float, why: str = "") -> str:
    at = moment(since, due.now)
    told = f"waits for the store, which cannot be reached since {at}"
    return f"{told}: {why}" if why else told


def _retrying(due: Due, attempt: int, attempts: int, error: str | None) -> str:
    told = "" if error is None else f" with {error}"
    at = "is due now" if _is_over(due) else f"at {due}" if due.until is not None else "comes later"
    return f"attempt {attempt} of {attempts} failed{told}; the next {at}"


def _is_over(due: Due) -> bool:
    return due.left is not None and due.left <= 0


def _after(_: Due, task_ids: list[str], many: int) -> str:
    named = [*task_ids, f"{many - len(task_ids):,} more"] if many > len(task_ids) else task_ids
    if len(named) == 1:
        return f"waits for task {named[0]} to end"
    return f"waits for tasks {', '.join(named[:-1])} and {named[-1]} to end"


def _throttled(due: Due, name: str, rate: int, window: float) -> str:
    left = due.left
    if left is None:
        following = "" if due.until is None else f"; next slot at {due}"
    else:
        following = f"; next slot in {span(left)}" if left > 0 else "; its slot is free now"
    return f"throttle {name} {rate}/{window:g} s is full{following}"


_IN_ITS_CODE: Final = {"sleeping", "receiving"}
"""The kinds of waits at which the code of a task stands."""

_AMID: Final = {"retrying", *_IN_ITS_CODE}
"""The kinds of waits in which a task has done a part of its work."""

_WORDS: Final[dict[str, Callable[..., str]]] = {
    "after": _after,
    "delayed": _delayed,
    "retrying": _retrying,
    "sleeping": _sleeping,
    "receiving": _receiving,
    "throttled": _throttled,
    "unreachable": _unreachable,
}
"""For each kind of facts the function that words them: of a `Due` and the values."""


# -- the words about a task


class Scene(Protocol):
    """What words about a task need besides its record."""

    def monotonic(self) -> float:
        """Return the time by the framework's clock."""
        ...

    def queued(self, record: TaskRecord) -> str:
        """Return where a task waits that is PENDING for no other reason: "queued 3rd of 12"."""
        ...

    def kind(self, record: TaskRecord) -> Kind | None:
        """Return where the task's function runs; None if unknown."""
        ...


def reason_of(
    record: TaskRecord, scene: Scene | None, *, whole: bool = False, details: bool = True
) -> str:
    """Return in words why a task waits or how it ended; "" if its other fields say it all.

    Args:
        record: Its record, which must not change meanwhile.
        scene: Where it is; None if unknown, for words without positions and remaining times.
        whole: Whether to include the message of the last attempt's error.
        details: Whether to include what a store or a broker has said, which may name hosts.
    """
    status = record.status
    if record.rest is None and status is not TaskStatus.PENDING:
        # At once, since most tasks of a list are like this.
        return ""
    reason = record.reason
    if not details and facts_of(reason) is None:
        # Whoever puts the message of an error into a reason, puts it behind a colon.
        reason = reason.partition(": ")[0]
    if status.is_final:
        return in_words(reason, None)
    told = reason
    if reason:
        told = in_words(reason, _now(record, scene), whole=whole)
    elif status is TaskStatus.PENDING:
        told = "queued" if scene is None else scene.queued(record)
    if record.cancel_asked:
        return f"{told}; {_asked(record, scene)}".removeprefix("; ")
    return told


def explain(record: TaskRecord, scene: Scene | None) -> str:
    """Return in words what a task is doing, why it waits and until when, or how it ended.

    Args:
        record: Its record, which must not change meanwhile.
        scene: Where it is; None if unknown, for words without positions and remaining times.
    """
    if record.status.is_final:
        return _ending(record, scene)
    told = reason_of(record, scene, whole=True)
    if record.status is TaskStatus.PENDING or record.reason:
        return told
    return f"{_running(record, scene)}; {told}".removesuffix("; ")


def cancel_of(record: TaskRecord) -> CancelOutcome | None:
    """Return what has become of the request to cancel a task; None if there was none."""
    if record.status is TaskStatus.CANCELLED:
        return CancelOutcome.CANCELLED
    if not record.cancel_asked:
        return None
    return CancelOutcome.CANNOT if record.status.is_final else CancelOutcome.ASKED


def _asked(record: TaskRecord, scene: Scene | None) -> str:
    runs = record.status is TaskStatus.RUNNING
    if runs and scene is not None and scene.kind(record) == "thread":
        return f"asked to cancel: {THREAD_STOPS}"
    return "asked to cancel"


THREAD_STOPS: Final = "its thread cannot be stopped; it stops where it calls check_cancelled()"
"""Why a cancellation of a running function may take effect later, or never."""


def _running(record: TaskRecord, scene: Scene | None) -> str:
    if record.started is None:
        return "running"
    told = f"running since {moment(record.wall_second(record.started), _now(record, scene))}"
    if scene is not None:
        told += f", for {span(max(scene.monotonic() - record.started, 0.0))}"
    return told + _attempt(record)


def _ending(record: TaskRecord, scene: Scene | None) -> str:
    status, ended = record.status, record.ended
    parts = [TRAITS[status].words]
    if ended is not None:
        parts.append(f"at {moment(record.wall_second(ended), _now(record, scene))}")
        if record.started is not None:
            parts.append(f"after {span(max(ended - record.started, 0.0))}")
    error = record.error
    if status is TaskStatus.FAILED and error is not None:
        parts.append(f"with {error_text(error)}")
    told = " ".join(parts) + _attempt(record)
    if record.reason:
        told += f": {reason_of(record, scene)}"
    if isinstance(error, TaskTimeoutError) and status is TaskStatus.TIMEOUT and error.limit:
        told += f" of {error.limit:g} s"
    if record.last_error is not None:
        told += f"; the last attempt had failed with {record.last_error}"
    if record.still_running:
        told += "; its function still runs, since a thread cannot be stopped"
    if record.cancel_asked and status is not TaskStatus.CANCELLED:
        told += "; it was asked to cancel, but ended otherwise"
    return told


def _attempt(record: TaskRecord) -> str:
    return f", attempt {record.attempts}" if record.attempts > 1 else ""


def _now(record: TaskRecord, scene: Scene | None) -> float | None:
    """Return the time on the scale of the record's ``created_at``, as the facts have it."""
    return None if scene is None else record.wall_second(scene.monotonic())


# -- times


def moment(at: float, now: float | None = None) -> str:
    """Return wall second *at* as a time of day in UTC, with the date unless that is today's.

    UTC, as all timestamps of a task: the reader may be on another machine than the process.
    """
    try:
        told = datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):
        return "a time after the year 9999"
    today = now is not None and told.date() == datetime.fromtimestamp(now, UTC).date()
    return told.strftime("%H:%M:%S UTC" if today else "%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """Return a number of seconds, 0 or more, as a person would say it: "12.4 s", "5 min 3 s"."""
    if seconds < _SHORT:
        return f"{max(round(seconds * 1_000), 1)} ms"
    if round(seconds, 1) < _MINUTE:
        return f"{round(seconds, 1):g} s"
    if seconds > _LONG:
        return "years"
    whole = round(seconds)
    for unit, name, lower, below in _UNITS:
        if whole < unit * below:
            more = whole % unit // lower
            return f"{whole // unit} {name}" + (f" {more} {_NAMES[lower]}" if more else "")
    return f"{whole // _DAY} d"


_SHORT: Final = 0.0995
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400
_LONG: Final = 1_000 * _DAY
_NAMES: Final = {1: "s", _MINUTE: "min", _HOUR: "h"}
_UNITS: Final = (
    (_MINUTE, "min", 1, 60),
    (_HOUR, "h", _MINUTE, 24),
    (_DAY, "d", _HOUR, 10),
)
"""For each unit its name, the smaller unit beside it, and below how many it is used."""
