"""Requeued tasks: another process may run them, so they start only when the store permits it.

Others may have taken a process for dead that was only suspended, and may run its tasks. So the
start of such a task is stored first, on condition that the task still waits and still belongs
to this process. The invariants:

1. The row of a task belongs to one process at most. It gets another owner only in a transaction
   that finds no row of its process among the living ones, or if its process has released it.
2. The function of a task starts only after a commit, in a transaction that found this process
   among the living ones, in which the row of the task belonged to this process, and changed from
   PENDING to RUNNING; or had done so before, if the answer to that commit was lost. That may be
   the transaction in which the process took the task.
3. Nobody takes over a task whose row is RUNNING, unless it may run twice, or its process has
   written that it never started.

So it starts once at most. Whether it starts here or is given away is decided once, by the ledger
with its lock held: `Ledger.start` makes it RUNNING, or `Ledger.give_away` takes it out.

Relies on: a store that calls back once for each start.
Lock order: the ledger's lock is held for the few lines of a decision, and nothing else with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import ClassVar, Final, cast

from framework._manager.submitting.partner import Partner
from framework._records.reasons import is_amid
from framework._records.records import WAITS, Kind, Restart, TaskRecord
from framework._records.statuses import FINAL, PENDING, RUNNING, TaskStatus
from framework._running.endings import Ends
from framework._running.runner import NOT_STARTED, Runner
from framework._tasks.live import LiveTask, Pause, Waiter, copy_record, current_record
from framework._tasks.wire import codec_of, decode_call
from framework._threads.waiters import ThreadWaiter, wake_all
from framework.protocols import RequeueStore, Run

PATIENCE: Final = 5.0
"""How many seconds a thread of the pool waits for a permit; then it turns to other tasks."""


class Requeued(Partner):
    """Keeps what another process needs to run a task, starts such tasks, and gives them away.

    Args:
        runner: Starts tasks without further questions.
        ends: Is told which tasks are launched.
        store: Permits the starts; None for a store that gives no tasks to other processes. Then
            calls are only checked.

    Attributes:
        is_possible: Whether other processes may take tasks over.
    """

    options: ClassVar[tuple[str, ...]] = ("on_restart",)

    def __init__(self, runner: Runner, ends: Ends, store: RequeueStore | None) -> None:
        self._runner = runner
        self._ledger = runner.ledger
        self._leaving = runner.ledger.features.leaving
        self._ends = ends
        self._store = store
        self.is_possible = store is not None
        # What an engine calls with such a task; see `protocols.Run`.
        self._runs: dict[Kind, Run] = {
            "thread": _asking(self._on_thread, runner.runs["thread"]),
            "loop": _asking(self._on_loop, runner.runs["loop"]),
        }

    # -- submitting

    def make(self, task: LiveTask) -> None:
        """Keep the call.

        Raises:
            TypeError: If it needs arguments in JSON, and has none.
            ValueError: If the JSON is too long.
        """
        spec = task.spec
        args, kwargs = task.args or (), task.kwargs or {}
        codec = codec_of(spec.fn)
        call = codec.encode(args, kwargs)
        codec.require_same(args, kwargs)
        codec.require_secrets(args, kwargs)
        if spec.resumes:
            # What its code gives to steps is the same in its first run as in those that go on.
            task.args, task.kwargs = decode_call(spec.fn, call)
        if self.is_possible:
            waits = task.after is not None
            task.restart = Restart(
                call,
                due=task.created_at + spec.delay if spec.delay and not waits else None,
                delay=spec.delay if waits else 0.0,
                limit=task.limit,
                priority=spec.priority,
                idempotent=spec.idempotent,
                resumes=spec.resumes,
            )

    def hold(self, task: LiveTask, go_on: Callable[[LiveTask], object]) -> bool:
        """Launch a task that asks the store for its start, unless it has the permit already."""
        if task.restart is None:
            return False
        if self._ends.launches(task):
            self._runner.launch(task, None if task.restart.permitted else self._runs)
        return True

    # -- starting

    def start_again(self, task: LiveTask) -> None:
        """Hand a task to the engine that has rested, and asks for its start once more."""
        self._runner.launch(task, self._runs)

    def _on_thread(self, task: LiveTask) -> bool:
        """Wait for the permit on a thread of the pool, and run the task."""
        if task.status in FINAL:
            return False
        wait = _Wait(ThreadWaiter(self._ledger.clock), partial(self._start_later, task))
        self._ask(task, wait.told)
        permitted = wait.outcome(self._ledger.clock.monotonic() + PATIENCE)
        if permitted is None:
            # The store fails. Other tasks need this thread; this one is queued again later.
            return False
        return self._may_begin(task, permitted) and self._runner.runs["thread"](task)

    def _ask(self, task: LiveTask, told: Callable[[bool], None]) -> None:
        assert self._store is not None
        self._store.start(task, told)

    def _start_later(self, task: LiveTask, permitted: bool) -> None:
        """Queue a task again whose permit came late."""
        if self._may_begin(task, permitted):
            self._runner.engine.start(task, "thread", self._runner.runs["thread"])

    def _on_loop(self, task: LiveTask) -> bool:
        """Ask for the permit on the task's loop; it starts there when that has come."""
        if task.status in FINAL or task.loop is None:
            return False
        box = self._runner.boxes.of(task.loop)

        def told(permitted: bool) -> None:
            if not box.post(partial(self._start_on_loop, task, permitted)):
                self.let_go(task, "")

        self._ask(task, told)
        return True

    def _start_on_loop(self, task: LiveTask, permitted: bool) -> None:
        if self._may_begin(task, permitted):
            self._runner.runs["loop"](task)

    def _may_begin(self, task: LiveTask, permitted: bool) -> bool:
        """Return whether a task may start here; one that another process has is given away."""
        if not permitted:
            self.let_go(task, "")
        if not permitted or task.status is not PENDING:
            self._runner.release_clock(task)
            return False
        return True

    # -- giving away

    def release(self, record: TaskRecord) -> None:
        """Give a task back that cannot be taken over, for another process or a later time."""
        restart: Restart | None = record.restart
        if restart is not None and self._store is not None:
            record.restart = restart.free_copy()
            self._store.release(record)

    def take_back(self, task: LiveTask, status: TaskStatus, error: BaseException) -> None:
        """End a task that was let go, and that nobody may run: its submission has failed.

        It runs all the same if that was stored, and another process has taken it since.

        Args:
            task: The task.
            status: How it ends, CANCELLED or FAILED.
            error: Why.
        """
        restart, store = task.restart, self._store
        assert restart is not None
        assert store is not None
        ended = _free_copy(task, restart, NOT_STARTED, False)
        ended.status, ended.ended = status, self._ledger.clock.monotonic()
        ended.error, ended.read = error, True
        store.release(ended)

    def let_go(self, task: LiveTask, reason: str, *, offered: bool = False) -> bool:
        """Give a task to the other processes, unless it has started and must not do so again.

        One that sleeps between two attempts does not run, and goes on there.

        Nothing of it is stored or counted here any more. Its waiters are woken; they find it in
        the store.

        Args:
            task: The task.
            reason: Why it waits, for people, unless it waits for something else already.
            offered: Whether that is because this process has no place for it.

        Returns:
            Whether it was given away.
        """
        restart, ledger, store = task.restart, self._ledger, self._store
        if restart is None or store is None:
            return False
        with ledger.lock:
            waits = task.status is PENDING
            paused = task.pause is not None and not task.cancel_requested
            if not waits and (task.status in FINAL or not (restart.idempotent or paused)):
                return False
            free = _free_copy(task, restart, reason, offered)
            restart.state = "left"
            waiters = ledger.give_away(task)
        store.release(free)
        self._forget(task, waits, waiters)
        return True

    def leave_from_within(self) -> bool:
        """Let the task go on elsewhere whose code runs here, since this framework stops.

        Returns:
            Whether it does; also if it was given away before, and its code has not heard of it.
        """
        task = current_record.get()
        if not isinstance(task, LiveTask):
            return False
        return task.was_given_away or self.let_go(task, WAITS)

    def leave(self, task: LiveTask) -> bool:
        """Leave a task that has not started to the processes that come after this one.

        Like `let_go`, but only while this framework stops, and for nearly nothing if its row says
        already what they need to know.

        Returns:
            Whether it was left.
        """
        restart, ledger, leaving = task.restart, self._ledger, self._leaving
        if restart is None or leaving is None or ledger.state != "stopping":
            return False
        with ledger.lock:
            if task.status is not PENDING:
                return False
            restart.state = "left"
            waiters = ledger.give_away(task)
        # Of one that has rested, the row may not say so yet.
        left = task.started is None and leaving.leave_behind(task)
        if not left and self._store is not None:
            self._store.release(_free_copy(task, restart, WAITS, False))
        self._forget(task, True, waiters)
        return True

    def _forget(self, task: LiveTask, waits: bool, waiters: Collection[Waiter]) -> None:
        """Let nothing more happen here to a task that was given away, and wake its waiters."""
        task.home.live.pop(task.task_id, None)
        if waits:
            task.args = task.kwargs = task.context = None
        if task.limit_key is not None:
            self._runner.limits.disarm(task)
        if task.bodies:
            self._runner.endings.stop_body(task)
        self._ends.give_away(task)
        self._runner.engine.withdraw(task)
        self._runner.release_clock(task)
        wake_all(waiters)
        if task.home.on_idle is not None and not task.home.live:
            task.home.on_idle()


