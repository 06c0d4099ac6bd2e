"""Claims: an id for the next submission, so that whoever makes it again finds its task.

Guarantees: of all that hold a claim of one id at the same time, in all processes that share
their places, only one goes on at a time; when the next one does, it finds the task of the one
before, if that has submitted any. Submissions cost no more as long as nobody has held a claim.
Relies on: a store or engine that shares places and records; without one, only this process counts.
Lock order: none is held here.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Any, Final

from framework._manager.core import Core
from framework._records.records import TaskRecord
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing, PlaceAnswer, PlaceRequest
from framework._tasks.specs import TaskSpec
from framework._threads.waiters import LoopWaiter
from framework.exceptions import StoreUnavailableError

_PATIENCE: Final = 5.0
"""How many seconds to wait for a sign of the store that keeps the places."""


class Claim:
    """The id that the first submission of a request gets, by the request's key.

    Attributes:
        task_id: The id.
        found: The task that has it already; None if there is none.
    """

    def __init__(self, task_id: str, found: TaskRecord | None) -> None:
        self.task_id = task_id
        self.found = found
        # Popped by the submission that gets it, on whatever thread.
        self._free = [] if found else [task_id]

    def take(self) -> bool:
        """Take the id; return False if another submission has taken it before."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True


_current: Final = ContextVar[Claim | None]("asyncframe_claim", default=None)


def claimed(spec: TaskSpec) -> TaskSpec:
    """Return *spec* with the id that the current context has a claim to, if any is left."""
    claim = _current.get()
    if claim is None or spec.task_id is not None or not claim.take():
        return spec
    return spec.replace({"task_id": claim.task_id})


@asynccontextmanager
async def claim(core: Core, task_id: str) -> AsyncIterator[Claim]:
    """Hold a claim to an id: the first submission of this context gets it.

    A function that is awaited as a task does not count. Others that claim the id meanwhile wait.

    Args:
        core: The core that the task is submitted to.
        task_id: The id.

    Raises:
        StoreUnavailableError: If the store that all processes share does not answer.
    """
    found: TaskRecord | None = core.ledger.find(task_id)
    if found is not None and not _was_refused(found):
        yield Claim(task_id, found)
        return
    _use(core)
    turn, line = core.intake.new_id(), task_id
    try:
        await _take_turn(core, line, turn)
        found = await _find(core, task_id)
        while found is not None and _was_refused(found):
            task_id = _next(task_id)
            found = await _find(core, task_id)
        held = Claim(task_id, found)
        token = _current.set(held)
        try:
            yield held
        finally:
            _current.reset(token)
            # Copies of this context live on in the tasks.
            held.take()
    finally:
        _give_turn(core, task_id, turn)


def _use(core: Core) -> None:
    """Let all submissions look for a claim from now on."""
    intake = core.intake
    if "submit" in vars(intake):
        return
    submit = intake.submit

    def submit_claimed(
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        awaited: bool = False,
    ) -> LiveTask | Existing:
        return submit(claimed(spec), args, kwargs, frame, awaited)

    intake.submit = submit_claimed  # type: ignore[method-assign]  # looked up at each call


async def _find(core: Core, task_id: str) -> TaskRecord | None:
    """Return the task with an id, of this process or another."""
    found: TaskRecord | None = core.ledger.find(task_id)
    if found is None and core.elsewhere is not None:
        found = await core.elsewhere.find(task_id, patient=False)
    return found


def _was_refused(task: TaskRecord) -> bool:
    """Whether a task ended because it could not be stored, so that its caller got an error."""
    return isinstance(task.error, StoreUnavailableError) and not task.attempts


def _next(task_id: str) -> str:
    """Return the id to use after a task that was refused; the same in every process."""
    return hashlib.sha256(task_id.encode()).hexdigest()[:32]


async def _take_turn(core: Core, task_id: str, turn: str) -> None:
    """Wait until nobody else holds a claim to an id.

    Raises:
        StoreUnavailableError: If the store does not say within some seconds who does.
    """
    told, granted = LoopWaiter(core.boxes), LoopWaiter(core.boxes)

    def answer(given: PlaceAnswer) -> None:
        told.wake()
        if given.granted:
            granted.wake()

    core.places.lines.join(PlaceRequest(f"c:{task_id}", turn, 1), answer)
    if granted.future.done():  # by the lines of this process, which answer during the call
        return
    is_late: list[bool] = []

    def give_up() -> None:
        is_late.append(True)
        told.wake()

    timer = core.clock.call_at(core.clock.monotonic() + _PATIENCE, give_up)
    try:
        await told.future
    finally:
        timer.cancel()
    if is_late and not granted.future.done():
        raise StoreUnavailableError(
            f"no answer within {_PATIENCE:g} s whether another request has the same "
            "Idempotency-Key; nothing was submitted"
        )
    await granted.future


def _give_turn(core: Core, task_id: str, turn: str) -> None:
    """Pass the key on to the next request, once other processes can find the task."""
    leave = partial(core.places.lines.leave, turn)
    task, shared = core.ledger.find(task_id), core.ledger.shared
    is_safe = isinstance(task, LiveTask) and task.secured
    if task is None or core.places.shared is None or is_safe:
        leave()
    elif shared is not None:
        shared.secure(task, lambda _: leave())
    elif core.elsewhere is not None:
        core.elsewhere.when_known(task_id, leave)
