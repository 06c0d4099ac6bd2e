"""Receives the reports of a shared store and a remote engine about this process's tasks.

Guarantees: a report about a task that is unknown here, or final, changes nothing; timestamps of
another machine's clock never lie in the future here, nor before the submission.
Relies on: the ledger for every move.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import Any, Final

from framework._manager.core import Core
from framework._manager.face.again import call_text
from framework._manager.hosting.taking_over import may_leave, take_over, waits_for_a_place
from framework._records.ids import TaskId
from framework._records.reasons import cancelled, has_begun
from framework._records.records import KINDS, OFFERED, Kind, TaskRecord
from framework._records.statuses import (
    EVENT_OF,
    FINAL,
    INTERRUPTED,
    PENDING,
    TRAITS,
    TaskStatus,
)
from framework._tasks import registry
from framework._tasks.errors.kept import reported_error
from framework._tasks.live import LiveTask, new_task
from framework._tasks.specs import TaskSpec
from framework._threads.loggers import SafeLogger
from framework.exceptions import (
    FrameworkError,
    TaskInterruptedError,
)

_LOGGER = SafeLogger("asyncframe")

_ASK_AGAIN: Final = 1.0
"""Seconds until an engine is asked again that did not answer."""


class RemoteHost:
    """The framework's side of its `SharedStore` and its `RemoteEngine`.

    Args:
        core: The core whose tasks are reported on.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ledger = core.ledger
        self._endings = core.endings
        self.clock = core.clock
        self.places = core.pool._crew.max_workers if core.has_workers else 0
        self.role = core.role
        self.shared = core.ledger.shared is not None

    # -- for a shared store

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a copy of a live record that is consistent in itself."""
        return self._ledger.snapshot(record)

    def cancel(self, task_id: str, reason: str = "") -> None:
        """Cancel a task of this process; see `protocols.StoreHost`."""
        task = self._ledger.find_live(task_id)
        if task is None or not self._ledger.request_cancel(task):
            return
        engine = self._core.remote
        if task.remote and not self._core.places.keeps(task):
            if engine is not None:
                self._core.others.post(partial(engine.request_cancel, task_id))
            return
        before = reason or cancelled(has_begun(task.attempts, task.reason))
        self._core.runner.cancel(task, before, reason)

    def release(self, task_ids: Collection[str]) -> None:
        """Let tasks start that have waited for others; see `protocols.StoreHost`."""
        for task_id in task_ids:
            task = self._ledger.find_live(task_id)
            if task is not None:
                self._core.chained.release(task)

    def withdraw(self, task_id: str, reason: str) -> None:
        """Cancel a task that has waited for others; see `protocols.StoreHost`."""
        task = self._ledger.find_live(task_id)
        if task is not None:
            self._core.chained.withdraw(task, reason)

    def interrupt(self, reason: str) -> None:
        """End every live task of this process INTERRUPTED, except for remote ones.

        Those that the other processes may run are left to them.
        """
        for task in self._ledger.unfinished():
            if not task.remote and not self._core.requeued.let_go(task, reason):
                error = TaskInterruptedError(task.task_id, task.name)
                self._endings.end(task, INTERRUPTED, error=error, reason=reason, body_ended=False)

    def adopt(self, records: Sequence[TaskRecord]) -> None:
        """Track remote tasks whose own process is gone; final ones end here."""
        adopted = [str(record.task_id) for record in records if self._take_in(record)]
        if adopted:
            self._look_up(adopted)

    def _look_up(self, adopted: Sequence[str]) -> None:
        """Ask the engine for the state of adopted tasks, a moment later."""
        engine, others = self._core.remote, self._core.others
        if engine is None:
            return

        def ask() -> None:
            try:
                found = engine.fetch(adopted)
            except Exception:  # it is away, or not open yet, or closed already
                when = self.clock.monotonic() + _ASK_AGAIN
                self.clock.call_at(when, lambda: self._look_up(adopted), background=True)
            else:
                self._catch_up(adopted, found)

        # If it has stopped, the next process adopts them.
        others.post(ask)

    def call_of(self, record: TaskRecord, most: int) -> str | None:
        """Return the arguments of a task as JSON, or why not; see `protocols.StoreHost`."""
        return call_text(record, most)

    def room(self) -> dict[Kind, int]:
        """Return for how many more tasks of each kind there are places; see `protocols.StoreHost`.

        There are as many places for threads as threads, and as many for ``async def`` tasks. Tasks
        that wait for something else than a place, such as their time, need none. One that has ended
        or was given away has its place until the store knows, and can count it. If all that run
        only wait, as for the results of others, there is one place more.
        """
        core, ledger = self._core, self._ledger
        if not core.takes_over or not core.requeued.is_possible or ledger.state != "running":
            return {}
        most = ledger.queue_size - ledger.pending
        free = dict.fromkeys(KINDS, core.pool._crew.max_workers)
        goes_on = False
        for task in ledger.unstored():
            if task.status is not PENDING or not core.places.keeps(task):
                free[task.spec.kind] -= 1
                goes_on |= task.spec.kind == "loop" and task.sleeper is None
        # What they wait for may itself wait for a place, in every process.
        if core.pool._crew.is_stuck:
            free["thread"] = max(1, free["thread"])
        if not goes_on:
            free["loop"] = max(1, free["loop"])
        return {kind: min(left, most) for kind, left in free.items() if min(left, most) > 0}

    def functions(self) -> dict[Kind, list[str]]:
        """Return which functions' free tasks this process takes; see `protocols.StoreHost`."""
        only, found = self._core.only, {kind: list[str]() for kind in KINDS}
        for name in registry.names():
            spec = registry.find_spec(name)
            if spec is not None and (only is None or name in only):
                found[spec.kind].append(name)
        return found

    def may_begin(self, record: TaskRecord) -> bool:
        """Return whether a free task would begin here at once; see `protocols.StoreHost`."""
        return self._core.remote is None and waits_for_a_place(record)

    def in_line(self, most: int) -> list[TaskRecord]:
        """Return what waits here for a thread, and may leave; see `protocols.StoreHost`."""
        crew = self._core.pool._crew
        if self._ledger.state != "running" or not (crew.queued and crew.is_full):
            return []
        line = crew.queue.in_line()
        able = (one for one in line if isinstance(one, LiveTask) and may_leave(one))
        return list(islice(able, most))

    def give_away(self, records: Sequence[TaskRecord]) -> None:
        """Release tasks that wait here; see `protocols.StoreHost`."""
        for record in records:
            task = self._ledger.find_live(str(record.task_id))
            if task is not None and task.status is PENDING:
                self._core.requeued.let_go(task, OFFERED, offered=True)

    def take_over(self, records: Sequence[TaskRecord]) -> None:
        """Run free tasks here; see `protocols.StoreHost`."""
        for record in records:
            try:
                take_over(self._core, record)
            except Exception:  # the others must not be lost with it
                _LOGGER.exception("task %s could not be taken over", record.task_id)
                if self._ledger.find_live(str(record.task_id)) is None:
                    self._core.requeued.release(record)

    def buried(self, records: Sequence[TaskRecord]) -> None:
        """Publish the events of tasks that were ended because their processes are dead."""
        for record in records:
            kind = EVENT_OF[record.status]
            self._ledger.emit(kind, record, record.status, record.attempts, message=record.reason)

    def evicted(self, records: Sequence[TaskRecord]) -> None:
        """Publish the events of removed tasks; they were counted when they were removed."""
        self._endings.retention.tell(records)

    def _take_in(self, record: TaskRecord) -> bool:
        """Follow a live task of another process as one of this process; False if that fails."""
        spec = registry.find_spec(record.name)
        if spec is None:
            spec = TaskSpec(_unknown_here, name=record.name, kind="thread", check=None)
        created = self.clock.monotonic() - max(0.0, self.clock.time() - record.created_at)
        home = self._core.intake.home()
        task = new_task(
            TaskId(record.task_id), spec, copy_context(), home, created, record.created_at
        )
        task.heading, task.remote = record.heading, True
        try:
            self._ledger.add(task, bounded=False, emit_submitted=False)
        except (FrameworkError, ValueError):  # it is stopping, or has it already
            return False
        return True

    def _catch_up(self, adopted: Sequence[str], records: Sequence[TaskRecord]) -> None:
        """Bring adopted tasks to the state that the engine reports."""
        for record in records:
            self.learned(record)
        for task_id in set(adopted) - {record.task_id for record in records}:
            reason = "its process died before it was published"
            self.ended(task_id, TaskStatus.INTERRUPTED, self.clock.time(), reason=reason)

    def learned(self, record: TaskRecord) -> None:
        """Bring a remote task to the state in which a directory has it; any thread.

        Whoever has read the end of a task there must not find it live here afterwards. The report
        of its worker may come later, and then changes nothing.
        """
        task_id = str(record.task_id)
        started = record.wall(record.started)
        if started is not None:
            self.started(task_id, started.timestamp(), record.attempts, record.slept)
        if record.progress is not None:
            self.progress(task_id, record.progress, record.progress_message)
        ended = record.wall(record.ended)
        if ended is not None:
            self.ended(
                task_id,
                record.status,
                ended.timestamp(),
                result=record.result,
                error=record.error,
                reason=record.reason,
                attempts=record.attempts,
            )

    # -- for a remote engine

    def live(self) -> list[LiveTask]:
        """Return the remote tasks that are not final, as far as this process tracks them."""
        return [task for task in self._ledger.unfinished() if task.remote]

    def live_count(self) -> int:
        """Return about how many tasks of this process have not ended."""
        return self._ledger.live_count()

    def waiting(self, task_id: str, reason: str) -> None:
        """Set why a task waits; "" if it only waits for its turn."""
        task = self._find(task_id)
        if task is not None and task.reason != reason:
            task.reason = reason
            self._ledger.share(task)

    def asked_to_cancel(self, task_id: str) -> None:
        """Record that some process has asked to cancel a task."""
        task = self._find(task_id)
        if task is not None and not task.cancel_requested:
            self._ledger.request_cancel(task)

    def started(self, task_id: str, at: float, attempt: int, slept: float = 0.0) -> None:
        """Record the start of a task, or of a further attempt, and what it has waited since."""
        task = self._find(task_id)
        if task is None:
            return
        first = task.status is PENDING
        if first:
            # One less, since the start adds one and reports the sum.
            task.attempts = max(attempt, 1) - 1
            if not self._ledger.start(task, self._stamp(task, at)):
                return
        with self._ledger.lock:
            if task.status in FINAL:  # by another thread, since it was found
                return
            task.attempts = max(attempt, 1)
            task.bodies = 1
            task.reason = ""
            task.asleep = None
            if slept:
                task.slept = slept
        self._ledger.share(task)
        if task.outbox is not None:
            self._ledger.flush(task)

    def progress(self, task_id: str, share: float, message: str) -> None:
        """Record the progress of a task."""
        task = self._find(task_id)
        if task is not None:
            self._ledger.progress(task, share, message)

    def announce(self, task_id: str, kind: str, delay: float, error: BaseException | None) -> None:
        """Count a retry's or throttle's wait, and send its event."""
        task = self._find(task_id)
        if task is None:
            return
        with self._ledger.lock:
            # Until it starts again, or ends.
            if task.status is TaskStatus.RUNNING and task.asleep is None:
                task.asleep = self.clock.monotonic()
        self._ledger.announce(kind, task, delay, error)

    def ended(
        self,
        task_id: str,
        status: TaskStatus,
        at: float,
        *,
        result: Any = None,
        error: BaseException | None = None,
        reason: str = "",
        attempts: int = 1,
    ) -> None:
        """Record the end of a task."""
        task = self._find(task_id)
        if task is None:
            return
        if task.status not in TRAITS[status].after:
            # The report of its start never arrived.
            self.started(task_id, at, attempts)
        now = self._stamp(task, at)
        if task.started is not None:
            now = max(now, task.started)
            task.attempts = max(task.attempts, attempts)
        if status is TaskStatus.COMPLETED:
            self._endings.complete(task, result, now)
        else:
            told = reported_error(task, status, error, task.limit or 0.0)
            self._endings.end(task, status, error=told, reason=reason, now=now)
        self._core.places.forget_delay(task)
        self._core.runner.release_clock(task)

    def _find(self, task_id: str) -> LiveTask | None:
        task = self._ledger.find_live(task_id)
        return task if task is not None and task.remote and task.status not in FINAL else None

    def _stamp(self, task: LiveTask, at: float) -> float:
        """Convert a wall timestamp to monotonic seconds, from the submission to now."""
        return min(max(task.created + at - task.created_at, task.created), self.clock.monotonic())


def _unknown_here(*_: Any, **__: Any) -> None:
    """Stand in for a function that this process does not know; never called."""
