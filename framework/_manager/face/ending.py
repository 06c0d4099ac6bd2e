"""Ending: waits until a task has ended, in whichever process, without reading its outcome."""

from __future__ import annotations

from framework._manager.core import Core
from framework._records.records import TaskRecord
from framework._tasks.live import LiveTask
from framework._threads.waiters import Onlooker
from framework.protocols import Clock


async def until_ended(core: Core, task_id: str, timeout: float | None) -> TaskRecord | None:
    """Suspend until a task has ended; return its record as it is then, or None.

    Args:
        core: The core to ask.
        task_id: The task; None is returned if it is unknown.
        timeout: Seconds, 0 or more, after which the record is returned as it is; None for no
            limit.

    Raises:
        FrameworkNotStartedError: If another process has the task, and this one stops.
    """
    left = _Left(core.clock, timeout)
    record, others = core.ledger.find(task_id), core.others
    if isinstance(record, LiveTask):
        try:
            await core.results.until_final(record, timeout, Onlooker)
        except TimeoutError:
            return record
        if not record.was_given_away:
            return record
        core.results.require_others()
    elif record is not None:
        return record
    try:
        return await others.until_final(task_id, left())
    except TimeoutError:
        return await others.find(task_id, patient=False)


class _Left:
    """Says how many seconds of a timeout are left.

    Args:
        clock: The framework's clock.
        timeout: Seconds; None for no limit.
    """

    def __init__(self, clock: Clock, timeout: float | None) -> None:
        self._clock = clock
        self._until = None if timeout is None else clock.monotonic() + timeout

    def __call__(self) -> float | None:
        """Return the seconds, 0 or more; None for no limit."""
        if self._until is None:
            return None
        return max(0.0, self._until - self._clock.monotonic())
