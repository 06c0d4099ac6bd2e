"""Results: waiting for tasks in coroutines, in threads, and in threads of the pool itself.

Guarantees: a wait ends when its task is final or its timeout is over; a thread of the pool
that waits for a queued task runs it, or lets a spare thread run it if the thread has a
timeout or an event loop to serve; a wait that can never end raises a DeadlockError.
Relies on: the ledger, which registers a waiter before its task is final, or refuses to.
Lock order: none is held here; the ledger, the crew and the wait graph are called one after
the other, each with its own lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol  # a result is whatever the task returned

from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, PENDING, RUNNING
from framework._running.outcomes import raise_or_return
from framework._running.runner import Runner
from framework._tasks.live import LiveTask, current_record
from framework._threads.crew import Crew
from framework._threads.pool_threads import PoolThread, current_item, current_pool_thread
from framework._threads.waiters import LoopWaiter, Mailboxes, ThreadWaiter
from framework.exceptions import FrameworkNotStartedError, TaskNotFoundError

BEFORE_WAITS: Final[list[Callable[[], object]]] = []
"""Called when a coroutine is about to wait for a task, in the whole process; empty but in tests."""


class OtherProcesses(Protocol):
    """Waits for tasks of other processes: a `_manager.others.other_processes.OtherProcesses`."""

    async def until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Suspend until a task is final and return its record; None if it is unknown."""
        ...

    def block_until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Block until a task is final and return its record; None if it is unknown."""
        ...


class Results:
    """Waits for the tasks of one manager.

    Args:
        runner: Runs a queued task inline, if its engine can; its ledger registers the waiters.
        crew: The threads of the pool, with the graph of who waits for what.
        others: Waits for tasks that other processes run.
    """

    def __init__(self, runner: Runner, crew: Crew, others: OtherProcesses) -> None:
        self._ledger = runner.ledger
        self._clock = runner.ledger.clock
        self._boxes = runner.boxes
        self._engine = runner.engine
        self._crew = crew
        self._others = others
        self._waits = crew.waits

    async def get(self, task: TaskRecord | str, timeout: float | None) -> Any:
        """Suspend until a task is final; see `TaskManager.get_result`.

        Args:
            task: Its record, or the id of a task that this process does not have.
            timeout: Seconds, 0 or more; None for no limit.
        """
        return raise_or_return(await self.awaited(task, timeout))

    async def awaited(self, task: TaskRecord | str, timeout: float | None) -> TaskRecord:
        """Suspend until a task is final whose result somebody wants, and return its record."""
        if isinstance(task, LiveTask):
            for told in BEFORE_WAITS:
                told()
        return await self.ended(task, timeout)

    async def ended(self, task: TaskRecord | str, timeout: float | None = None) -> TaskRecord:
        """Suspend until *task* is final, and return its record.

        Args:
            task: Its record, or the id of a task that this process does not have.
            timeout: Seconds, 0 or more; None for no limit.

        Raises:
            FrameworkNotStartedError: If the framework stops following it before.
        """
        task_id, limit = task if isinstance(task, str) else str(task.task_id), timeout
        if isinstance(task, LiveTask):
            until = None if timeout is None else self._clock.monotonic() + timeout
            await self.until_final(task, timeout)
            _require_final(task)
            if task.rest is None or not task.was_given_away:
                return task
            task_id, timeout = self.elsewhere(task, until)
        elif isinstance(task, TaskRecord) and task.status in FINAL:
            return task
        standing_in = self._crew.standing_in(self._own(current_pool_thread(), timeout))
        with standing_in, _whole_timeout(task, limit):
            return _require_found(task_id, await self._others.until_final(task_id, timeout))

    def wait(self, task: TaskRecord | str, timeout: float | None) -> Any:
        """Block until a task is final, like `get`; see `TaskManager.wait_result`."""
        return raise_or_return(self.block_until_ended(task, timeout))

    def block_until_ended(self, task: TaskRecord | str, timeout: float | None) -> TaskRecord:
        """Block until a task is final, and return its record; see `ended`."""
        task_id, limit = task if isinstance(task, str) else str(task.task_id), timeout
        if isinstance(task, LiveTask):
            until = None if timeout is None else self._clock.monotonic() + timeout
            self._block_until_final(task, timeout)
            _require_final(task)
            if task.rest is None or not task.was_given_away:
                return task
            task_id, timeout = self.elsewhere(task, until)
        elif isinstance(task, TaskRecord) and task.status in FINAL:
            return task
        standing_in = self._crew.standing_in(self._own(current_pool_thread(), timeout))
        with standing_in, _whole_timeout(task, limit):
            return _require_found(task_id, self._others.block_until_final(task_id, timeout))

    def elsewhere(self, task: LiveTask, until: float | None) -> tuple[str, float | None]:
        """Return what to wait for when another process has a task, and for how many seconds.

        Args:
            task: The task, which was given away.
            until: Monotonic second until which to wait; None for no limit.

        Raises:
            FrameworkNotStartedError: If this framework stops, and cannot wait for that.
        """
        if self._ledger.state != "running":
            raise FrameworkNotStartedError("stopping")
        left = None if until is None else max(0.0, until - self._clock.monotonic())
        return task.task_id, left

    async def until_final(
        self, task: LiveTask, timeout: float | None, kind: type[LoopWaiter] = LoopWaiter
    ) -> None:
        """Suspend until *task* is final, for at most *timeout* seconds.

        Args:
            task: The task.
            timeout: None for no limit.
            kind: `waiters.Onlooker` for a caller that does not read the outcome.

        Raises:
            TimeoutError: If it is not final by then.
            DeadlockError: If *task* waits for the caller.
        """
        here = current_pool_thread()
        thread, crew = self._own(here, timeout), self._crew
        # A thread that stepped aside may wait for the very coroutine that waits here.
        needs_spare = thread is not None or crew.spares.blocked
        waiter = _SpareWaiter(self._boxes, crew, task) if needs_spare else kind(self._boxes)
        if not self._ledger.register(task, waiter):
            return
        node = _waiting_node(here) if timeout is None else None
        timer = None
        step_back: Callable[[], object] | None = None
        try:
            if node is not None:
                self._waits.enter(node, task, task=current_record.get())
            if needs_spare:
                step_back = self._use_spare(thread, task)
            if timeout is not None:
                timer = self._clock.call_at(self._clock.monotonic() + timeout, waiter.wake)
            await waiter.future
        finally:
            if timer is not None:
                timer.cancel()
            if node is not None:
                self._waits.leave(node)
            if step_back is not None:
                step_back()
            # None after the task has ended: then no waiter is registered any more.
            if task.waiters is not None:
                self._ledger.unregister(task, waiter)
        if timeout is not None and task.status not in FINAL:
            raise _waited_too_long(task, timeout)

    def _use_spare(self, thread: PoolThread | None, task: LiveTask) -> Callable[[], object] | None:
        """Let a spare thread run *task* while *thread* waits; return what to call after that."""
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
                self._wait_without_timeout(task, waiter)
            elif not self._wait_with_timeout(task, waiter, timeout):
                raise _waited_too_long(task, timeout)
        finally:
            self._ledger.unregister(task, waiter)

    def _wait_without_timeout(self, task: LiveTask, waiter: ThreadWaiter) -> None:
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
        """Block until woken or nudged, while spare threads run what *task* waits for."""
        self._crew.step_aside(thread, task, inline=True)
        try:
            return waiter.wait(None)
        finally:
            self._crew.step_back(thread, task)

    def _wait_with_timeout(self, task: LiveTask, waiter: ThreadWaiter, timeout: float) -> bool:
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
                    # No thread can be started: it may exceed the timeout, but it will run.
                    self._engine.run_inline(task)
                final = waiter.wait(until)
                if final is not None:
                    return final
                able = crew.want(task)
        finally:
            crew.step_back(thread, task)

    def _own(self, thread: PoolThread | None, timeout: float | None) -> PoolThread | None:
        """Return the calling thread if it is one of this pool's and is going to block."""
        if thread is None or thread.crew is not self._crew or not thread.stack or timeout == 0:
            return None
        return thread


