"""What is known about schedules: in a book that processes share, and for those who ask.

The annotations here are objects and not texts, so that an endpoint may return a `ScheduleInfo`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from framework._records.ids import TaskId
from framework._records.statuses import TaskStatus

RunClaim: TypeAlias = Literal["claimed", "taken", "busy", "paused"]
"""The answer to a process that wants to run a schedule."""

CLOCK_ERROR: Final = 10_800.0
"""Seconds by which a last due time may lie ahead of the clock. If it lies further ahead, it came
from a clock that was wrong. Cron takes the same three hours for a correction of the clock."""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What a `protocols.ScheduleBook` knows about a schedule.

    Attributes:
        name: Its name.
        timing: When it is due, for people, such as ``cron 0 3 * * * (Europe/Berlin)``.
        last_due: The last due time that was claimed or skipped, in seconds since the epoch; of a
            new schedule, when it was entered.
        ran_at: When its last run was claimed, in seconds since the epoch; None before the first.
        task_id: The task of its last run; None before the first.
        paused: Whether it is paused.
        skipped: How many due times were skipped because the run before had not ended.
    """

    name: str
    timing: str
    last_due: float
    ran_at: float | None = None
    task_id: str | None = None
    paused: bool = False
    skipped: int = 0


def state_entered(state: ScheduleState | None, name: str, timing: str, now: float) -> ScheduleState:
    """Return the state of a schedule that a process enters at wall second *now*.

    Args:
        state: What was known; None if nothing.
        name: Its name.
        timing: When it is due, for people.
        now: The wall second.
    """
    if state is None:
        return ScheduleState(name, timing, now)
    changed = state.timing not in ("", timing)
    # What would have been due by another timing was not missed.
    last_due = max(state.last_due, now) if changed else state.last_due
    return replace(state, timing=timing, last_due=last_due)


def is_taken(state: ScheduleState | None, due: float | None, task_id: str) -> bool:
    """Return whether a due time was claimed or skipped already, and not for this very task."""
    return (
        state is not None
        and due is not None
        and due <= state.last_due <= due + CLOCK_ERROR
        and task_id != state.task_id
    )


def answer_to(
    state: ScheduleState | None, due: float | None, task_id: str, is_live: Callable[[], bool]
) -> RunClaim:
    """Return the answer of a book to a claim, by the rule of `protocols.ScheduleBook.claim_run`.

    Args:
        state: What the book knows of the schedule; None if nothing.
        due: The due time; None for a run by hand.
        task_id: The task that is to run.
        is_live: Returns whether the task of the last run is live, or its body still runs; called
            if nothing else decides.
    """
    if state is None or task_id == state.task_id:
        return "claimed"
    if is_taken(state, due, task_id):
        return "taken"
    if state.paused and due is not None:
        return "paused"
    return "busy" if is_live() else "claimed"


def state_after(
    state: ScheduleState,
    answer: RunClaim,
    due: float | None,
    task_id: str,
    now: float,
    *,
    skip: bool,
) -> ScheduleState:
    """Return the state of a schedule after an answer, for the book and for who asked it.

    Args:
        state: What was known before.
        answer: That of `answer_to`.
        due: The due time; None for a run by hand.
        task_id: The task.
        now: When it was submitted, in seconds since the epoch.
        skip: Whether the due time is skipped if the last run is live.
    """
    if answer == "paused":
        return replace(state, paused=True)
    if answer == "busy" and skip and due is not None:
        return replace(state, last_due=due, skipped=state.skipped + 1)
    if answer != "claimed":
        return state
    if task_id == state.task_id:
        # Claimed before, by a call that did not hear so.
        return replace(state, last_due=max(state.last_due, due or state.last_due))
    last_due = state.last_due if due is None else due
    return replace(state, last_due=last_due, task_id=task_id, ran_at=now)


def state_paused(state: ScheduleState, paused: bool, now: float) -> ScheduleState:
    """Return the state of a schedule that is paused or resumed at wall second *now*."""
    if state.paused == paused:
        return state
    # What was due until it resumes was not missed.
    last_due = state.last_due if paused else max(state.last_due, now)
    return replace(state, paused=paused, last_due=last_due)


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule, as `TaskManager.schedules` shows it.

    Attributes:
        name: Its name.
        timing: When it is due, for people, such as ``every 60 s``.
        next_run: When it is due next, in UTC; None while it is paused, if it is never due again,
            or if this process does not have its function.
        last_run: When its last run was submitted, in UTC; None before the first.
        last_task_id: The task of its last run; None before the first.
        last_status: The status of that task; None before the first, or if the task is not kept
            any more.
        paused: Whether it is paused.
        skipped: How many due times were skipped because the run before had not ended.
        missed: How many due times have passed without a run since this process started,
            because it or its machine stood still.
    """

    name: str
    timing: str
    next_run: datetime | None
    last_run: datetime | None
    last_task_id: TaskId[Any] | None
    last_status: TaskStatus | None
    paused: bool
    skipped: int
    missed: int
