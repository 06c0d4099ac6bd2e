"""Unique tasks: at most one of each key exists.

Guarantees: of all tasks with one key, one is added at a time, in all processes that share places.
Relies on: `Places`, which gives a place back when its task has ended.
Lock order: `_admitting` is held while a unique task is checked and added, so that whoever is
given its id finds it; the locks of the lines and of the ledger, and `Places.lock`, are taken
under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final, TypeVar

from framework._manager.others.other_processes import OtherProcesses
from framework._manager.submitting.partner import Partner
from framework._records.ids import TaskId
from framework._running.runner import Runner
from framework._running.waits.places import Places
from framework._tasks.live import LiveTask
from framework._tasks.places import (
    Existing,
    PlaceAnswer,
    PlaceRequest,
    PlaceState,
    TaskPlaces,
    unique_request,
)
from framework._threads.waiters import Reply
from framework.exceptions import DuplicateTaskError, StoreUnavailableError

T = TypeVar("T", LiveTask, Existing, LiveTask | Existing)

_PATIENCE: Final = 5.0
"""How many seconds a submission waits for other processes to say whether it is the only one."""

_ASKING: Final = "waits to hear whether another process has the same task"


class Unique(Partner):
    """Adds unique tasks, or finds the one that is to be used instead.

    A caller that can wait hears whether another process has the same task. One that cannot, on
    the thread of an event loop, asks for the tasks of this process only. If it turns out later that
    another process has one, the new task ends CANCELLED. One that waits for others asks when these
    have ended, and ends CANCELLED as well.

    Args:
        places: The lines of unique tasks.
        runner: Cancels tasks.
        others: Cancels tasks of other processes.
    """

    options: ClassVar[tuple[str, ...]] = ("unique",)
    locks = True

    def __init__(self, places: Places, runner: Runner, others: OtherProcesses) -> None:
        self._places = places
        self._runner = runner
        self._ledger = runner.ledger
        self._others = others
        self.waits = places.shared is not None
        self._admitting = threading.Lock()
        # Those that are being submitted. A task that ends meanwhile forgets its own.
        self._entered: dict[LiveTask, TaskPlaces] = {}

    def make(self, task: LiveTask) -> None:
        """Find out the key of a new task; calls the user's key function.

        Raises:
            TypeError: If an argument, or what the function returned, has no stable text.
            Exception: What the function raises.
        """
        _places_of(task)

    def enter(
        self, task: LiveTask, patient: bool
    ) -> Reply[PlaceAnswer] | LiveTask | Existing | None:
        """Return the task with the same key if there is one, or what says so.

        Raises:
            DuplicateTaskError: If there is one, and the options say so.
            StoreUnavailableError: If the store does not answer in time.
        """
        if task.spec.after:
            return None
        places = task.places
        assert places is not None
        request = places.unique
        assert request is not None
        if self._places.shared is None:
            return self._enter_here(task, places, request)
        if places.reply is not None:
            return self._enter_answered(task, places.reply, request)
        if patient:
            return self._ask(task, places, request)
        return self._enter_first(task, places, request)

    def _enter_here(
        self, task: LiveTask, places: TaskPlaces, request: PlaceRequest
    ) -> LiveTask | None:
        """Ask the lines of this process, which answer at once."""
        while True:
            self._admitting.acquire()
            # It may have been refused before, by a task that has ended since.
            places.answer = None
            self._places.lines.join(request, partial(self._told, task, places, request))
            answer: PlaceAnswer | None = places.answer
            assert answer is not None
            if answer.granted or request.waits:
                self._enter(task, places)
                return None
            self._admitting.release()
            other = self._places.find(answer.others[-1])
            # Without it, that task has ended since.
            if other is not None:
                return _instead(task, other)

    def _ask(self, task: LiveTask, places: TaskPlaces, request: PlaceRequest) -> Reply[PlaceAnswer]:
        """Ask all processes for a task that is not added yet."""
        # Others may be given its id, so from here on a full queue cannot refuse it.
        self._ledger.require_room()
        places.reply = reply = Reply[PlaceAnswer](self._ledger.clock, self._runner.boxes, _PATIENCE)
        self._places.lines.join(request, partial(self._told, task, places, request))
        self._entered[task] = places
        return reply

    def _enter_answered(
        self, task: LiveTask, reply: Reply[PlaceAnswer], request: PlaceRequest
    ) -> LiveTask | Existing | None:
        """Add a task if the answer allows it."""
        if not reply.has_come:
            raise StoreUnavailableError(
                f"no answer within {_PATIENCE:g} s whether {task.name} has a task with the same "
                "key already; nothing was submitted"
            )
        answer: PlaceAnswer = reply.answer
        if not answer.granted and not request.waits:
            # It is in no line.
            del self._entered[task]
            existing = answer.others[-1]
            return _instead(task, self._places.find(existing) or Existing(TaskId(existing)))
        self._places.add(task)
        return None

    def _enter_first(
        self, task: LiveTask, places: TaskPlaces, request: PlaceRequest
    ) -> LiveTask | None:
        """Add a task before the other processes are asked."""
        other = self._places.latest(request.key)
        if other is not None and not request.waits:
            return _instead(task, other)
        task.reason = _ASKING
        self._enter(task, places)
        return None

    def _enter(self, task: LiveTask, places: TaskPlaces) -> None:
        self._entered[task] = places
        self._places.add(task)

    def settle(self, task: LiveTask, added: bool) -> None:
        """Cancel what an added task replaces; take one that was not added out of its line.

        It replaces them even if it has ended meanwhile, as if it had ended a moment later.
        """
        places = self._entered.pop(task, None)
        if places is None:  # another one is used instead
            return
        if self._places.shared is None:
            self._admitting.release()
        if not added:
            self._places.leave(task)
        elif places.answer is None:
            assert places.unique is not None
            self._join_late(task, places, places.unique)
        else:
            self._replace(task, places.answer)

    def resume(self, task: LiveTask) -> None:
        """Ask for the place of a task that was taken over, which still has it."""
        places, request = _places_of(task)
        self._places.add(task)
        self._join_late(task, places, request)

    def _join_late(self, task: LiveTask, places: TaskPlaces, request: PlaceRequest) -> None:
        self._places.lines.join(request, partial(self._told_late, task, places, request))
        self._places.leave_if_over(task)

    # -- launching

    def hold(self, task: LiveTask, go_on: Callable[[LiveTask], object]) -> bool:
        """Keep a task until it is the only one of its key."""
        places = task.places
        if places is None:  # it has ended
            return True
        if task.spec.after and places.unique is not None:
            self._places.add(task)
            self._join_late(task, places, places.unique)
        with self._places.lock:
            # Once: a submission that was told to use this task comes by here, too.
            goes = places.state is PlaceState.ALONE
            if goes:
                places.state = PlaceState.READY
            elif places.state is PlaceState.ASKING:
                places.state, places.go_on = PlaceState.WAITING, go_on
        return not goes

    def _told(
        self, task: LiveTask, places: TaskPlaces, request: PlaceRequest, answer: PlaceAnswer
    ) -> None:
        """Called with the answer to a unique task, and when one that waits has its place."""
        with self._places.lock:
            if places.answer is None:
                places.answer = answer
            goes = places.state is PlaceState.WAITING and answer.granted
            if goes:
                places.state = PlaceState.READY
            elif places.state is PlaceState.ASKING and answer.granted:
                places.state = PlaceState.ALONE
            if places.state not in (PlaceState.ASKING, PlaceState.WAITING):
                if task.reason == _ASKING:
                    task.reason = ""
            elif request.waits:
                # Nobody can wait for a new task yet, so this closes no circle.
                self._places.wait_for(task, request, answer)
                task.reason = f"waits for task {answer.others[-1]} to end, which it replaces"
            go_on = places.go_on
        if places.reply is not None:
            places.reply.give(answer)
        if goes:
            assert go_on is not None
            go_on(task)

    def _told_late(
        self, task: LiveTask, places: TaskPlaces, request: PlaceRequest, answer: PlaceAnswer
    ) -> None:
        """Called with the answer to a task that was added before."""
        first = places.answer is None
        # Not that of the task: it may have ended meanwhile, and left all lines.
        self._told(task, places, request, answer)
        if answer.granted or not first:
            return
        if request.waits:
            self._replace(task, answer)
        else:
            self._runner.cancel_pending(task, f"a duplicate of task {answer.others[-1]}")

    def _replace(self, task: LiveTask, answer: PlaceAnswer) -> None:
        """Cancel the tasks that *task* replaces, unless the line does."""
        if answer.replaces:
            return
        reason = f"it was replaced by task {task.task_id}"
        # The last first: the others would be granted what it leaves.
        for task_id in reversed(answer.others):
            other = self._places.find(task_id)
            if other is None or (other.remote and not self._places.keeps(other)):
                self._others.post_cancel(task_id)
            elif self._ledger.request_cancel(other):
                self._runner.cancel(other, reason, reason)


def _places_of(task: LiveTask) -> tuple[TaskPlaces, PlaceRequest]:
    """Give a task the request for its key; return both."""
    args, kwargs = task.args or (), task.kwargs or {}
    request = unique_request(task.spec, task.task_id, args, kwargs, task.owner)
    task.places = places = TaskPlaces(request)
    return places, request


def _instead(task: LiveTask, other: T) -> T:
    """Return another task to use instead of one that is in no line, unless that is an error."""
    task.places = None
    if task.spec.options["on_duplicate"] == "raise":
        raise DuplicateTaskError(task.name, other.task_id)
    return other
