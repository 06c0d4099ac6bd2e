"""The ledger: all live tasks, the counters, and the only code that changes a task's status.

Guarantees: a task is counted under exactly one status at any time, so that
``submitted = pending + running + completed + failed + timeout + cancelled + interrupted``
holds in every snapshot; only the thread that makes a task final gets its waiters.
Relies on: nothing that is called with the lock held calls back.
Lock order: `lock` is held for the few lines of one change, never while user code, a sink or
a store runs. No other lock is taken while it is held. On the path of every task, nothing is
called while it is held either: the interpreter switches threads at calls, and a thread that
lost its turn while holding the lock would make all others wait for it.
Without the GIL: every shared field is written under the lock, except for the dicts of live
tasks, from which other threads remove entries without it; each such operation is atomic.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

from framework._records.checks import id_in_use, show
from framework._records.records import Restart, TaskRecord, wake
from framework._records.statuses import (
    COMPLETED,
    EVENT_OF,
    FINAL,
    PENDING,
    RUNNING,
    TRAITS,
    TaskStatus,
)
from framework._running.events import Events
from framework._tasks.live import Home, LiveTask, Waiter, copy_record
from framework._threads.loggers import SafeLogger
from framework._threads.waiters import wake_all
from framework._threads.watch.outflow import Outflow
from framework.exceptions import FrameworkNotStartedError, QueueFullError
from framework.protocols import CallStore, Clock, Interceptor, SharedStore, TaskStore
from framework.protocols._features import features_of

_LOGGER = SafeLogger("asyncframe")

State: TypeAlias = Literal["running", "stopping", "stopped", "forked"]
"""State of a framework; only changed here, with the lock held except after a fork."""

_BEFORE_START: Final = TRAITS[RUNNING].after


class Ledger(Events):
    """Tasks, counters and events of one manager.

    Args:
        clock: Time for stamps.
        store: Where finished tasks are kept.
        queue_size: How many tasks may be PENDING, 1 or more.
        interceptor: Its `after_event` is called; None for no interceptor.

    Attributes:
        homes: The homes that may have live tasks; one that has left stays until it has none.
        kept: How many finished tasks the store has.
        features: What the store can do.
        calls: The arguments of tasks that did not complete.
        shared: The store, if other processes read it and need live tasks as well.
        large: The store, if it does not hold all its tasks in memory.
        state: Whether the framework runs, is stopping or has stopped.
    """

    def __init__(
        self,
        clock: Clock,
        store: TaskStore,
        queue_size: int,
        interceptor: Interceptor | None = None,
    ) -> None:
        super().__init__(clock)
        self.interceptor = interceptor
        self.store = store
        self.features = features_of(store)
        self.shared = self.features.shared
        self.calls = Calls(_kept_calls(store, self.features.calls))
        self.large = self.features.large
        self.queue_size = queue_size
        self._outflow = Outflow(clock.monotonic)
        self.homes: list[Home] = []
        self.state: State = "running"
        self.submitted = 0
        self.pending = 0
        self.running = 0
        self.ended: dict[TaskStatus, int] = {status: 0 for status in TaskStatus if status.is_final}
        self.extra: Counter[str] = Counter()
        self.kept = 0

    def add_home(self, home: Home) -> None:
        """Add *home*, and remove homes that are closed and have no live tasks."""
        with self.lock:
            self.homes = [one for one in self.homes if one.live or not one.closed] + [home]

    def add(
        self,
        task: LiveTask,
        started: float | None = None,
        bounded: bool = True,
        emit_submitted: bool = True,
    ) -> None:
        """Add a new task.

        Args:
            task: The task.
            started: Monotonic second since which it is RUNNING; None if it is PENDING.
            bounded: Whether `queue_size` applies to it.
            emit_submitted: Whether to queue the event ``submitted``.

        Raises:
            FrameworkNotStartedError: If the manager accepts no more tasks.
            QueueFullError: If `queue_size` tasks are PENDING.
            ValueError: If its id is in use.
        """
        home = task.home
        task_id, live = task.task_id, home.live
        with self.lock:
            if home.closed or self.state != "running":
                raise FrameworkNotStartedError(
                    "stopping" if self.state == "running" else self.state
                )
            if started is None and bounded and self.pending >= self.queue_size:
                raise self.queue_full()
            if task_id in live:
                raise id_in_use(task_id)
            live[task_id] = task
            self.submitted += 1
            if started is None:
                self.pending += 1
            else:
                task.status = RUNNING
                task.started = started
                task.attempts = task.bodies = 1
                self.running += 1
            if emit_submitted and self.sinks:
                self.enqueue(task, "submitted")
        # Without the lock, since the store may block or refuse.
        if self.shared is not None:
            self._share_new(self.shared, task)

    def require_room(self, many: int = 1) -> None:
        """Check that `add` would take some PENDING tasks now.

        Args:
            many: How many.

        Raises:
            FrameworkNotStartedError: If the manager accepts no more tasks.
            QueueFullError: If more than `queue_size` tasks would be PENDING.
        """
        with self.lock:
            if self.state != "running":
                raise FrameworkNotStartedError(self.state)
            if self.pending + many > self.queue_size:
                raise self.queue_full()

    def queue_full(self) -> QueueFullError:
        """Count a refusal and return its error, which says when to come back; lock held."""
        self.extra["rejected"] += 1
        # Coroutines that are awaited in place never wait, but count as if they had left.
        left = self.submitted - self.pending
        return QueueFullError(self.queue_size, self._outflow.next_place(left))

    def _share_new(self, shared: SharedStore, task: LiveTask) -> None:
        """Publish a new task to other processes; remove it again if that fails."""
        try:
            shared.note(task)
        except BaseException:
            with self.lock:
                task.home.live.pop(task.task_id, None)
                task.outbox = None
                self.extra["rejected"] += 1
                self._uncount(task)
            raise

    def _uncount(self, task: LiveTask) -> None:
        """Count a task as if it had never come, with the lock held; it is not final."""
        self.submitted -= 1
        if task.status is PENDING:
            self.pending -= 1
        else:
            self.running -= 1

    def share(self, task: LiveTask) -> None:
        """Publish a task's change to other processes; called without the lock."""
        if self.shared is not None:
            self.shared.note(task)

    def start(self, task: LiveTask, now: float) -> bool:
        """Make a task RUNNING, or count a further delivery of it; False if it is final."""
        with self.lock:
            before = task.status
            if before not in _BEFORE_START:
                return False
            if before is PENDING:
                self.pending -= 1
                self.running += 1
                task.status = RUNNING
                task.started = now
                if task.rest is not None:
                    task.reason = ""
                    _note_replay(task)
            task.attempts += 1
            task.bodies += 1
            if self.sinks:
                self.enqueue(task, "started")
        # `share`, written out, since every task passes here.
        if self.shared is not None:
            self.shared.note(task)
        return True

    def end(
        self,
        task: LiveTask,
        status: TaskStatus,
        now: float,
        result: Any = None,
        error: BaseException | None = None,
        reason: str = "",
        only_from: TaskStatus | None = None,
        body_ended: bool = True,
    ) -> dict[Any, None] | None:
        """Make a task final and move it to the store, unless its status or *only_from* forbids it.

        Args:
            task: The task.
            status: How it ended.
            now: Monotonic second at which it ended.
            result: What it returned.
            error: Why it has no result.
            reason: Why it ended, for people.
            only_from: Leave the task as it is if it has another status; None for any status.
            body_ended: Whether its body has ended; if not, a body that runs keeps running.

        Returns:
            Its waiters, which may be none; None if the status was not changed.
        """
        allowed = TRAITS[status].after
        with self.lock:
            before, bodies = task.status, task.bodies
            # Before the check below: the body of a task that is final already may end late.
            if body_ended and bodies:
                task.bodies = bodies = bodies - 1
                if not bodies and task.rest is not None:
                    task.still_running = False
            if before not in allowed or (only_from is not None and before is not only_from):
                return None
            task.ended = now
            task.result = result
            if error is not None or reason or bodies or task.rest is not None:
                _tell_why(task, error, reason)
                wake(task, now)
            if before is PENDING:
                self.pending -= 1
            else:
                self.running -= 1
            self.ended[status] += 1
            self.kept += 1
            waiters, task.waiters = task.waiters, None
            task.status = status
            if self.sinks:
                self.enqueue(task, EVENT_OF[status], message=task.reason, error=task.error)
        # Free them now: a body that still runs has its own references.
        task.context = None
        if status is COMPLETED:
            task.args = task.kwargs = task.code = None
        else:
            self.calls.keep(task)
        # Stored before it is removed, so that it can be found at any moment.
        try:
            self.store.put(task)
        except Exception:  # a broken store must not keep the task live for ever
            _LOGGER.exception("the store did not accept task %s", task.task_id)
        task.home.live.pop(task.task_id, None)
        return _NO_WAITERS if waiters is None else waiters

    def unfollow(self, task: LiveTask) -> None:
        """Stop following a task that continues in another process, and wake its waiters."""
        with self.lock:
            waiters, task.waiters = task.waiters, None
            # Counted by whoever follows it from now on.
            if task.status not in FINAL:
                self._uncount(task)
        task.home.live.pop(task.task_id, None)
        if waiters:
            wake_all(waiters)
        if task.home.on_idle is not None and not task.home.live:
            task.home.on_idle()

    def give_away(self, task: LiveTask) -> dict[Waiter, None]:
        """Stop counting a live task that another process may run; called with the lock held.

        It is INTERRUPTED for whoever refers to it here, so that nothing can happen to it any
        more; that is not stored. Call ``live.pop`` and wake the returned waiters after it.
        """
        self._uncount(task)
        task.status = TaskStatus.INTERRUPTED
        waiters, task.waiters = task.waiters, None
        return {} if waiters is None else waiters

    def requeued(self, task: LiveTask) -> None:
        """Count and publish that a task of another process waits here now."""
        with self.lock:
            self.extra["requeued"] += 1
            if self.sinks:
                self.enqueue(task, "requeued", message=task.reason)
        if task.outbox is not None:
            self.flush(task)

    def find(self, task_id: str) -> TaskRecord | None:
        """Return the record with this id, live or finished; None if there is none.

        Raises:
            TypeError: If the id is not a string, such as the None of a forgotten ``return``.
        """
        if not isinstance(task_id, str):
            raise TypeError(f"task_id must be a string, not {show(task_id)}")
        return self.find_live(task_id) or self.store.get(task_id)

    def find_live(self, task_id: str) -> LiveTask | None:
        """Return the live task of this process with this id, or None."""
        for home in self.homes:
            task = home.live.get(task_id)
            if task is not None:
                return task
        return None

    def unstored(self, home: Home | None = None) -> list[LiveTask]:
        """Return the tasks that the store does not have yet: a final one may be among them."""
        homes = self.homes if home is None else [home]
        # One atomic operation for each home: other threads remove entries at any moment.
        return [task for one in homes for task in list(one.live.values())]

    def live_count(self) -> int:
        """Return how many tasks `unstored` has."""
        return sum(len(home.live) for home in self.homes)

    def unfinished(self, home: Home | None = None) -> list[LiveTask]:
        """Return the tasks of this process that are not final, of *home* or of all homes."""
        return [task for task in self.unstored(home) if task.status not in FINAL]

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a consistent copy of *record*."""
        with self.lock:
            return copy_record(record)

    def register(self, task: LiveTask, waiter: Waiter) -> bool:
        """Register *waiter* to be woken when the task is final; False if it is already."""
        with self.lock:
            # Not `in FINAL`, which calls the hash of the status; see the module's docstring.
            if task.status is not PENDING and task.status is not RUNNING:
                return False
            if task.waiters is None:
                task.waiters = {waiter: None}
            else:
                task.waiters[waiter] = None
        return True

    def unregister(self, task: LiveTask, waiter: Waiter) -> None:
        """Remove a waiter that has stopped waiting."""
        with self.lock:
            if task.waiters is not None:
                task.waiters.pop(waiter, None)

    def request_cancel(self, task: LiveTask) -> bool:
        """Record a request to cancel the task; False if it is final already."""
        with self.lock:
            if task.status in FINAL:
                return False
            _mark_cancelled(task)
        self.share(task)
        return True

    def progress(self, task: LiveTask, share: float, message: str) -> None:
        """Set a task's progress; a final one is left as it is."""
        with self.lock:
            if task.status in FINAL:
                return
            task.progress = share
            task.progress_message = message
            if self.sinks:
                self.enqueue(task, "progress", progress=share, message=message)
        self.share(task)
        self._publish(task, "progress")

    def close_home(self, home: Home) -> None:
        """Accept no more tasks for *home*: when this returns, none will be added."""
        with self.lock:
            home.closed = True

    def wind_down(self) -> None:
        """Accept no more tasks for any home, since the framework is about to stop."""
        with self.lock:
            if self.state == "running":
                self.state = "stopping"

    def stop(self) -> bool:
        """Accept no more tasks, for good; False if it has stopped already."""
        with self.lock:
            stops = self.state != "stopped"
            self.state = "stopped"
        return stops

    @property
    def has_ended(self) -> bool:
        """Whether the framework has stopped for good, or this is a fork of it."""
        return self.state in ("stopped", "forked")

    def after_fork(self) -> None:
        """Accept no more tasks in a forked child, where another thread may hold the lock."""
        self.lock = threading.Lock()
        self.state = "forked"

    def announce(
        self, kind: str, task: LiveTask, delay: float, error: BaseException | None
    ) -> None:
        """Count a wait for a retry or a throttle, or a sleep, and publish it if the task lives."""
        with self.lock:
            self.extra[kind] += 1
            if self.sinks and task.status not in FINAL:
                self.enqueue(task, kind, delay=delay, error=error)
        self._publish(task, kind)

    def _publish(self, task: LiveTask, kind: str) -> None:
        """Publish what a task that runs has told, and hand it to the interceptor."""
        if task.outbox is not None:
            self.flush(task)
        if self.interceptor is not None and not task.remote:
            self.interceptor.after_event(task, kind)

    def count_late(self, task: LiveTask) -> None:
        """Count and publish an outcome that came when its task was final already."""
        with self.lock:
            self.extra["late_results"] += 1
            if self.sinks:
                self.enqueue(task, "late_result")
        self.share(task)
        if task.outbox is not None:
            self.flush(task)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that does not belong to a status."""
        with self.lock:
            self.extra[name] += by


def _mark_cancelled(task: LiveTask) -> None:
    """Note that a task is to be cancelled; called with the lock held.

    If its code goes on from where it stood, or is just about to come there from its records, the
    cancellation waits for that: see `raise_cancel`.
    """
    restart: Restart | None = task.restart
    stands = task.status is PENDING and restart is not None and restart.stands
    if stands or task.replays or task.cancel_waits:
        task.cancel_waits = True
    else:
        task.cancel_requested = True


def raise_cancel(ledger: Ledger, task: LiveTask) -> None:
    """Note that a cancellation which has waited is raised now, where the task's code stands."""
    with ledger.lock:
        task.cancel_waits, task.cancel_requested = False, True
    ledger.share(task)


