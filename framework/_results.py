"""Waiting for results: coroutines, threads, and threads of the pool itself.

Guarantees: a waiter is woken by the end of its task and by nothing else; a thread of the
pool that waits for a queued task runs it; a wait that can never end is refused.
Relies on: the ledger to register waiters before the end or to say that it was.
Lock order: none of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any  # a result is whatever the task returned

from framework._context import current_record
from framework._delivery import LoopWaiter, Mailboxes, ThreadWaiter
from framework._ledger import Ledger
from framework._outcomes import raise_or_return
from framework._records import TaskRecord
from framework._task import PENDING, RUNNING, LiveTask
from framework._waits import WaitGraph
from framework._workers import current_item
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import TaskEngine


class Results:
    """Waits for the tasks of one manager.

    Args:
        ledger: Where tasks move.
        boxes: The loops' mailboxes.
        engine: May run a queued task inline.
        waits: Who waits for whom.
    """

    def __init__(
        self, ledger: Ledger, boxes: Mailboxes, engine: TaskEngine, waits: WaitGraph
    ) -> None:
        self._ledger = ledger
        self._clock = ledger.clock
        self._boxes = boxes
        self._engine = engine
        self._waits = waits

    async def get(self, record: TaskRecord, timeout: float | None) -> Any:
        """Suspend until *record* is final; see `TaskManager.get_result`."""
        if isinstance(record, LiveTask):
            await self.until_final(record, timeout)
            _require_final(record)
        return raise_or_return(record)

    def wait(self, record: TaskRecord, timeout: float | None) -> Any:
        """Block until *record* is final; see `TaskManager.wait_result`."""
        if isinstance(record, LiveTask):
            self._block_until_final(record, timeout)
            _require_final(record)
        return raise_or_return(record)

    async def until_final(self, task: LiveTask, timeout: float | None) -> None:
        """Suspend until *task* is final, for at most *timeout* seconds.

        Raises:
            TimeoutError: If it is not final by then.
            DeadlockError: If it waits for the caller.
        """
        waiter = LoopWaiter(self._boxes)
        if not self._ledger.register(task, waiter):
            return
        node = _waiting_node() if timeout is None else None
        timer = None
        try:
            if node is not None:
                self._waits.enter(node, task, task=current_record.get())
            if timeout is not None:
                timer = self._clock.call_at(self._clock.monotonic() + timeout, waiter.wake)
            await waiter.future
        finally:
            if timer is not None:
                timer.cancel()
            if node is not None:
                self._waits.leave(node)
            # None once the task has ended: then all that waited were told.
            if task.waiters is not None:
                self._ledger.unregister(task, waiter)
        if timeout is not None and not task.status.is_final:
            raise _waited_too_long(task, timeout)

    def _block_until_final(self, task: LiveTask, timeout: float | None) -> None:
        waiter = ThreadWaiter(self._clock)
        if not self._ledger.register(task, waiter):
            return
        node = current_item() if timeout is None else None
        until = None if timeout is None else self._clock.monotonic() + timeout
        try:
            if node is not None:
                self._waits.enter(node, task)
            final: bool | None = None
            while final is None:
                if node is not None:
                    self._engine.run_inline(task)
                final = waiter.wait(until)
        finally:
            if node is not None:
                self._waits.leave(node)
            self._ledger.unregister(task, waiter)
        if not final:
            raise _waited_too_long(task, timeout)


def _waiting_node() -> object | None:
    """Return what stands still while this coroutine waits, if that is sure."""
    item = current_item()
    if item is not None and len(asyncio.all_tasks()) == 1:
        return item
    record = current_record.get()
    if not isinstance(record, LiveTask) or record.driver is None:
        return None
    # A coroutine that the task started beside itself does not hold the task up.
    owner: asyncio.Task[Any] | None = record.driver.owner
    return owner if owner is asyncio.current_task() else None


def _require_final(task: LiveTask) -> None:
    """See that a wait ended with the task, and not with the framework that followed it."""
    if task.status is PENDING or task.status is RUNNING:
        raise FrameworkNotStartedError("stopped")


def _waited_too_long(task: TaskRecord, timeout: float | None) -> TimeoutError:
    return TimeoutError(
        f"task {task.task_id} ({task.name}) is {task.status} after {timeout:g} s of waiting; "
        "it goes on"
    )