def _free_copy(task: LiveTask, restart: Restart, reason: str, offered: bool) -> TaskRecord:
    """Return the record that the store keeps of a task that is given away."""
    free, pause = copy_record(task), task.pause
    restart = replace(restart.free_copy(), offered=offered)
    if pause is not None:
        restart.due, restart.used = pause.due, pause.used
        restart.amid = amid_of(restart, pause, task.reason)
        free.attempts -= not pause.begun
    else:
        waits = task.after is not None and task.after.waits
        if task.timer is None and not waits and not (offered and task.reason):
            free.reason = reason
        if task.status is RUNNING:
            # It begins anew.
            free.progress, free.progress_message = None, ""
            restart.amid = restart.resumes
    if free.cancel_waits:
        # It goes on for that, whatever it waits for.
        restart.due, free.reason = None, WAITS
    free.status, free.started, free.restart = PENDING, None, restart
    return free


def amid_of(restart: Restart, pause: Pause, reason: str) -> bool:
    """Return whether a task that waits outside of its code goes on where that stood.

    Args:
        restart: Its restart, as it was before.
        pause: Its wait.
        reason: What it waits for.
    """
    if pause.begun:
        # An attempt has ended, and the next one is to begin.
        return False
    return restart.resumes and (restart.amid or is_amid(reason))


