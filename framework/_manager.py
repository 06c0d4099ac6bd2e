"""TaskManager: knows its tasks, hands out their results, lets them go.

Guarantees: an accepted task ends in exactly one final state; nothing here blocks a loop.
Relies on: `_intake` for what it is made of, `_ledger` for states, `_results` for waiting.
Lock order: none of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from framework import _checks
from framework._context import current_record
from framework._intake import Intake
from framework._jsonsafe import JSON
from framework._logging import report_unread
from framework._records import TaskRecord, TaskStatus
from framework._task import PENDING, RUNNING, LiveTask, Task, TaskControl, TaskId
from framework.exceptions import TaskCancelledError, TaskNotFoundError
from framework.protocols import EventSink

T = TypeVar("T")

_CANCEL_PATIENCE = 1.0


class TaskManager(Intake):
    """Owns the tasks of one framework; `get_task_manager` gives the current one.

    `setup_async_framework` makes and ends it. Methods that are no coroutines may be called
    from any thread.

    Args:
        pool: Where sync tasks run; shut down by its creator.
        clock: Time for everything; None for the system's.
        store: Where finished tasks are kept; None for this process's memory.
        engine: Where tasks run; None for *pool* and the apps' loops.
        interceptor: Takes part in every task; None for nobody.
        task_timeout: Limit in seconds for tasks that have none of their own; None for the
            pool's, infinity for none.
        queue_size: How many tasks may be PENDING, from 1 on.
        result_ttl: Seconds for which a finished task is kept, above 0.
        max_finished_tasks: How many finished tasks are kept, from 0 on.
        cleanup_interval: Seconds between two clean-ups by age, above 0.
        new_id: Makes ids; None for 128 random bits in hexadecimal.
        rng: Randomness for jitter; None for a generator of its own.
    """

    # -- knowing them

    async def get_task(self, task_id: str) -> Task | None:
        """Return the task as it is now, or None for an id that nobody knows.

        Never raises, whatever *task_id* is.
        """
        record = self.ledger.find(task_id)
        if record is None:
            return None
        return Task(self.ledger.snapshot(record), source=record)

    def get_all_tasks(self) -> dict[str, dict[str, JSON]]:
        """Return every known task as ``{task_id: Task.to_dict()}``: a snapshot."""
        return _as_dicts(self.ledger.records().values())

    def get_active_tasks(self) -> dict[str, dict[str, JSON]]:
        """Return the tasks that are PENDING or RUNNING, as `get_all_tasks`."""
        return _as_dicts(self.ledger.live_records())

    def get_tasks_by_status(self, status: TaskStatus | str) -> dict[str, dict[str, JSON]]:
        """Return the tasks of one status, as `get_all_tasks`.

        Raises:
            ValueError: If *status* is no status.
        """
        wanted = TaskStatus(_checks.choice("status", status, tuple(map(str, TaskStatus))))
        records = self.ledger.records().values()
        return _as_dicts(record for record in records if record.status is wanted)

    def get_active_count(self) -> int:
        """Return how many tasks are PENDING or RUNNING."""
        figures = self.ledger.figures()
        return figures[PENDING.value] + figures[RUNNING.value]

    def get_stats(self) -> dict[str, int]:
        """Return the counters since the start: one consistent snapshot.

        Always ``submitted = pending + running + completed + failed + timeout + cancelled +
        interrupted``. Beside them ``delayed`` and ``scheduled`` (what waits for its time
        now), ``kept`` (finished tasks in the store) and, once they are not 0,
        ``rejected``, ``retrying``, ``throttled``, ``late_results``, ``evicted``,
        ``scheduled_skipped``, ``lost_wakeups`` (waiters whose loop was closed).
        """
        figures = self.ledger.figures()
        figures |= self.schedules.figures()
        figures["kept"] = self.ledger.kept
        if self.boxes.lost:
            figures["lost_wakeups"] = self.boxes.lost
        return figures

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        """Have ``sink(event)`` called for every event, where it happens.

        It must be quick: a slow one holds up the thread or loop that it is called on. What
        it raises is logged, and the other sinks hear the event all the same.

        Returns:
            What takes the sink off again; harmless to call twice.

        Raises:
            TypeError: If *sink* is not callable.
        """
        if not callable(sink):
            raise TypeError(f"sink must be a function of an event, not {_checks.show(sink)}")
        return self.ledger.subscribe(sink)

    # -- their results

    @overload
    async def get_result(self, task_id: TaskId[T], timeout: float | None = None) -> T: ...

    @overload
    async def get_result(self, task_id: str, timeout: float | None = None) -> Any: ...

    async def get_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait until a task is final and return its result; never polls.

        Args:
            task_id: The task.
            timeout: Most seconds to wait, 0 or more; None for as long as it takes. It is
                the waiter's own: the task is not touched.

        Returns:
            What the task returned.

        Raises:
            BaseException: The task's own exception, if it FAILED.
            TaskFailedError: In place of an exception that would end or mislead whoever
                waits; that one is its cause.
            TaskTimeoutError: If the task ran past its limit.
            TaskCancelledError: If it was cancelled.
            TaskInterruptedError: If a shutdown or crash cut it short.
            TaskNotFoundError: If nobody knows the id.
            TimeoutError: If *timeout* has passed.
            DeadlockError: If the task waits, itself or through others, for the caller.
        """
        if timeout is not None:
            timeout = _checks.number("timeout", timeout, at_least=0, finite=False)
        return await self.results.get(self._require(task_id), timeout)

    @overload
    def wait_result(self, task_id: TaskId[T], timeout: float | None = None) -> T: ...

    @overload
    def wait_result(self, task_id: str, timeout: float | None = None) -> Any: ...

    def wait_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Block until a task is final and return its result; `get_result` for threads.

        On a thread of the pool, and without *timeout*, a task that is still queued is run
        right here, so that tasks which wait for tasks do not use up the pool.

        Raises:
            RuntimeError: On the thread of a running event loop, which it would block.
            BaseException: What `get_result` raises.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "wait_result() would block the event loop that runs on this thread: use "
                "'await get_result(task_id)' here"
            )
        if timeout is not None:
            timeout = _checks.number("timeout", timeout, at_least=0, finite=False)
        return self.results.wait(self._require(task_id), timeout)

    def _require(self, task_id: object) -> TaskRecord:
        record = self.ledger.find(task_id)
        if record is None:
            raise TaskNotFoundError(task_id)  # type: ignore[arg-type]  # shown, whatever it is
        return record

    # -- letting them go

    async def cancel_task(self, task_id: str) -> bool:
        """Ask for a task's cancellation; True only if it will never run (again).

        A PENDING task never starts. An ``async def`` one is cancelled and waited for, at
        most 1 s: one that returns all the same is COMPLETED, one that does not let go
        gives False. A thread cannot be stopped: False, and its task may ask with
        ``current_task().check_cancelled()``. In all these cases ``cancel_requested`` is
        true. An unknown id, and a task that is final, give False.
        """
        record = self.ledger.find(task_id)
        if not isinstance(record, LiveTask) or not self.ledger.request_cancel(record):
            return False
        if self.cancel_pending(record, "it was cancelled before it started"):
            return True
        self.runner.stop_body(record)
        if record.driver is None:
            return False
        try:
            await self.results.until_final(record, _CANCEL_PATIENCE)
        except TimeoutError:
            return False
        return record.status is TaskStatus.CANCELLED

    def cancel_pending(self, task: LiveTask, reason: str) -> bool:
        """End a task CANCELLED if it is still PENDING; it then never starts."""
        error = TaskCancelledError(task.task_id, task.name)
        if not self.runner.end(task, "cancel", error=error, reason=reason, only_from=PENDING):
            return False
        timer, task.timer = task.timer, None
        if timer is not None:
            timer.cancel()
        self.schedules.undelay(task)
        self.engine.withdraw(task)
        self.runner.let_go(task)
        return True

    def cleanup_completed_tasks(self, max_age: float = 3600.0) -> int:
        """Forget finished tasks that ended *max_age* seconds ago or more.

        Args:
            max_age: Seconds, 0 or more; 0 forgets all that have ended.

        Returns:
            How many were forgotten. A failure that nobody has read is logged then.

        Raises:
            TypeError: If *max_age* is no number.
            ValueError: If it is negative or NaN.
        """
        age = _checks.number("max_age", max_age, at_least=0, finite=False)
        return self.runner.evict(ended_before=self.clock.monotonic() - age)

    def start(self) -> None:
        """Begin the periodic clean-up and the schedules; by whoever made the manager."""
        self.schedules.start()

    def stop(self) -> None:
        """Take no tasks any more and let go of every timer; drain before, if at all.

        Failures that nobody has read are logged. Harmless to call twice.
        """
        with self.ledger.lock:
            if self.ledger.state == "stopped":
                return
            self.ledger.state = "stopped"
        self.policies.close()
        self.schedules.stop()
        self.runner.deadlines.close()
        for record in self.ledger.store.list():
            report_unread(record)

    def forget(self) -> None:
        """Refuse everything in a forked child, where neither threads nor loop exist."""
        self.ledger.forget()


def current_task() -> Task | None:
    """Return the task that runs here, live; None outside any task.

    It follows the task wherever its context goes: into coroutines it starts, and into
    threads that copy the context.
    """
    record = current_record.get()
    if not isinstance(record, LiveTask):
        return None
    manager: TaskManager = record.home.manager

    def report_progress(progress: float, message: str) -> None:
        share = _checks.number("progress", progress, at_least=0, at_most=1)
        manager.ledger.progress(record, share, _checks.text("message", message))

    def check_cancelled() -> None:
        if record.cancel_requested or record.status.is_final:
            raise TaskCancelledError(record.task_id, record.name)

    return Task(record, control=TaskControl(report_progress, check_cancelled))


def _as_dicts(records: Iterable[TaskRecord]) -> dict[str, dict[str, JSON]]:
    return {str(record.task_id): Task(record).to_dict() for record in records}