def _note_replay(task: LiveTask) -> None:
    """Note whether a task that starts is answered from records; called with the lock held."""
    restart: Restart | None = task.restart
    if restart is not None and restart.stands:
        task.replays = True


def rest(ledger: Ledger, task: LiveTask, reason: str) -> bool:
    """Make a RUNNING task PENDING again, whose function was left; called with the lock held.

    Returns:
        False if it is not to run again, or still runs elsewhere; then nothing has changed.
    """
    if task.status is not RUNNING or task.cancel_requested or task.bodies > 1:
        return False
    ledger.running -= 1
    ledger.pending += 1
    task.status = PENDING
    task.bodies = 0
    task.reason = reason
    return True


def _tell_why(task: LiveTask, error: BaseException | None, reason: str) -> None:
    """Set the fields that a task has only if its end was not the usual one."""
    if error is not None:
        task.error = error
        # As it is when the error is first raised: each waiter's frames are added to it later.
        task.traceback = error.__traceback__
    # An empty reason must not create `rest`.
    if reason or task.rest is not None:
        task.reason = reason
    if task.bodies:
        task.still_running = True


def _kept_calls(store: TaskStore, keeper: CallStore | None) -> int:
    """Return for how many tasks this process keeps the arguments."""
    if keeper is not None:
        # It keeps them itself, but writes them a moment later.
        return _KEPT if keeper.keep_arguments else 0
    most: int = getattr(store, "keep_arguments", _KEPT)
    return most