def _asking(ask: Callable[[LiveTask], bool], plain: Run) -> Run:
    """Return what an engine calls, which asks first and drops tasks like *plain*."""

    # A function with an attribute, as those of `coroutines.runs_of`.
    def run(task: LiveTask) -> bool:
        return ask(task)

    run.drop = plain.drop  # type: ignore[attr-defined]
    return cast("Run", run)


class _Wait:
    """One wait of a thread for a permit, which it may give up.

    Args:
        waiter: The thread.
        late: Called with the permit if it comes after the thread has gone.
    """

    def __init__(self, waiter: ThreadWaiter, late: Callable[[bool], None]) -> None:
        self._waiter = waiter
        self._late = late
        # Nothing fails without it while there is a global lock: threads are switched at calls,
        # and neither of its two blocks makes one.
        self._lock = threading.Lock()
        self._permitted: bool | None = None
        self._gone = False

    def told(self, permitted: bool) -> None:
        """Take the permit or its refusal."""
        with self._lock:
            self._permitted, gone = permitted, self._gone
        if gone:
            self._late(permitted)
        else:
            self._waiter.wake()

    def outcome(self, until: float) -> bool | None:
        """Wait until monotonic second *until*; None if there is no answer by then."""
        while self._waiter.wait(until) is None:
            pass
        with self._lock:
            self._gone = self._permitted is None
            return self._permitted
