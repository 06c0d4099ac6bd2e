"""Ids: a submission may say which one its task gets, or be given one that is held for it.

An idempotency key holds an id for the next submission, so that whoever makes it again finds its
task.

What a task that goes on submits without a step gets an id, too, which is the same in each run of
its code, see `framework.steps._children`. So the child of an earlier run is found by its id: in
this process, and in the store that all share, if the task may have run elsewhere before.

Guarantees: of all that hold one id at the same time, in all processes that share
their places, only one goes on at a time; when the next one does, it finds the task of the one
before, if that has submitted any. Submissions cost no more as long as nobody has held an id.
Relies on: a store or engine that shares places and records; without one, only this process counts.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, Final

from framework._manager.others.other_processes import OtherProcesses
from framework._manager.submitting.partner import Awaited, Joined, Partner
from framework._records.checks import id_in_use
from framework._records.ids import ChildId, TaskId, following
from framework._records.records import TaskRecord
from framework._running.ledger import Ledger
from framework._running.runner import Runner
from framework._running.waits.places import Places
from framework._tasks.current import when_over
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing, PlaceAnswer, PlaceRequest
from framework._tasks.specs import TaskSpec
from framework._threads.waiters import Reply
from framework.exceptions import StoreUnavailableError
from framework.steps._children import child_of

_PATIENCE: Final = 5.0
"""How many seconds to wait for a sign of the store that keeps the places."""


class ChosenIds(Partner):
    """Reserves chosen ids until their tasks are added.

    Args:
        ledger: Knows the ids that are in use.
    """

    options: ClassVar[tuple[str, ...]] = ("task_id",)
    in_place = True

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Changed with the ledger's lock held.
        self._reserved: set[str] = set()

    def make(self, task: LiveTask) -> None:
        """Give a task the id."""
        chosen = task.spec.task_id
        assert chosen is not None
        task.task_id = TaskId(chosen)

    def enter(self, task: LiveTask, patient: bool) -> None:
        """Reserve the id.

        Raises:
            ValueError: If a live or a finished task has it, or another one reserves it.
        """
        ledger, task_id = self._ledger, task.task_id
        with ledger.lock:
            if task_id in self._reserved or ledger.find_live(task_id) is not None:
                raise id_in_use(task_id)
            self._reserved.add(task_id)
        # The store is read last: a live task with this id may have moved there meanwhile.
        if ledger.store.get(task_id) is not None:
            self.settle(task, False)
            raise id_in_use(task_id)

    def settle(self, task: LiveTask, added: bool) -> None:
        """End the reservation: the task has the id now, or was refused."""
        with self._ledger.lock:
            self._reserved.discard(task.task_id)


class Children(Partner):
    """Gives children their ids, and uses those that are there.

    Args:
        joined: The partners of all submissions.
        ledger: Has the tasks of this process, and the store.
        leave: Lets the task go on elsewhere whose code runs here; returns whether it does.
        is_remote: Whether tasks run on the workers of an engine.
    """

    options: ClassVar[tuple[str, ...]] = ("task_id",)

    def __init__(
        self,
        joined: Joined,
        ledger: Ledger,
        leave: Callable[[], bool],
        *,
        is_remote: bool,
    ) -> None:
        self._joined = joined
        self._ledger = ledger
        self._leave = leave
        self._is_remote = is_remote

    def expect(self) -> None:
        """Look from now on whether a submission is that of a child; others pay for that."""
        if not self._is_remote:
            self._joined.check_by(self._check)

    def _check(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], awaited: Awaited
    ) -> TaskSpec:
        if awaited == "called" or spec.task_id is not None:
            return spec
        child = child_of(spec, args, kwargs)
        if child is None:
            return spec
        self._leave_if_it_stops()
        return spec.replace({"task_id": child})

    def enter(self, task: LiveTask, patient: bool) -> LiveTask | Existing | None:
        """Return the child if it is there; asks the store, if it may be.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        child = task.spec.task_id
        if not isinstance(child, ChildId):
            return None
        found = self._find(child, child.may_be_stored)
        while found is not None and _was_refused(found):
            task.task_id = _next(task.task_id)
            found = self._find(task.task_id, child.may_be_stored)
        if found is None or isinstance(found, LiveTask):
            return found
        return Existing(TaskId(found.task_id), is_same=True)

    def settle(self, task: LiveTask, added: bool) -> None:
        """Leave if the app has begun to stop since the submission did, which is refused then."""
        if not added and isinstance(task.spec.task_id, ChildId):
            self._leave_if_it_stops()

    def _leave_if_it_stops(self) -> None:
        """Let the task go on elsewhere whose code runs here, and submit there, if the app stops."""
        if self._ledger.state != "running" and self._leave():
            # No error that its code or a step of it handles as one, on a thread either.
            raise asyncio.CancelledError

    def _find(self, task_id: str, may_be_stored: bool) -> TaskRecord | None:
        found: TaskRecord | None = self._ledger.find(task_id)
        if found is None and may_be_stored and self._ledger.shared is not None:
            found = next(iter(self._ledger.shared.fetch([task_id])), None)
        return found


