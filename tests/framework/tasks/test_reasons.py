"""Why a task waits and how it ended, in words."""

from __future__ import annotations

import json
from typing import Any

from framework import Task, TaskStatus
from framework._records import reasons
from framework._records.ids import TaskId
from framework._records.records import Heading, Kind, TaskRecord
from framework.exceptions import TaskInterruptedError, TaskTimeoutError

NOON = 1_800_014_400.0
"""The wall second at which each record was submitted: 2027-01-15 12:00:00 UTC."""

SUBMITTED = 100.0
"""The same by the monotonic clock."""


class Scene:
    """A scene that stands still."""

    def __init__(self, passed: float = 0.0, kind: Kind | None = "thread") -> None:
        self._passed = passed
        self._kind = kind

    def monotonic(self) -> float:
        """Return the second of the submission, and what has passed since."""
        return SUBMITTED + self._passed

    def queued(self, record: TaskRecord) -> str:
        """Return a place."""
        return "queued 3rd of 12"

    def kind(self, record: TaskRecord) -> Kind | None:
        """Return what was given."""
        return self._kind


def record(status: TaskStatus = TaskStatus.PENDING, **fields: Any) -> TaskRecord:
    """Return the record of a task that was submitted at noon; ``ran`` is started and ended."""
    made = TaskRecord()
    made.task_id, made.heading, made.status = TaskId("1"), Heading("app.send", ""), status
    made.created_at, made.created, made.queued = NOON, SUBMITTED, SUBMITTED
    made.attempts, made.instruction = 0, 0
    made.started = made.ended = made.result = made.code = made.rest = None
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def running(**fields: Any) -> TaskRecord:
    """Return a RUNNING one, which started a second after noon."""
    return record(TaskStatus.RUNNING, **({"started": 101.0, "attempts": 1} | fields))


def ended(status: TaskStatus, **fields: Any) -> TaskRecord:
    """Return one that ran for 2.5 s."""
    return record(status, **({"started": 101.0, "ended": 103.5, "attempts": 1} | fields))


RETRY = reasons.retrying(NOON + 20, 2, 4, "ConnectionError: smtp is down")
SLOT = reasons.throttled(NOON + 20, "app.send", 5, 60.0)

WORDS = {
    "queued": (record(), "queued 3rd of 12"),
    "delayed": (
        record(reason=reasons.delayed(NOON + 20)),
        "delayed until 12:00:20 UTC, in 12.4 s",
    ),
    "delay over": (
        record(reason=reasons.delayed(NOON + 7.6)),
        "its delay is over: it waits for a process that knows its function",
    ),
    "for a day": (
        record(reason=reasons.delayed(NOON + 86_407.6)),
        "delayed until 2027-01-16 12:00:07 UTC, in 1 d",
    ),
    "for ever": (
        record(reason=reasons.delayed(1e300)),
        "delayed until a time after the year 9999, in years",
    ),
    "retrying": (
        running(reason=RETRY),
        "attempt 2 of 4 failed with ConnectionError; the next at 12:00:20 UTC, in 12.4 s",
    ),
    "retry due": (
        running(reason=reasons.retrying(NOON + 7.6, 1, 2, None)),
        "attempt 1 of 2 failed; the next is due now",
    ),
    "throttled": (
        running(reason=SLOT),
        "throttle app.send 5/60 s is full; next slot in 12.4 s",
    ),
    "slot free": (
        running(reason=reasons.throttled(NOON + 7.6, "app.send", 1, 0.5)),
        "throttle app.send 1/0.5 s is full; its slot is free now",
    ),
    "slot unknown": (
        running(reason=reasons.throttled(None, "app.send", 1, 0.5)),
        "throttle app.send 1/0.5 s is full",
    ),
    "in words": (record(reason="the broker is away"), "the broker is away"),
    "added words": (
        running(reason=SLOT + "; its record is cut"),
        "throttle app.send 5/60 s is full; next slot in 12.4 s; its record is cut",
    ),
    "a newer kind": (record(reason='@["sleepy",null,7]'), "it waits: sleepy"),
    "a newer shape": (record(reason='@["delayed",null,7]'), "it waits: delayed"),
    "no facts": (record(reason="@[what"), "@[what"),
    "running": (running(), ""),
    "cancel asked": (
        running(cancel_requested=True),
        "asked to cancel: its thread cannot be stopped; it stops where it calls check_cancelled()",
    ),
    "cancel asked of a waiting one": (
        record(cancel_requested=True),
        "queued 3rd of 12; asked to cancel",
    ),
    "completed": (ended(TaskStatus.COMPLETED), ""),
    "interrupted": (
        ended(TaskStatus.INTERRUPTED, reason="the framework shut down"),
        "the framework shut down",
    ),
}


def test_the_reason() -> None:
    """A reason says why a task waits and until when, 7.6 s after its submission."""
    tasks = {name: Task(given, scene=Scene(7.6)) for name, (given, _) in WORDS.items()}
    words = {name: words for name, (_, words) in WORDS.items()}
    assert {name: task.reason for name, task in tasks.items()} == words
    assert {name: task.to_dict()["reason"] for name, task in tasks.items()} == words