_KEPT: Final = 1_000

_NO_WAITERS: dict[Any, None] = {}
"""Returned by `Ledger.end` for a task without waiters; never changed."""


# -- what can run again


class Calls:
    """Keeps the arguments of the latest tasks that did not complete, so that they can run again.

    They are kept by reference, and never leave the process from here: neither logs nor `to_dict()`
    nor HTTP show them. Any thread; the lock is innermost.

    Args:
        most: Of how many tasks at most, 0 for none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._tasks: dict[str, LiveTask] = {}

    def keep(self, task: LiveTask) -> None:
        """Let a task that has just ended keep its arguments, unless its options forbid it."""
        if not self.most or not task.spec.options["keep_arguments"]:
            _drop(task)
            return
        with self._lock:
            self._tasks[task.task_id] = task
            oldest = next(iter(self._tasks)) if len(self._tasks) > self.most else None
            spare = None if oldest is None else self._tasks.pop(oldest)
        if spare is not None:
            _drop(spare)

    def forget(self, records: Iterable[TaskRecord]) -> None:
        """Drop the arguments of tasks that are removed from the store."""
        with self._lock:
            found = [self._tasks.pop(record.task_id, None) for record in records]
        for task in found:
            if task is not None:
                _drop(task)


def _drop(task: LiveTask) -> None:
    # A body that still runs has its own references.
    task.args = task.kwargs = None