class _SpareWaiter(LoopWaiter):
    """A coroutine that blocks threads of the pool, so a spare thread must run its task."""

    __slots__ = ("_crew", "_task")

    def __init__(self, boxes: Mailboxes, crew: Crew, task: LiveTask) -> None:
        super().__init__(boxes)
        self._crew = crew
        self._task = task

    def nudge(self) -> None:
        """Let a spare thread run the task, which has just been queued."""
        self._crew.want(self._task)


def _waiting_node(thread: PoolThread | None) -> object | None:
    """Return what makes no progress while this coroutine waits; None if that is not certain.

    It is a node of the wait graph: the item that *thread* runs, or an asyncio task.
    """
    if thread is not None and thread.stack and len(asyncio.all_tasks()) == 1:
        return thread.stack[-1]
    record = current_record.get()
    if not isinstance(record, LiveTask) or record.driver is None:
        return None
    # Another asyncio task that the task has started does not block the task itself.
    awaiter: asyncio.Task[Any] | None = record.driver.asyncio_task
    return awaiter if awaiter is asyncio.current_task() else None


def _require_final(task: LiveTask) -> None:
    """Raise FrameworkNotStartedError if the wait ended because the framework stopped."""
    if task.status is PENDING or task.status is RUNNING:
        raise FrameworkNotStartedError("stopped")


def _require_found(task_id: str, found: TaskRecord | None) -> TaskRecord:
    if found is None:
        raise TaskNotFoundError(task_id)
    return found


@contextmanager
def _whole_timeout(task: TaskRecord | str, timeout: float | None) -> Iterator[None]:
    """Let the error of a wait for a task that was given away name its whole timeout."""
    try:
        yield
    except TimeoutError:
        if timeout is None or not isinstance(task, LiveTask):
            raise
        # Its status is that of when it left.
        raise TimeoutError(
            f"task {task.task_id} ({task.name}) is not final after {timeout:g} s of waiting; "
            "it goes on"
        ) from None


def _waited_too_long(task: TaskRecord, timeout: float | None) -> TimeoutError:
    return TimeoutError(
        f"task {task.task_id} ({task.name}) is {task.status} after {timeout:g} s of waiting; "
        "it goes on"
    )
