"""A record as plain JSON: what is kept of it, and what comes back."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from framework import TaskStatus, background_task
from framework._records.records import Heading
from framework.exceptions import (
    RemoteTaskError,
    TaskCancelledError,
    TaskInterruptedError,
    TaskTimeoutError,
)
from framework.protocols import TaskRecord, dump_record, load_record


class Times:
    """Two times that stand still: so many seconds since the epoch, and since a start."""

    def __init__(self, time: float, monotonic: float) -> None:
        self._time, self._monotonic = time, monotonic

    def time(self) -> float:
        """Return the wall clock."""
        return self._time

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        return self._monotonic


@background_task(name="facts.price")
def price() -> Decimal:
    """Return a price."""
    return Decimal("1.50")


def record(status: TaskStatus, **known: Any) -> TaskRecord:
    """Return a record of a task of `price`, submitted at second 1,000 of the epoch."""
    made = TaskRecord()
    made.task_id, made.heading, made.status = "7", Heading("facts.price", ""), status
    made.created_at, made.created, made.queued = 1_000.0, 50.0, 50.0
    made.started = made.ended = made.result = made.code = made.rest = None
    made.attempts = made.instruction = 0
    for name, value in known.items():
        setattr(made, name, value)
    return made


def there_and_back(made: TaskRecord, clock: Times) -> TaskRecord:
    """Return what comes back of a record after JSON."""
    return load_record(json.loads(json.dumps(dump_record(made))), clock)


def test_what_says_nothing_is_left_out() -> None:
    """A task that has just been submitted is four values."""
    assert dump_record(record(TaskStatus.PENDING)) == {
        "task_id": "7",
        "name": "facts.price",
        "status": "pending",
        "created_at": 1_000.0,
    }


def test_a_result_has_its_type() -> None:
    """A result comes back by the annotation of the function that the name stands for."""
    made = record(TaskStatus.COMPLETED, started=51.0, ended=53.5, attempts=2)
    made.result = Decimal("1.50")

    found = there_and_back(made, Times(1_010.0, 60.0))

    assert (found.result, type(found.result), found.attempts) == (Decimal("1.50"), Decimal, 2)
    assert (found.created, found.started, found.ended) == (50.0, 51.0, 53.5)


def test_stamps_are_those_of_this_process() -> None:
    """Stamps move with the clock that reads them, and keep their distances."""
    made = record(TaskStatus.COMPLETED, started=51.0, ended=53.5, result=Decimal(1))

    found = there_and_back(made, Times(1_100.0, 5.0))

    assert (found.created_at, found.created) == (1_000.0, -95.0)
    assert (found.started, found.ended) == (-94.0, -91.5)


def test_what_few_tasks_have() -> None:
    """Progress of nothing, words, and what was asked for come back."""
    made = record(TaskStatus.RUNNING, started=51.0, remote=True)
    made.progress, made.progress_message = 0.0, "begins"
    made.cancel_requested, made.reason = True, "waits"

    found = there_and_back(made, Times(1_010.0, 60.0))

    assert (found.progress, found.progress_message) == (0.0, "begins")
    assert (found.cancel_requested, found.reason, found.remote) == (True, "waits", True)
    assert not found.read


def test_a_failure_has_an_error() -> None:
    """A task that failed comes back with its error, or one that says how it ended; read."""
    expected: list[tuple[TaskStatus, BaseException | None, type[BaseException]]] = [
        (TaskStatus.FAILED, KeyError("lost"), KeyError),
        (TaskStatus.FAILED, None, RemoteTaskError),
        (TaskStatus.CANCELLED, None, TaskCancelledError),
        (TaskStatus.INTERRUPTED, None, TaskInterruptedError),
        (TaskStatus.TIMEOUT, None, TaskTimeoutError),
    ]
    for status, given, error in expected:
        found = there_and_back(record(status, ended=53.5, error=given), Times(1_010.0, 60.0))
        assert (type(found.error), found.read) == (error, True), status


def test_a_result_that_is_no_json() -> None:
    """A result that JSON has nothing for is refused."""
    made = record(TaskStatus.COMPLETED, result=object())

    with pytest.raises(TypeError, match=r"^the result of .*price cannot be kept: "):
        dump_record(made)


def test_a_fact_that_is_missing() -> None:
    """Without one of the four that are always there no record is made."""
    with pytest.raises(KeyError, match=r"^'created_at'$"):
        load_record({"task_id": "7", "name": "n", "status": "pending"}, Times(0.0, 0.0))