class HeldId:
    """The id that the first submission of a request gets, by the request's key.

    Attributes:
        task_id: The id.
        found: The task that has it already; None if there is none.
        is_pledged: Whether a transaction brings its task, which nobody can find before the commit.
    """

    def __init__(self, task_id: str, found: TaskRecord | None) -> None:
        self.task_id = task_id
        self.found = found
        self.is_pledged = False
        # Popped by the submission that gets it, on whatever thread.
        self._free = [] if found else [task_id]

    def take(self) -> bool:
        """Take the id; return False if another submission has taken it before."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True


_current: Final = ContextVar[HeldId | None]("asyncframe_held_id", default=None)


def is_held(task_id: str) -> bool:
    """Return whether an id is held here, so that no other request submits a task with it."""
    held = _current.get()
    return held is not None and held.task_id == task_id


def note_pledge(task_id: str) -> None:
    """Note that a transaction brings the task with an id, if the id is held here."""
    held = _current.get()
    if held is not None and held.task_id == task_id:
        held.is_pledged = True


class Keys:
    """Gives submissions the ids that are held for them.

    Args:
        joined: The partners of all submissions.
        runner: Has the ledger, which finds the tasks of this process.
        places: Has the lines of those that want to hold the same id.
        others: Finds the tasks of other processes.
        new_id: Returns an id for one that stands in such a line.
    """

    def __init__(
        self,
        joined: Joined,
        runner: Runner,
        places: Places,
        others: OtherProcesses,
        new_id: Callable[[], str],
    ) -> None:
        self._joined = joined
        self._ledger = runner.ledger
        self._boxes = runner.boxes
        self._places = places
        self._others = others
        self._new_id = new_id

    def _check(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], awaited: Awaited
    ) -> TaskSpec:
        """Return *spec* with the id that the current context holds, if it was not taken yet."""
        held = _current.get()
        if held is None or awaited == "called" or spec.task_id is not None or not held.take():
            return spec
        return spec.replace({"task_id": held.task_id})

    @asynccontextmanager
    async def hold(self, task_id: str) -> AsyncIterator[HeldId]:
        """Hold an id: the first submission of this context gets it.

        A function that is awaited as a task does not count. Others that ask for the id meanwhile
        wait.

        Raises:
            StoreUnavailableError: If the store that all processes share does not answer.
        """
        found: TaskRecord | None = self._ledger.find(task_id)
        if found is not None and not _was_refused(found):
            yield HeldId(task_id, found)
            return
        self._joined.check_by(self._check)
        turn, line = self._new_id(), task_id
        held: HeldId | None = None
        try:
            await self._take_turn(line, turn)
            task_id, found = await self.find_made(task_id)
            held = HeldId(task_id, found)
            token = _current.set(held)
            try:
                yield held
            finally:
                _current.reset(token)
                # Copies of this context live on in the tasks.
                held.take()
        finally:
            give = partial(self._give_turn, task_id, turn)
            if held is not None and held.is_pledged and await self._find(task_id) is None:
                # What commits after the response does so before the request is over.
                when_over(give)
            else:
                give()

    async def find_made(self, task_id: str) -> tuple[str, TaskRecord | None]:
        """Return the id to use for one that is made of what a submission is for, and its task.

        It is another id if the submission was refused before, and the task is None if there is
        none yet.
        """
        found = await self._find(task_id)
        while found is not None and _was_refused(found):
            task_id = _next(task_id)
            found = await self._find(task_id)
        return task_id, found

    async def _find(self, task_id: str) -> TaskRecord | None:
        """Return the task with an id, of this process or another."""
        found: TaskRecord | None = self._ledger.find(task_id)
        if found is None:
            found = await self._others.find(task_id, patient=False)
        return found

    async def _take_turn(self, task_id: str, turn: str) -> None:
        """Wait until nobody else holds an id.

        Raises:
            StoreUnavailableError: If the store does not say within some seconds who does.
        """
        told = Reply[PlaceAnswer](self._ledger.clock, self._boxes, _PATIENCE)
        granted = Reply[PlaceAnswer](self._ledger.clock, self._boxes)

        def answer(given: PlaceAnswer) -> None:
            # In this order: whoever was told may look at once whether it was granted.
            if given.granted:
                granted.give(given)
            told.give(given)

        self._places.lines.join(PlaceRequest(f"c:{task_id}", turn, 1), answer)
        if granted.has_come:  # by the lines of this process, which answer during the call
            return
        await told.wait()
        if not told.has_come:
            raise StoreUnavailableError(
                f"no answer within {_PATIENCE:g} s whether another request submits the same; "
                "nothing was submitted"
            )
        await granted.wait()

    def _give_turn(self, task_id: str, turn: str) -> None:
        """Pass the key on to the next request, once other processes can find the task."""
        leave = partial(self._places.lines.leave, turn)
        task, shared = self._ledger.find(task_id), self._ledger.shared
        is_safe = isinstance(task, LiveTask) and task.secured
        if task is None or self._places.shared is None or is_safe:
            leave()
        elif shared is not None:
            shared.secure(task, lambda _: leave())
        else:
            self._others.when_known(task_id, leave)


def _was_refused(task: TaskRecord) -> bool:
    """Whether a task ended because it could not be stored, so that its caller got an error."""
    return isinstance(task.error, StoreUnavailableError) and not task.attempts


def _next(task_id: str) -> TaskId[Any]:
    """Return the id to use after a task that was refused; the same in every process."""
    return following(task_id, goes_on=True)
