"""Held tasks: those that wait until others have ended, delayed ones, and limited ones.

All are launched later than they are submitted. Tasks that wait for others do so by `Chained`, by
one of two drivers of the rule in `chains`: the ledger of this process, or a store that all share.

The invariant: no end is missed. In the ledger a task is registered with each of the others by the
lock under which they end: it is told, or sees that there is nothing to wait for. A store does the
same in transactions that take turns; see its `chains`.

Lock order: that of `Places`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Final

from framework._manager.others.other_processes import OtherProcesses
from framework._manager.others.questions import Found, Then
from framework._manager.submitting.partner import GoOn, Partner
from framework._manager.submitting.remote import Remote
from framework._manager.submitting.tested import AppRules
from framework._records.chains import After, why_cancelled
from framework._records.reasons import after as waits_for
from framework._records.reasons import delayed
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, PENDING
from framework._running.runner import Runner
from framework._running.waits.places import Delays, Places
from framework._tasks.live import LiveTask, current_record
from framework._tasks.places import (
    PlaceAnswer,
    PlaceRequest,
    PlaceState,
    TaskPlaces,
    running_key,
)
from framework._threads.waiters import Reply
from framework.exceptions import DeadlockError

_WAITS: Final = "waits for a place"

_ON_WORKERS: Final = (
    "its tasks run on workers, and nothing keeps which of them wait for others: use "
    "store=SQLStore(url)"
)
_NOT_KEPT: Final = "its store does not keep which tasks wait for others: use store=SQLStore(url)"


class Chained(Partner):
    """Launches tasks once others have ended.

    Args:
        places: Has the tasks that wait.
        runner: Cancels tasks.
        others: Finds tasks of other processes.
        rules: Those of the apps, in a test that replaces their engines; otherwise None.
        remote: Lets the engine note tasks that wait for a time or a place; None without one.
        gives_away: Whether this process runs no tasks, and gives each to others as it waits.
    """

    options: ClassVar[tuple[str, ...]] = ("after",)

    def __init__(
        self,
        places: Places,
        runner: Runner,
        others: OtherProcesses,
        rules: AppRules | None,
        remote: Remote | None,
        *,
        gives_away: bool,
    ) -> None:
        self._places = places
        self._runner = runner
        self._ledger = runner.ledger
        self._others = others
        self._rules = rules
        self._remote = remote
        self._gives_away = gives_away
        self.waits = others.exist
        self._asked: dict[LiveTask, Reply[Found]] = {}
        # Tasks, each with one of the others that has ended. One thread looks after all of them.
        self._ended: deque[tuple[LiveTask, TaskRecord]] = deque()
        self._is_served = False

    # -- submitting

    def make(self, task: LiveTask) -> None:
        """Say what a task will wait for.

        Raises:
            ValueError: If nobody could keep it waiting.
        """
        spec, rules, features = task.spec, self._rules, self._ledger.features
        on_workers = self._remote is not None
        if rules is not None:
            features = rules.store_of(task.home) or features
            on_workers = on_workers or rules.has_workers(task.home)
        if features.chains is None and (on_workers or features.shared is not None):
            why = _ON_WORKERS if on_workers else _NOT_KEPT
            raise ValueError(f"{spec.name} cannot be submitted with after: {why}")
        task.after = After(spec.after, spec.options["after_failure"], waits=True)
        task.reason = waits_for(spec.after)

    def enter(self, task: LiveTask, patient: bool) -> Reply[Found] | None:
        """Find out what a task has to wait for: what has COMPLETED counts already.

        Raises:
            LookupError: If one of the others is unknown.
            StoreUnavailableError: If that cannot be found out.
        """
        after = task.after
        assert after is not None
        find = self._ledger.find
        found = {one: record for one in after.task_ids if (record := find(one)) is not None}
        unknown = [one for one in after.task_ids if one not in found]
        reply = self._asked.pop(task, None)
        if reply is not None:
            answers = reply.answer()
            found |= {one: record for one in unknown if (record := answers[one]) is not None}
        elif unknown and self._others.exist:
            if not patient:
                raise LookupError(
                    f"{task.name} cannot wait for task {unknown[0]!r}, which this process does not "
                    "know: `await manager.submit(..., after=[...])` asks the other processes"
                )
            self._ledger.require_room()
            self._asked[task] = reply = Reply[Found](self._ledger.clock, self._runner.boxes)
            self._others.look_for(unknown, reply.give)
            return reply
        for one in after.task_ids:
            if one not in found:
                raise LookupError(
                    f"{task.name} cannot wait for task {one!r}: no task has this id, or it was "
                    "forgotten"
                )
        # What cancels the task stays, so that it ends as it would have, had it waited longer.
        open_ones = [
            one for one in found.values() if one.status not in FINAL or after.cancels(one.status)
        ]
        after.unwritten = self._remote is not None
        after.open = {str(one.task_id) for one in open_ones}
        task.parents = open_ones
        if not open_ones:
            self._settle(task)
        return None

    def settle(self, task: LiveTask, added: bool) -> None:
        """Forget a task whose caller has stopped waiting."""
        if not added:
            self._asked.pop(task, None)

    def hold(self, task: LiveTask, go_on: GoOn) -> bool:
        """Keep a task until the others have ended."""
        parents, task.parents = task.parents, ()
        if self._gives_away:
            return False
        here = [one for one in parents if isinstance(one, LiveTask)]
        submitter = current_record.get()
        # The one that submits it may wait for it next, for ever.
        awaited = submitter if submitter in here else next(iter(here), None)
        try:
            if not self._places.chain(task, go_on, awaited):
                return False
        except DeadlockError as error:
            self._runner.refuse(task, error)
            return True
        if self._ledger.shared is None:
            self._follow(task, parents)
        return True

    # -- what becomes of what waits

    def release(self, task: LiveTask) -> None:
        """Go on with a task whose others have ended, as if it was submitted now; any thread."""
        go_on = self._places.unchain(task)
        self._settle(task)
        if go_on is not None and task.status not in FINAL:
            self._ledger.share(task)
            if self._remote is not None:
                self._remote.settle(task, True)
            go_on(task)

    def withdraw(self, task: LiveTask, reason: str) -> None:
        """Cancel a task since one of the others has no result; any thread."""
        self._places.unchain(task)
        self._runner.cancel_pending(task, reason)

    def _settle(self, task: LiveTask) -> None:
        """Let the wait of a task for its start begin now."""
        after, restart, clock = task.after, task.restart, self._ledger.clock
        if after is not None:
            after.waits = False
        if task.status in FINAL:
            return
        delay, now = task.spec.delay, clock.time()
        task.queued = clock.monotonic()
        task.reason = delayed(now + delay) if delay else ""
        if restart is not None:
            restart.due, restart.delay = now + delay if delay else None, 0.0

    # -- in the ledger of this process

    def _follow(self, task: LiveTask, parents: Sequence[TaskRecord]) -> None:
        """Be told of the end of each of the others."""
        for parent in parents:
            told = Then(partial(self._told, task, parent))
            if not (isinstance(parent, LiveTask) and self._ledger.register(parent, told)):
                self._told(task, parent)

    def _told(self, task: LiveTask, parent: TaskRecord) -> None:
        """Called when one of the others has ended, for each task that waits for it.

        What is cancelled by that ends, too, and calls this again. One thread does all of it one
        after the other, so that a chain may be as long as it likes.
        """
        with self._places.lock:
            self._ended.append((task, parent))
            if self._is_served:
                return
            self._is_served = True
        while (following := self._following()) is not None:
            child, ended = following
            try:
                self._end_wait(child, ended)
            except Exception as error:  # its id is known already, so the task must end
                self._runner.refuse(child, error)

    def _following(self) -> tuple[LiveTask, TaskRecord] | None:
        with self._places.lock:
            if self._ended:
                return self._ended.popleft()
            self._is_served = False
            return None

    def _end_wait(self, task: LiveTask, parent: TaskRecord) -> None:
        after = task.after
        if after is None or not after.waits:
            return
        if after.cancels(parent.status):
            self.withdraw(task, why_cancelled(str(parent.task_id), parent.status))
            return
        after.open.discard(str(parent.task_id))
        if not after.open:
            self.release(task)


class Delayed(Partner):
    """Launches tasks after the delay of their spec.

    Args:
        delays: Has their timers.
        runner: Ends a task for which no timer can be set.
    """

    options: ClassVar[tuple[str, ...]] = ("delay",)

    def __init__(self, delays: Delays, runner: Runner) -> None:
        self._delays = delays
        self._runner = runner
        self._clock = runner.ledger.clock

    def make(self, task: LiveTask) -> None:
        """Say why a task will wait, unless it waits for others first."""
        if task.after is None:
            task.reason = delayed(task.created_at + task.spec.delay)

    def hold(self, task: LiveTask, go_on: Callable[[LiveTask], object]) -> bool:
        """Keep a task until its delay is over, which is counted from its submission.

        So a task that waited before, for its record to be stored or to be the only one of its
        key, does not wait longer by that, and starts when its `reason` says.
        """
        spec, clock = task.spec, self._clock
        due = task.queued + spec.delay
        left = due - clock.monotonic()
        if left <= 0:
            return False
        if spec.needs_place or spec.after:
            # It may have had another reason meanwhile.
            task.reason = delayed(clock.time() + left)
        try:
            self._delays.delay(task, due, go_on)
        except Exception as error:  # its id is known already, so the task must end
            self._runner.refuse(task, error)
        return True


class Limited(Partner):
    """Launches tasks when they have a place among those that run.

    Args:
        places: The lines of limited tasks.
        runner: Ends a task that can never get a place.
    """

    options: ClassVar[tuple[str, ...]] = ("max_running",)

    def __init__(self, places: Places, runner: Runner) -> None:
        self._places = places
        self._runner = runner

    def make(self, task: LiveTask) -> None:
        """Find out the key of a new task; calls the user's key function.

        Raises:
            TypeError: If what the function returned has no stable text.
            Exception: What the function raises.
        """
        spec = task.spec
        most = spec.options["max_running"]
        assert most is not None
        args, kwargs = task.args or (), task.kwargs or {}
        key, shown = running_key(spec, args, kwargs)
        places = task.places or TaskPlaces(None)
        places.running = PlaceRequest(key, task.task_id, most, rank=spec.level)
        places.shown = shown
        task.places = places

    resume = make

    def hold(self, task: LiveTask, go_on: Callable[[LiveTask], object]) -> bool:
        """Keep a task until it has a place, which may be at once."""
        places = task.places
        request = None if places is None else places.running
        if places is None or request is None:  # it has ended
            return True
        self._places.add(task)
        if self._places.shared is not None:
            task.reason = _WAITS
        self._places.lines.join(request, partial(self.told, task, places, request, go_on))
        self._places.leave_if_over(task)
        return True

    def told(
        self,
        task: LiveTask,
        places: TaskPlaces,
        request: PlaceRequest,
        go_on: Callable[[LiveTask], object],
        answer: PlaceAnswer,
    ) -> None:
        """Called with the answer to a task that could start, and when it has its place."""
        if answer.granted:
            go_on(task)
            return
        with self._places.lock:
            if places.state is PlaceState.LAUNCHED or task.status is not PENDING:
                return
            task.reason = (
                f"{_WAITS}: {min(len(answer.others), request.limit)} running, "
                f"max_running={request.limit}{places.shown and f' for key {places.shown}'}"
            )
            deadlock = self._places.wait_for(task, request, answer)
        if deadlock is not None:
            self._runner.refuse(task, deadlock)
        self._runner.ledger.share(task)
