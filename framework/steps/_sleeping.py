"""Sleeping in a task, for seconds or for months."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from framework._records import checks
from framework._records.steps import SLEEPS
from framework.steps._bodies import DeclaredStep, refused_in_sync_tasks
from framework.steps._branches import current_branch
from framework.steps._matching import Call
from framework.steps._runs import run_of
from framework.steps._sleeps import Wait

_STEP: Final = DeclaredStep(SLEEPS, lambda: None, twin="sleep_sync()")
_UNTIL: Final = _STEP._replace(name=f"{SLEEPS}_until", twin="sleep_until_sync()")
_STEP_SYNC: Final = _STEP._replace(name=f"{SLEEPS}_sync", twin="await sleep()")

UntilOf: TypeAlias = Callable[[float], float]
"""Returns until which wall second a sleep lasts that begins at another one."""


@refused_in_sync_tasks(_STEP)
async def sleep(seconds: float | timedelta) -> None:
    """Sleep, in a task that goes on also over restarts of its process.

    When the sleep begins, its end is stored. After a restart the task sleeps until that moment, and
    not for as long again. A task of which nothing goes on but sleeps, of which none ends within a
    minute, leaves its process: its code ends by an `asyncio.CancelledError`, after which no step
    runs, and begins anew when it is due, wherever there is a place. The time of its limit stands
    still while it sleeps.

    In a task without ``on_restart="resume"``, and outside of any, this is `asyncio.sleep`.

    Args:
        seconds: How long, 0 or more, or a timedelta.

    Raises:
        TypeError: If *seconds* is neither a number nor a timedelta, or the task is a sync
            function: see `sleep_sync`.
        ValueError: If it is out of range.
    """
    await _sleep(_in(seconds))


@refused_in_sync_tasks(_UNTIL)
async def sleep_until(when: datetime) -> None:
    """Sleep until a point in time, as `sleep` does; for no time if that has passed.

    Args:
        when: A datetime with a time zone. The one of the first call counts, also if the code finds
            another one when the task goes on.

    Raises:
        TypeError: If *when* is no datetime.
        ValueError: If it has no time zone.
    """
    await _sleep(_at(when))


def sleep_sync(seconds: float | timedelta) -> None:
    """Sleep as `sleep` does, in a task that is a sync function; elsewhere this is `time.sleep`.

    Such a task leaves its process by an exception that is no `Exception`.
    """
    _sleep_sync(_in(seconds))


def sleep_until_sync(when: datetime) -> None:
    """Sleep as `sleep_until` does, in a task that is a sync function."""
    _sleep_sync(_at(when))


_CALL: Final = Call(SLEEPS, "", has_key=True)
"""Each sleep: of a branch the first one that was not asked for answers, however long it is."""


async def _sleep(until_of: UntilOf) -> None:
    branch = current_branch()
    if branch is None:
        # The loop's own time: there is no task whose framework has another one.
        await asyncio.sleep(_left(until_of))  # noqa: TID251  # as it says
        return
    run = run_of(branch)
    answer = await run.ask(branch, _STEP, _CALL)
    record = run.record_of(branch, _CALL, answer)
    if answer.what != "take":
        if record.answer is None:
            record.answer = json.dumps(until_of(run.sleeps.now()))
            await run.store(branch, record)
        try:
            await run.sleeps.sleep(branch, Wait(json.loads(record.answer)), run.watch)
        except asyncio.CancelledError:
            run.cut_off(record)
            raise
        record.state = "completed"
        await run.store(branch, record)
    await run.turn(branch, record)


def _sleep_sync(until_of: UntilOf) -> None:
    branch = current_branch()
    if branch is None:
        time.sleep(_left(until_of))  # noqa: TID251  # as it says
        return
    run = run_of(branch)
    answer = run.ask_sync(branch, _STEP_SYNC, _CALL)
    record = run.record_of(branch, _CALL, answer)
    if answer.what != "take":
        if record.answer is None:
            record.answer = json.dumps(until_of(run.sleeps.now()))
            run.store_sync(record)
        run.sleeps.sleep_here(Wait(json.loads(record.answer)))
        record.state = "completed"
        run.store_sync(record)


def _left(until_of: UntilOf) -> float:
    now = datetime.now(UTC).timestamp()
    return max(0.0, until_of(now) - now)


def _in(seconds: float | timedelta) -> UntilOf:
    checked = checks.seconds("seconds", seconds, at_least=0)
    return lambda now: now + checked


def _at(when: datetime) -> UntilOf:
    if not isinstance(when, datetime):
        raise TypeError(f"when must be a datetime, not {checks.show(when)}")
    if when.tzinfo is None:
        raise ValueError(
            f"when must have a time zone, such as datetime.now(UTC) has, not {checks.show(when)}"
        )
    second = when.timestamp()
    return lambda _: second