EXPLAINED = {
    "waiting": (record(), "queued 3rd of 12"),
    "retrying": (
        running(reason=RETRY),
        (
            "attempt 2 of 4 failed with ConnectionError: smtp is down; the next at 12:00:20 UTC, "
            "in 12.4 s"
        ),
    ),
    "running": (running(), "running since 12:00:01 UTC, for 6.6 s"),
    "a further attempt": (
        running(attempts=3),
        "running since 12:00:01 UTC, for 6.6 s, attempt 3",
    ),
    "cancel asked": (
        running(cancel_requested=True),
        (
            "running since 12:00:01 UTC, for 6.6 s; asked to cancel: its thread cannot be stopped; "
            "it stops where it calls check_cancelled()"
        ),
    ),
    "completed": (
        ended(TaskStatus.COMPLETED, attempts=2),
        "completed at 12:00:03 UTC after 2.5 s, attempt 2",
    ),
    "failed": (
        ended(TaskStatus.FAILED, error=ValueError("no")),
        "failed at 12:00:03 UTC after 2.5 s with ValueError: no",
    ),
    "failed otherwise": (
        ended(TaskStatus.FAILED, error=TypeError("set"), reason="its result cannot be kept"),
        "failed at 12:00:03 UTC after 2.5 s with TypeError: set: its result cannot be kept",
    ),
    "timed out": (
        ended(
            TaskStatus.TIMEOUT,
            error=TaskTimeoutError("1", "app.send", 2.5),
            reason="it ran past its time limit",
            still_running=True,
            last_error="ValueError: no",
        ),
        (
            "timed out at 12:00:03 UTC after 2.5 s: it ran past its time limit of 2.5 s; the last "
            "attempt had failed with ValueError: no; its function still runs, since a thread "
            "cannot be stopped"
        ),
    ),
    "cancelled": (
        record(TaskStatus.CANCELLED, ended=103.5, reason="it was cancelled before it started"),
        "cancelled at 12:00:03 UTC: it was cancelled before it started",
    ),
    "interrupted": (
        ended(
            TaskStatus.INTERRUPTED,
            error=TaskInterruptedError("1", "app.send"),
            reason="the framework shut down",
            cancel_requested=True,
        ),
        (
            "interrupted at 12:00:03 UTC after 2.5 s: the framework shut down; it was asked to "
            "cancel, but ended otherwise"
        ),
    ),
}


def test_explained() -> None:
    """explain() says what a task does or how it ended, with the messages of errors."""
    told = {name: Task(given, scene=Scene(7.6)).explain() for name, (given, _) in EXPLAINED.items()}
    assert told == {name: words for name, (_, words) in EXPLAINED.items()}


def test_explained_alone() -> None:
    """Without its framework a task is explained with dates, and without what changes."""
    assert Task(record()).explain() == "queued"
    assert Task(running()).explain() == "running since 2027-01-15 12:00:01 UTC"
    assert Task(running(reason=SLOT)).explain() == (
        "throttle app.send 5/60 s is full; next slot at 2027-01-15 12:00:20 UTC"
    )
    assert Task(record(reason=reasons.delayed(NOON))).explain() == (
        "delayed until 2027-01-15 12:00:00 UTC"
    )


def test_a_coroutine_that_was_asked_to_cancel() -> None:
    """Nothing is said of threads about a task whose function is a coroutine, or is unknown."""
    asked = running(cancel_requested=True)
    assert Task(asked, scene=Scene(kind="loop")).reason == "asked to cancel"
    assert Task(asked, scene=Scene(kind=None)).reason == "asked to cancel"


def test_the_last_error_comes_from_the_reason() -> None:
    """A record from another process has the last attempt's error, and to_dict() its type."""
    task = Task(running(reason=RETRY))
    assert task.last_error == "ConnectionError: smtp is down"
    assert task.to_dict()["last_error_type"] == "ConnectionError"
    assert Task(running(reason=SLOT)).to_dict()["last_error_type"] is None
    assert Task(ended(TaskStatus.COMPLETED)).to_dict()["last_error_type"] is None


def test_no_message_in_the_dict() -> None:
    """The message of an attempt's error is not in to_dict(), which others may see."""
    secret = reasons.retrying(NOON, 1, 2, reasons.error_text(ValueError("password: 1234")))
    assert "1234" not in json.dumps(Task(running(reason=secret)).to_dict())


def test_strange_messages() -> None:
    """A message with lone surrogates and lines gives a short line that UTF-8 can encode."""
    text = reasons.error_text(ValueError("\ud800\n" + "x" * 10_000))
    task = Task(running(reason=reasons.retrying(NOON, 1, 2, text)))
    assert len(task.explain().encode()) < 400
    assert "\n" not in task.explain()
    task.to_dict()["reason"].encode()


STATES = [
    (record(), None),
    (record(cancel_requested=True), "asked"),
    (running(cancel_requested=True), "asked"),
    (ended(TaskStatus.CANCELLED, cancel_requested=True), "cancelled"),
    (ended(TaskStatus.CANCELLED), "cancelled"),
    (ended(TaskStatus.COMPLETED, cancel_requested=True), "cannot"),
    (ended(TaskStatus.COMPLETED), None),
]


def test_what_came_of_a_cancellation() -> None:
    """to_dict()["cancel"] follows from the status, and from whether somebody has asked."""
    told = [Task(given).to_dict()["cancel"] for given, _ in STATES]
    assert told == [outcome for _, outcome in STATES]


SPANS = {
    0.0: "1 ms",
    0.0404: "40 ms",
    0.0994: "99 ms",
    0.0996: "0.1 s",
    12.36: "12.4 s",
    59.94: "59.9 s",
    60.0: "1 min",
    125.2: "2 min 5 s",
    3_599.6: "1 h",
    12_000.0: "3 h 20 min",
    90_000.0: "1 d 1 h",
    900_000.0: "10 d",
    1e300: "years",
}


def test_spans() -> None:
    """A span of time has one or two units."""
    assert {seconds: reasons.span(seconds) for seconds in SPANS} == SPANS
