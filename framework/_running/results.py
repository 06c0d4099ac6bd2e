"""Waiting for results: coroutines, threads, and threads of the pool itself.

Guarantees: a waiter is woken by the end of its task and by nothing else; a thread of the
pool that waits for a queued task runs it, or lets another thread do so if it must be back
in time or has an event loop to serve; a wait that can never end is refused.
Relies on: the ledger to register waiters before the end or to say that it was.
Lock order: none of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any  # a result is whatever the task returned

from framework._running.ledger import Ledger
from framework._running.outcomes import raise_or_return
from framework._tasks.current import current_record
from framework._tasks.live import PENDING, RUNNING, LiveTask
from framework._tasks.records import FINAL, TaskRecord
from framework._threads.crew import Crew
from framework._threads.pool_threads import PoolThread, current_item, current_pool_thread
from framework._threads.waiters import LoopWaiter, Mailboxes, ThreadWaiter
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import TaskEngine


class Results:
    """Waits for the tasks of one manager.

    Args:
        ledger: Where tasks move.
        boxes: The loops' mailboxes.
        engine: May run a queued task inline.
        crew: The pool's threads, and who waits for whom.
    """

    def __init__(self, ledger: Ledger, boxes: Mailboxes, engine: TaskEngine, crew: Crew) -> None:
        self._ledger = ledger
        self._clock = ledger.clock
        self._boxes = boxes
        self._engine = engine
        self._crew = crew
        self._waits = crew.waits

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
        here = current_pool_thread()
        thread, crew = self._own(here, timeout), self._crew
        # What a thread of the pool stands aside for may be a coroutine that waits here.
        hurried = thread is not None or crew.blocked
        waiter = _Hurried(self._boxes, crew, task) if hurried else LoopWaiter(self._boxes)
        if not self._ledger.register(task, waiter):
            return
        node = _waiting_node(here) if timeout is None else None
        timer = None
        end_hurry: Callable[[], object] | None = None
        try:
            if node is not None:
                self._waits.enter(node, task, task=current_record.get())
            if hurried:
                end_hurry = self._hurry(thread, task)
            if timeout is not None:
                timer = self._clock.call_at(self._clock.monotonic() + timeout, waiter.wake)
            await waiter.future
        finally:
            if timer is not None:
                timer.cancel()
            if node is not None:
                self._waits.leave(node)
            if end_hurry is not None:
                end_hurry()
            # None once the task has ended: then all that waited were told.
            if task.waiters is not None:
                self._ledger.unregister(task, waiter)
        if timeout is not None and task.status not in FINAL:
            raise _waited_too_long(task, timeout)

    def _hurry(self, thread: PoolThread | None, task: LiveTask) -> Callable[[], object] | None:
        """Have *task* run soon, for which *thread* or others stand still; return what ends it."""
        crew = self._crew
        if thread is None:
            crew.want(task)
            return None
        crew.step_aside(thread, task)
        return lambda: crew.step_back(thread, task)

    def _block_until_final(self, task: LiveTask, timeout: float | None) -> None:
        waiter = ThreadWaiter(self._clock)
        if not self._ledger.register(task, waiter):
            return
        try:
            if timeout is None:
                self._wait_with_all_time(task, waiter)
            elif not self._wait_for_seconds(task, waiter, timeout):
                raise _waited_too_long(task, timeout)
        finally:
            self._ledger.unregister(task, waiter)

    def _wait_with_all_time(self, task: LiveTask, waiter: ThreadWaiter) -> None:
        node = current_item()
        if node is None:
            while waiter.wait(None) is None:
                pass
            return
        thread = self._own(current_pool_thread(), None)
        self._waits.enter(node, task)
        try:
            final: bool | None = None
            while final is None:
                ran = self._engine.run_inline(task)
                final = (
                    waiter.wait(None)
                    if ran or thread is None
                    else self._aside(thread, task, waiter)
                )
        finally:
            self._waits.leave(node)

    def _aside(self, thread: PoolThread, task: LiveTask, waiter: ThreadWaiter) -> bool | None:
        """Block until woken or nudged, while other threads may run what *task* waits for."""
        self._crew.step_aside(thread, task, inline=True)
        try:
            return waiter.wait(None)
        finally:
            self._crew.step_back(thread, task)

    def _wait_for_seconds(self, task: LiveTask, waiter: ThreadWaiter, timeout: float) -> bool:
        until = self._clock.monotonic() + timeout
        thread, crew = self._own(current_pool_thread(), timeout), self._crew
        if thread is None:
            while (final := waiter.wait(until)) is None:
                pass
            return final
        able = crew.step_aside(thread, task)
        try:
            while True:
                if not able:
                    # Late, perhaps; without a thread to run it, it would be never.
                    self._engine.run_inline(task)
                final = waiter.wait(until)
                if final is not None:
                    return final
                able = crew.want(task)
        finally:
            crew.step_back(thread, task)

    def _own(self, thread: PoolThread | None, timeout: float | None) -> PoolThread | None:
        """Return the calling thread if it is one of the pool's and is about to stand still."""
        if thread is None or thread.crew is not self._crew or not thread.stack or timeout == 0:
            return None
        return thread


class _Hurried(LoopWaiter):
    """A coroutine that threads of the pool wait for: another must run what it waits for."""

    __slots__ = ("_crew", "_task")

    def __init__(self, boxes: Mailboxes, crew: Crew, task: LiveTask) -> None:
        super().__init__(boxes)
        self._crew = crew
        self._task = task

    def nudge(self) -> None:
        """Have a thread run the task, which has just been queued."""
        self._crew.want(self._task)


def _waiting_node(thread: PoolThread | None) -> object | None:
    """Return what stands still while this coroutine waits, on *thread* or elsewhere, if sure."""
    if thread is not None and thread.stack and len(asyncio.all_tasks()) == 1:
        return thread.stack[-1]
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
