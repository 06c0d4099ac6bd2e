"""Resting: tasks that wait for another attempt outside of their functions, as delayed ones do.

A task that other processes may run, and whose own retry makes it wait, runs nothing meanwhile. So
it leaves its thread or coroutine and is PENDING until it is due: its row says so, and how many
attempts have failed. If its process ends or dies, another one waits on, and if its process has no
thread for it when it is due, one that has takes it. The invariants:

1. Nothing of the function runs while the task rests: it rests only when its function was left, and
   starts again as every requeued task does, with the permit of the store; see `requeued`.
2. Whether it rests, ends or is cancelled is decided once, with the ledger's lock held.
3. Attempts that have failed are counted before the wait, and never anew.

Relies on: a function that was left without any code of the user's around its wait; see `own`.
Lock order: the ledger's lock is held for the decision, and nothing else with it.
"""

from __future__ import annotations

from typing import Final

from framework._manager.submitting.requeued import Requeued, amid_of
from framework._records.records import WAITS
from framework._records.statuses import CANCELLED
from framework._running.ledger import rest
from framework._running.outcomes import PublishAgain
from framework._running.runner import Runner
from framework._running.waits.places import Delays
from framework._tasks.live import LiveTask, Pause
from framework.exceptions import TaskCancelledError

LONG: Final = 60.0
"""Seconds of a wait after which whichever process has a place goes on: until then it is a row."""


class Resting:
    """Lets tasks wait outside of their functions.

    Args:
        runner: Has their limits and ends them.
        delays: Has their timers.
        requeued: Starts them again, and gives them away.
    """

    def __init__(self, runner: Runner, delays: Delays, requeued: Requeued) -> None:
        self._runner = runner
        self._ledger = runner.ledger
        self._delays = delays
        self._requeued = requeued

    def pause(self, task: LiveTask, delay: float, *, begun: bool) -> Pause | None:
        """Return what a wait of a running task is; called where its function runs.

        Args:
            task: A task whose own retry or throttle makes it wait.
            delay: For how many seconds.
            begun: See `Pause`.

        Returns:
            None if it is to wait inside, since its limit ends it before, or it runs twice.
        """
        restart = task.restart
        if restart is None or restart.state != "own" or task.bodies != 1:
            return None
        if task.cancel_requested:
            # Its code makes up for what it has done: whoever goes on raises that anew.
            return None
        used = 0.0
        if task.limit is not None:
            # While it waits for a throttle, the time of its limit stands still.
            counted = delay if begun else 0.0
            left = self._runner.limits.left_of(task, task.limit)
            if left <= counted:
                return None
            used = task.limit - left + counted
        return Pause(self._ledger.clock.time() + delay, used, begun)

    def rest(self, task: LiveTask, pause: Pause, again: PublishAgain, announces: bool) -> None:
        """Let a task wait whose function was left, or end it if it is not to run again.

        Args:
            task: The task.
            pause: What `pause` has returned.
            again: With what its function was left.
            announces: Whether nobody has heard of its wait yet.
        """
        ledger, runner, restart = self._ledger, self._runner, task.restart
        assert restart is not None
        runner.limits.halt(task)
        with ledger.lock:
            rests = restart.state == "own" and rest(ledger, task, again.reason)
            if rests:
                restart.rest(pause.due, pause.used)
                restart.amid = amid_of(restart, pause, again.reason)
                task.attempts -= not pause.begun
        if not rests:
            stopped = TaskCancelledError(task.task_id, task.name)
            reason = "it was cancelled between two attempts"
            runner.endings.end(task, CANCELLED, error=stopped, reason=reason)
            return
        ledger.share(task)
        if announces:
            ledger.announce(again.kind, task, again.delay, again.error)
        # Not by the wall second, which people may set.
        self._delays.delay(task, ledger.clock.monotonic() + again.delay, self._go_on)
        # 1 it rests, 2 its app stops and looks for tasks with a timer, 3 its timer is set.
        if task.home.closed or again.delay > LONG:
            self._requeued.let_go(task, WAITS)

    def _go_on(self, task: LiveTask) -> None:
        """Let a task start again that is due."""
        restart = task.restart
        assert restart is not None
        with self._ledger.lock:
            # Not before: until its thread has let go of it, it is one that has started.
            task.started = None
            task.slept = 0.0
            # From now on it waits for a place alone, wherever that is.
            restart.due = None
        self._requeued.start_again(task)
