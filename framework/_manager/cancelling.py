"""Cancelling: tasks that wait, that run here, and that another process runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framework._manager.core import Core
from framework._records.reasons import THREAD_STOPS, cancelled, has_begun
from framework._records.records import CancelOutcome, Restart, TaskRecord
from framework._records.statuses import PENDING, RUNNING, TaskStatus
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing
from framework._threads.waiters import Onlooker

_PATIENCE: Final = 1.0
"""How many seconds to wait for a cancelled coroutine to end."""

_FAR_PATIENCE: Final = 2.0
"""The same for another process, which must also get the request and report the end."""


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """The answer to a request to cancel a task.

    Attributes:
        outcome: Whether the task is cancelled, was asked to stop, or cannot be cancelled.
        why: The same in words, for people.
    """

    outcome: CancelOutcome
    why: str

    def __str__(self) -> str:
        """Return both: "asked: its thread cannot be stopped; ..."."""
        return f"{self.outcome}: {self.why}"


_NEVER_STARTS: Final = CancelAnswer(CancelOutcome.CANCELLED, "it had not started, and never will")
_NEVER_GOES_ON: Final = CancelAnswer(
    CancelOutcome.CANCELLED, "it was waiting to go on, and never will"
)
_WENT_ON: Final = CancelAnswer(
    CancelOutcome.CANCELLED, "it was waiting to go on, and its code has come to its end"
)
_GOES_ON: Final = CancelAnswer(
    CancelOutcome.ASKED,
    "it was waiting to go on: a process that knows its function cancels it where its code stands",
)
_STOPPED: Final = CancelAnswer(CancelOutcome.CANCELLED, "it was running, and has stopped")
_ALREADY: Final = CancelAnswer(CancelOutcome.CANCELLED, "it was cancelled before")
_THREAD: Final = CancelAnswer(CancelOutcome.ASKED, THREAD_STOPS)
_SLOW: Final = CancelAnswer(
    CancelOutcome.ASKED, f"its coroutine was cancelled, but has not stopped within {_PATIENCE:g} s"
)
_FAR: Final = CancelAnswer(
    CancelOutcome.ASKED, f"its process has not reported within {_FAR_PATIENCE:g} s that it stopped"
)
_UNKNOWN: Final = CancelAnswer(
    CancelOutcome.CANNOT, "no task has this id: it is wrong, or the task was forgotten"
)


async def cancel(core: Core, task_id: str, *, at_once: bool = False) -> bool:
    """Cancel a task; see `TaskManager.cancel_task`."""
    answer = await request_cancel(core, task_id, at_once=at_once)
    return answer.outcome is CancelOutcome.CANCELLED and answer is not _ALREADY


async def request_cancel(core: Core, task_id: str, *, at_once: bool = False) -> CancelAnswer:
    """Request a task's cancellation; see `TaskManager.request_cancel`."""
    record = core.ledger.find(task_id)
    if core.others.exist and (record is None or record.remote):
        return await _of_others(core, task_id, record, at_once)
    if record is None:
        return _UNKNOWN
    makes_up = record.cancel_requested and isinstance(record, LiveTask) and record.spec.resumes
    if not isinstance(record, LiveTask) or not core.ledger.request_cancel(record):
        return _ended(record)
    begun = _has_begun(record)
    if core.runner.cancel_pending(record, cancelled(begun), at_once=at_once):
        return _early(begun)
    # Whoever sleeps in a retry or a throttle is woken, on a thread as well.
    waits = record.cancel_waits
    stops = record.spec.kind == "loop" or record.sleeper is not None or waits
    # Whoever asks twice does not want what makes up for its work to be cut off.
    if not (waits or makes_up):
        core.endings.stop_body(record)
    if not stops:
        return _THREAD
    try:
        await core.results.until_final(record, _PATIENCE, Onlooker)
    except TimeoutError:
        if waits:
            return _GOES_ON
        return _SLOW if record.spec.kind == "loop" else _THREAD
    return _stopped(record, begun, waits)


def give_up(core: Core, task: LiveTask | Existing) -> None:
    """Cancel a task because the coroutine that awaits it was cancelled."""
    if isinstance(task, LiveTask) and core.ledger.request_cancel(task):
        reason = "the coroutine that awaited it was cancelled"
        core.runner.cancel(task, reason, reason)


async def _of_others(
    core: Core, task_id: str, record: TaskRecord | None, at_once: bool
) -> CancelAnswer:
    """Cancel a task that another process runs; *record* is there if it was submitted here."""
    others, own = core.others, record if isinstance(record, LiveTask) else None
    if record is not None and (own is None or not core.ledger.request_cancel(own)):
        return _ended(record)
    if own is not None and core.places.keeps(own):
        begun = _has_begun(own)
        if core.runner.cancel_pending(own, cancelled(begun), at_once=at_once):
            return _early(begun)
    # Wait for its record: its process may have returned the id before it wrote the record.
    known = own if own is not None else await others.find(task_id)
    if known is None:
        return _UNKNOWN
    if known.status.is_final:
        return _ended(known)
    # Before it is asked: its record may then be that of its end.
    begun = _has_begun(known)
    waits = known.status is PENDING and begun and not at_once
    if not await others.cancel(task_id, at_once=at_once):
        # It has just ended, and the report of that may still be on its way.
        found = await others.find(task_id, patient=False)
        return _FAR if found is None or not found.status.is_final else _ended(found)
    if own is not None and own.status is RUNNING and own.spec.kind == "thread":
        return _THREAD
    return await _far_end(core, known, begun, waits)


async def _far_end(core: Core, known: TaskRecord, begun: bool, waits: bool) -> CancelAnswer:
    """Wait for the end of a task that another process was asked to cancel, and that had *begun*."""
    ended: TaskRecord | None = known
    try:
        if isinstance(known, LiveTask):
            await core.results.until_final(known, _FAR_PATIENCE, Onlooker)
        else:
            ended = await core.others.until_final(known.task_id, _FAR_PATIENCE)
    except TimeoutError:
        if waits:
            return _GOES_ON
        runs = known.status is RUNNING and core.scene.kind(known) == "thread"
        return _THREAD if runs else _FAR
    return _UNKNOWN if ended is None else _stopped(ended, begun, waits)


def _stopped(record: TaskRecord, begun: bool, waits: bool) -> CancelAnswer:
    """Return the answer about a task that has ended after it was asked to, and had *begun*.

    Args:
        record: The task.
        begun: Whether it had begun when it was asked.
        waits: Whether it then waited, and may have gone on for that.
    """
    if record.status is not TaskStatus.CANCELLED:
        return _ended(record)
    if waits and record.reason != cancelled(begun):
        return _WENT_ON
    # One whose process has died may have waited for another one.
    is_early = record.started is None or record.reason == cancelled(begun)
    return _early(begun) if is_early else _STOPPED


def _has_begun(record: TaskRecord) -> bool:
    """Return whether a task that may be PENDING has begun before."""
    restart: Restart | None = record.restart
    stands = restart is not None and restart.stands
    return stands or has_begun(record.attempts, record.reason)


def _early(begun: bool) -> CancelAnswer:
    """Return the answer about a task that was cancelled while it waited, and may have *begun*."""
    return _NEVER_GOES_ON if begun else _NEVER_STARTS


def _ended(record: TaskRecord) -> CancelAnswer:
    """Return the answer about a task that had ended before."""
    if record.status is TaskStatus.CANCELLED:
        return _ALREADY
    return CancelAnswer(CancelOutcome.CANNOT, f"it has ended: {record.status.value}")
