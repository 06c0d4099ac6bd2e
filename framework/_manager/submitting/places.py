"""Places: tasks that are unique, or of which only some may run at a time.

A unique task asks for a place when it is submitted, and keeps it until it has ended. A task
whose function has `max_running` asks for another one when it could start.

Guarantees: a task in a line is launched once it has its places, or has ended; a task that has
ended, and whose function does not run any more, is in no line. For the second one, whoever puts
a task into a line looks afterwards whether it has ended, and whoever ends it takes it out.
Relies on: lines that grant a place that becomes free to the first that waits.
Lock order: `_admitting` is held while a unique task is checked and added, so that whoever is
given its id finds it; the locks of the lines and of the ledger, and `_lock`, are taken under it.
`_lock` guards what a task was told; only the lock of the wait graph is taken under it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from framework._manager.others.elsewhere import Elsewhere
from framework._manager.submitting.delays import Delays
from framework._records.ids import TaskId
from framework._records.reasons import delayed
from framework._records.statuses import FINAL, PENDING
from framework._running.runner import Runner
from framework._running.waits.lines import Lines
from framework._tasks.live import LiveTask, Waiter
from framework._tasks.places import Existing, PlaceAnswer, PlaceRequest, Stay, stay_of
from framework._threads.waiters import LoopWaiter, ThreadWaiter
from framework._threads.watch.wait_graph import WaitGraph
from framework.exceptions import DeadlockError, DuplicateTaskError, StoreUnavailableError
from framework.protocols import SharedPlaces

_PATIENCE: Final = 5.0
"""How many seconds a submission waits for other processes to say whether it is the only one."""

_WAITS: Final = "waits for a place"
_ASKING: Final = "waits to hear whether another process has the same task"


class Places:
    """The places of one manager's tasks.

    Args:
        runner: Launches a task that has its places.
        elsewhere: Cancels tasks of other processes; None if there can be none.
        shared: The places of all processes; None for those of this one.
        waits: Knows which task waits for which.

    Attributes:
        shared: As above.
        delays: Delays a task before it asks for a place to run.
        cancel_pending: Cancels a task of this process that has not started, for a reason.
    """

    delays: Delays
    cancel_pending: Callable[[LiveTask, str], bool]

    def __init__(
        self,
        runner: Runner,
        elsewhere: Elsewhere | None,
        shared: SharedPlaces | None,
        waits: WaitGraph,
    ) -> None:
        self.shared = shared
        self._waits = waits
        self._lines: SharedPlaces = Lines(self._is_over) if shared is None else shared
        self._runner = runner
        self._ledger = runner.ledger
        self._clock = runner.ledger.clock
        self._elsewhere = elsewhere
        self._admitting = threading.Lock()
        self._lock = threading.Lock()
        self._tasks: dict[str, LiveTask] = {}
        # The latest task of each key in this process.
        self._latest: dict[str, LiveTask] = {}
        runner.endings.leave_lines = self.leave

    @property
    def lines(self) -> SharedPlaces:
        """The lines of all processes if they share them, or else those of this one."""
        return self._lines

    # -- submitting

    def prepare(self, task: LiveTask) -> Stay:
        """Find out what a new task asks for; calls the user's key functions.

        Raises:
            TypeError: If an argument, or what a key function returned, has no stable text.
            Exception: What a key function raises.
        """
        args, kwargs = task.args or (), task.kwargs or {}
        stay = stay_of(task.spec, task.task_id, args, kwargs, task.owner)
        task.stay = stay
        return stay

    def admit(self, task: LiveTask, add: Callable[[bool], None]) -> LiveTask | Existing | None:
        """Add a unique task to the ledger, unless there is another one.

        On the thread of an event loop, only the tasks of this process are asked for. If it turns
        out later that another process has one, this one ends CANCELLED.

        Args:
            task: The task.
            add: Adds it; called with whether `queue_size` applies.

        Returns:
            The other task, which is to be used instead; None if this one was added.

        Raises:
            DuplicateTaskError: If there is one, and the options say so.
            StoreUnavailableError: If the store does not answer a thread in time.
        """
        if self.shared is None:
            return self._admit_here(task, add)
        if asyncio._get_running_loop() is not None:
            return self._admit_first(task, add)
        waiter = ThreadWaiter(self._clock)
        self._begin_asking(task, waiter)
        while waiter.wait(self._clock.monotonic() + _PATIENCE) is None:
            pass
        return self._admitted(task, add)

    async def admit_patiently(
        self, task: LiveTask, add: Callable[[bool], None]
    ) -> LiveTask | Existing | None:
        """Do as `admit` does, but wait for the answer of the other processes."""
        if self.shared is None:
            return self._admit_here(task, add)
        waiter = LoopWaiter(self._runner.boxes)
        self._begin_asking(task, waiter)
        timer = self._clock.call_at(self._clock.monotonic() + _PATIENCE, waiter.wake)
        try:
            await waiter.future
        except asyncio.CancelledError:
            # The caller was cancelled, so nobody will ever know the id.
            self.leave(task)
            raise
        finally:
            timer.cancel()
        return self._admitted(task, add)

    def _admit_here(self, task: LiveTask, add: Callable[[bool], None]) -> LiveTask | None:
        stay, request = _unique(task)
        while True:
            with self._admitting:
                existing = self._enter(task, stay, request, add)
            if existing is None:
                assert stay.answer is not None
                self._replace(task, stay.answer)
                return None
            other = self._tasks.get(existing)
            # Without it, that task has ended since.
            if other is not None:
                self._require_return(task, existing)
                return other

    def _begin_asking(self, task: LiveTask, waiter: Waiter) -> None:
        """Ask all processes for a task that is not added yet, and wake *waiter*."""
        stay, request = _unique(task)
        # Others may be given its id, so from here on a full queue cannot refuse it.
        self._ledger.require_room()
        stay.waiter = waiter
        self._lines.join(request, partial(self._told, task, stay))

    def _admitted(self, task: LiveTask, add: Callable[[bool], None]) -> LiveTask | Existing | None:
        """Add a task if the answer allows it."""
        stay, request = _unique(task)
        with self._lock:
            answer, stay.waiter = stay.answer, None
        if answer is None:
            self.leave(task)
            raise StoreUnavailableError(
                f"no answer within {_PATIENCE:g} s whether {task.name} has a task with the same "
                "key already; nothing was submitted"
            )
        if not answer.granted and not request.waits:
            existing = answer.others[-1]
            self._require_return(task, existing)
            own = self._tasks.get(existing)
            return Existing(TaskId(existing)) if own is None else own
        self._add(task, partial(add, False))
        self._replace(task, answer)
        return None

    def _admit_first(self, task: LiveTask, add: Callable[[bool], None]) -> LiveTask | None:
        """Add a task before the other processes are asked."""
        stay, request = _unique(task)
        other = self._latest.get(request.key)
        if other is not None and not request.waits and not _is_over(other):
            self._require_return(task, other.task_id)
            return other
        task.reason = _ASKING
        self._add(task, partial(add, True))
        self._lines.join(request, partial(self._told_late, task, stay))
        self._leave_if_over(task)
        return None

    def _told_late(self, task: LiveTask, stay: Stay, answer: PlaceAnswer) -> None:
        """Called with the answer to a task that was added before."""
        # Not that of the task: it may have ended meanwhile, and left all lines.
        request, first = stay.unique, stay.answer is None
        assert request is not None
        self._told(task, stay, answer)
        if answer.granted or not first:
            return
        if request.waits:
            self._replace(task, answer)
        else:
            self.cancel_pending(task, f"a duplicate of task {answer.others[-1]}")

    def _add(self, task: LiveTask, add: Callable[[], None]) -> None:
        self._tasks[task.task_id] = task
        stay = task.stay
        if stay is not None and stay.unique is not None:
            self._latest[stay.unique.key] = task
        try:
            add()
        except BaseException:
            self.leave(task)
            raise

    def _require_return(self, task: LiveTask, existing: str) -> None:
        if task.spec.options["on_duplicate"] == "raise":
            raise DuplicateTaskError(task.name, existing)

    def _enter(
        self, task: LiveTask, stay: Stay, request: PlaceRequest, add: Callable[[bool], None]
    ) -> str | None:
        """Add a task if it may enter the line; if not, return the id of the last task there."""
        answer = self._ask(task, stay, request)
        if not answer.granted and not request.waits:
            return answer.others[-1]
        self._add(task, partial(add, True))
        return None

    def _ask(self, task: LiveTask, stay: Stay, request: PlaceRequest) -> PlaceAnswer:
        """Ask the lines of this process, which answer at once."""
        # It may have been refused before, by a task that has ended since.
        stay.answer = None
        self._lines.join(request, partial(self._told, task, stay))
        told: PlaceAnswer | None = stay.answer
        assert told is not None
        return told

    def _replace(self, task: LiveTask, answer: PlaceAnswer) -> None:
        """Cancel the tasks that *task* replaces, unless the line does."""
        if answer.replaces:
            return
        reason = f"it was replaced by task {task.task_id}"
        # The last first: the others would be granted what it leaves.
        for task_id in reversed(answer.others):
            other = self._tasks.get(task_id)
            if other is None or (other.remote and not self.keeps(other)):
                if self._elsewhere is not None:
                    self._elsewhere.post_cancel(task_id)
            elif self._ledger.request_cancel(other) and not self.cancel_pending(other, reason):
                # Set before the cancellation, which ends the task with this reason.
                other.reason = reason
                self._runner.endings.stop_body(other)

    def resume(self, task: LiveTask) -> None:
        """Ask for the place of a unique task that was taken over, which still has it."""
        stay = task.stay
        if stay is not None and stay.unique is not None:
            self._tasks[task.task_id] = self._latest[stay.unique.key] = task
            self._lines.join(stay.unique, partial(self._told_late, task, stay))
            self._leave_if_over(task)

    # -- launching

    def launch(self, task: LiveTask) -> None:
        """Launch a submitted task, now or when it is the only one of its key."""
        stay = task.stay
        if stay is None:  # it has ended
            return
        with self._lock:
            # Once: a submission that was told to use this task comes by here, too.
            goes = stay.settled and not stay.ready
            stay.ready = True
        if goes:
            self._go(task)

    def _go(self, task: LiveTask) -> None:
        left = task.spec.delay and task.queued + task.spec.delay - self._clock.monotonic()
        if left > 0:
            # It may have had another reason meanwhile.
            task.reason = delayed(self._clock.time() + left)
            self.delays.delay(task, left)
        else:
            self.start(task)

    def start(self, task: LiveTask) -> None:
        """Launch a task that is due, now or when it has a place to run."""
        stay = task.stay
        if not task.spec.claims or stay is None:
            self._runner.launch(task)
            return
        if stay.running is None:
            self._launch(task, stay)
            return
        self._tasks[task.task_id] = task
        if self.shared is not None:
            task.reason = _WAITS
        self._lines.join(stay.running, partial(self._told_running, task, stay))
        self._leave_if_over(task)

    def _launch(self, task: LiveTask, stay: Stay) -> None:
        with self._lock:
            launches, stay.launched = not stay.launched, True
        if launches and task.status not in FINAL:
            task.reason = ""
            task.queued = self._clock.monotonic()
            self._waits.leave(task)
            self._runner.launch(task)

    def keeps(self, task: LiveTask) -> bool:
        """Return whether a task waits here for its delay or a place, and no engine knows it."""
        if task.kept:
            return False
        stay = task.stay
        return task in self.delays or (stay is not None and not stay.launched)

    # -- what the lines tell

    def _told(self, task: LiveTask, stay: Stay, answer: PlaceAnswer) -> None:
        """Called with the answer to a unique task, and when one that waits has its place."""
        with self._lock:
            if stay.answer is None:
                stay.answer = answer
            first = stay.settled or not answer.granted
            stay.settled = stay.settled or answer.granted
            goes = stay.ready and not first
            if stay.settled and task.reason == _ASKING:
                task.reason = ""
            elif not stay.settled and stay.unique is not None and stay.unique.waits:
                # Nobody can wait for a new task yet, so this closes no circle.
                self._wait_for(task, stay.unique, answer)
                task.reason = f"waits for task {answer.others[-1]} to end, which it replaces"
            waiter = stay.waiter
        if waiter is not None:
            waiter.wake()
        if goes:
            self._go(task)

    def _told_running(self, task: LiveTask, stay: Stay, answer: PlaceAnswer) -> None:
        """Called with the answer to a task that could start, and when it has its place."""
        if answer.granted:
            self._launch(task, stay)
            return
        request = stay.running
        assert request is not None
        with self._lock:
            if stay.launched or task.status is not PENDING:
                return
            task.reason = (
                f"{_WAITS}: {min(len(answer.others), request.limit)} running, "
                f"max_running={request.limit}{stay.shown and f' for key {stay.shown}'}"
            )
            deadlock = self._wait_for(task, request, answer)
        if deadlock is not None:
            self._runner.refuse(task, deadlock)
        self._ledger.share(task)

    def _wait_for(
        self, task: LiveTask, request: PlaceRequest, answer: PlaceAnswer
    ) -> DeadlockError | None:
        """Record that a task waits for the only one with a place; return why it never gets it."""
        holder = self._tasks.get(answer.others[0])
        # Of several places, another one may be given back.
        if request.limit == 1 and holder is not None:
            try:
                self._waits.enter(task, holder)
            except DeadlockError as error:
                return error
        return None

    # -- ending

    def leave(self, task: LiveTask) -> None:
        """Give back the places of a task that has ended, and whose function does not run."""
        # In this order: whoever finds it in a line finds the task as well.
        self._lines.leave(task.task_id)
        self._forget(task)

    def _forget(self, task: LiveTask) -> None:
        stay, task.stay = task.stay, None
        if stay is not None and stay.unique is not None:
            key = stay.unique.key
            if self._latest.get(key) is task:
                self._latest.pop(key, None)
        self._tasks.pop(task.task_id, None)
        self._waits.leave(task)

    # -- tasks that change their process

    def let_go(self, task: LiveTask) -> None:
        """Forget a task that another process may run, which sees its places if all share them."""
        if self.shared is None:
            self.leave(task)
            return
        self._forget(task)

    def _leave_if_over(self, task: LiveTask) -> None:
        # 1 it ends and leaves all lines, 2 it is put into one: nobody else would take it out.
        if _is_over(task):
            self.leave(task)

    def _is_over(self, task_id: str) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and _is_over(task)


def may_wait(task: LiveTask) -> bool:
    """Return whether a submitted task may have to wait for its delay or a place."""
    stay = task.stay
    asks = stay is not None and (stay.running is not None or not stay.settled)
    return bool(task.spec.delay) or asks


def _unique(task: LiveTask) -> tuple[Stay, PlaceRequest]:
    """Return the stay of a unique task that is being submitted, and what it asks for."""
    stay = task.stay
    assert stay is not None
    assert stay.unique is not None
    return stay, stay.unique


def _is_over(task: LiveTask) -> bool:
    """Whether a task has ended, and its function does not run any more."""
    return task.status in FINAL and not task.bodies
