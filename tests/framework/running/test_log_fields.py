"""The task in log records: which fields they have, inside a task and outside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from framework import TaskManager, background_task, current_task, retry_task
from framework._running.log import install_task_fields
from tests.framework.kinds import EVERY_KIND, Run

LOGGER = logging.getLogger("user")
FIELDS = ("task_id", "task_name", "task_attempt", "task_label")


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    """The fields, and afterwards the factory that was there before."""
    before = logging.getLogRecordFactory()
    install_task_fields()
    yield
    logging.setLogRecordFactory(before)


def fields(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """Return the fields of each record of the user's logger."""
    records = [record for record in caplog.records if record.name == "user"]
    return [tuple(vars(record).get(name, "missing") for name in FIELDS) for record in records]


@EVERY_KIND
async def test_records_inside_a_task(
    task_manager: TaskManager, make: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A record made in a task has its id, name, attempt and label, and one outside has None."""
    seen: list[tuple[str, str, int, str | None]] = []

    def body() -> None:
        task = current_task()
        assert task is not None
        seen.append((str(task.task_id), task.name, 1, None))
        LOGGER.warning("inside")

    await run(task_manager, make(body))
    LOGGER.warning("outside")

    assert fields(caplog) == [*seen, (None,) * 4]


async def test_each_attempt_has_its_number(
    task_manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A record of a retry has the number of that attempt."""

    @background_task(name="flaky", label="order 7")
    @retry_task(max_retries=2, retry_delay=0.0)
    def flaky() -> None:
        LOGGER.warning("try")
        if len(fields(caplog)) < 3:
            raise OSError

    task_id = flaky()
    await task_manager.get_result(task_id)

    assert fields(caplog) == [(task_id, "flaky", attempt, "order 7") for attempt in (1, 2, 3)]


def test_a_format_may_name_them() -> None:
    """A format with these fields works outside a task, too."""
    record = LOGGER.makeRecord("user", logging.INFO, "", 0, "hello", (), None)
    text = logging.Formatter("%(task_id)s %(task_name)s %(task_attempt)s %(message)s")

    assert text.format(record) == "None None None hello"


@pytest.mark.parametrize("name", FIELDS)
async def test_extra_wins(
    task_manager: TaskManager, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A value in extra stays as it is, inside a task and outside, and is no error."""

    def say() -> None:
        LOGGER.warning("mine", extra={name: "mine", "more": 1})

    await task_manager.submit(say, wait=True)
    say()

    at = FIELDS.index(name)
    inside, outside = fields(caplog)
    assert (inside[at], outside[at]) == ("mine", "mine")
    assert inside.count("mine") == outside.count("mine") == 1
    assert "missing" not in inside + outside


def test_extra_wins_through_other_factories(caplog: pytest.LogCaptureFixture) -> None:
    """A value in extra stays as it is when another library has wrapped the factory."""
    ours: Callable[..., logging.LogRecord] = logging.getLogRecordFactory()

    def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return ours(*args, **kwargs)

    logging.setLogRecordFactory(theirs)

    LOGGER.warning("mine", extra={"task_id": 7})

    assert fields(caplog) == [(7, None, None, None)]


def test_installed_once() -> None:
    """A second call changes nothing."""
    factory = logging.getLogRecordFactory()
    install_task_fields()

    assert logging.getLogRecordFactory() is factory
