"""Runs: what answers the calls of steps while a task runs, from its records or by running them.

Guarantees: a step that is recorded is not run again, but for a deploy that `_code` does not see. A
result is given to the code of the task only after its step is stored. Results are given one at a
time, in the order in which the steps ended, in a run that goes on as in the first one: the next one
after `QUIET` turns of the loop in which the task called no step and none of its branches ended, or
after one if it has a single branch. So what comes first in a race comes first in each run.
Relies on: one event loop for each run of an ``async def`` task, on which all is called. A sync task
calls its steps on its own thread, or on threads of its own that run in copies of its context.
Lock order: `Turns` are held while records change; inside, the ledger's lock for a moment.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from framework._records.steps import KnownSteps, StepRecord, given_back
from framework._running.mail import Inbox, Mail
from framework._running.waits.outages import store_saying
from framework._tasks.errors.kept import decode_error, encode_error
from framework._tasks.live import LiveTask, current_record
from framework._tasks.places import stable_text
from framework._tasks.wire import codec_of, decode_result, encode_result, settled
from framework.exceptions import (
    StepInterruptedError,
    StepMismatchError,
    StepTakenError,
    StoreUnavailableError,
)
from framework.protocols import StepChange, StepStore
from framework.steps._attempts import Standing, come_further, dropped, tell_left_out
from framework.steps._bodies import Bodies, DeclaredStep
from framework.steps._branches import Body, Branch, Turns, digest_of, entered
from framework.steps._matching import PATIENCE, Answer, Call, Held, Matching
from framework.steps._sleeps import Sleeps

QUIET: Final = 4
"""Turns of the loop without a call of a step or an end, after which the next result is given to one
of several branches."""


Told: TypeAlias = Callable[[BaseException | None], object]
"""Called once something is stored, on any thread; with an error if it is not."""


@dataclass(eq=False)
class _Waiting:
    """A call that is held."""

    branch: Branch
    call: Call
    since: float
    answered: asyncio.Future[Answer]
    cancelled: StepRecord | None


@dataclass(order=True)
class _Ready:
    """A result that is to be given; ordered by when its step ended."""

    number: int
    came: int
    given: asyncio.Future[None] = field(compare=False)


class StepRun:
    """The steps of a task in this process; each attempt begins again from the records.

    Args:
        task: The task.
        code: A digest of its code, see `_code`.
        store: Keeps the records; None to keep them here, until the task ends.
        sleeps: Of this task.
        mail: Has the messages to it.
        bodies: Runs the bodies of steps.
        records: What is stored.

    Attributes:
        task: As above.
        branches: Those of the attempt, in the order in which they began.
        sleeps: As above.
        inbox: Has the messages to it.
    """

    def __init__(
        self,
        task: LiveTask,
        code: str,
        store: StepStore | None,
        sleeps: Sleeps,
        mail: Mail,
        bodies: Bodies,
        records: Sequence[StepRecord] = (),
    ) -> None:
        self.task = task
        self._has_records = bool(records)
        self._bodies = bodies
        self._task_id = str(task.task_id)
        self._code = code
        self._store = store
        self.sleeps = sleeps
        self.inbox = Inbox(mail, task)
        self._before = frozenset(records)
        self._known = task.steps = KnownSteps(records)
        self._next_number = itertools.count(1 + max((one.number for one in records), default=0))
        self._came = itertools.count()
        self.branches: list[Branch] = []
        self._matching = Matching((), (), is_changed=False)
        self._cut_off: list[StepRecord] = []
        self._held: list[_Waiting] = []
        self._standing = Standing(task, sleeps.ledger)
        self._results: list[_Ready] = []
        # How many turns have passed without a call; None while nothing counts them.
        self._quiet: int | None = None
        self._turns = Turns()
        # The errors that steps have raised, by which an attempt may end.
        self._raised: list[tuple[BaseException, StepRecord]] = []

    @property
    def has_run(self) -> bool:
        """Whether its task may have made an attempt before, or goes on from another one."""
        task = self.task
        # One that was killed before its first step has left no record, nor has a delivery of a
        # worker, which may come again.
        is_first = task.attempts <= 1 and not task.run_again_of and task.delivery is None
        return self._has_records or not is_first

    @property
    def is_recorded(self) -> bool:
        """Whether something of its task is stored, by which the next run knows of this one."""
        return bool(self._known.stored)

    @property
    def is_here(self) -> bool:
        """Whether its task is the one that runs here: other tasks inherit the context."""
        return current_record.get() is self.task

    @property
    def is_leaving(self) -> bool:
        """Whether it leaves this process: then no step runs any more."""
        return self.task.was_given_away or self.sleeps.left is not None

    # -- attempts

    def begin(self, coroutine: Any = None) -> Branch:
        """Begin an attempt; return its first branch."""
        root = Branch(self, (), None, ("", None), coroutine)
        self.branches, self._held, self._results = [root], [], []
        self._known.under_way.clear()
        self._cut_off, self._raised = [], []
        self._turns.begin()
        self.inbox.give_back(given_back(self._known.stored))
        self.sleeps.begin()
        is_changed = any(one.code != self._code for one in self._known.stored)
        answering = [one for one in self._known.stored if one.state != "ended"]
        self._matching = Matching(answering, self.branches, is_changed=is_changed)
        self._standing.begin(self.watch, replays=bool(answering))
        return root

    async def drop(self, error: BaseException) -> None:
        """Let the next attempt run again what has ended this one, once that is stored.

        If it cannot be stored, the task has ended, or goes on elsewhere.
        """
        change = dropped(error, self._raised)
        if change is not None:
            with suppress(StepTakenError, StoreUnavailableError):
                await _told(partial(self._post, (), change))

    def drop_sync(self, error: BaseException) -> None:
        """Do what `drop` does, on the thread of a sync task."""
        change = dropped(error, self._raised)
        if change is not None:
            with suppress(StepTakenError, StoreUnavailableError):
                _block(partial(self._post, (), change))

    def complete(self) -> None:
        """Note, and tell, what an attempt has not asked for that has brought the task to its end.

        Told is what an earlier process has stored: a deploy has led the task elsewhere, or its code
        does not take the same way each time. Of a retry's attempts, an earlier one may have called
        what the last one does not need.
        """
        left = [one for one in self._matching.unasked if one.state != "cancelled"]
        self._known.unasked = left
        tell_left_out(self.task, [one for one in left if one in self._before])

    # -- calls on the loop

    async def call(self, branch: Branch, declared: DeclaredStep, args: Any, kwargs: Any) -> Any:
        """Answer a call of an ``async def`` step; see `_matching` for what answers it.

        Raises:
            StepMismatchError: If it is refused.
            TypeError: If the task is a sync function.
        """
        call = _call_of(declared, args, kwargs)
        answer = await self.ask(branch, declared, call)
        if answer.what != "take":
            record = self.record_of(branch, call, answer)
            value, error = None, _interrupted(self._task_id, answer, declared)
            if error is None:
                if declared.starts_first:
                    await self.store(branch, record)
                value, error = await self._run(branch, declared, record, args, kwargs)
            else:
                _failed(record, error)
            await self.store(branch, record)
        else:
            record = answer.recorded
            value, error = _outcome(declared, record)
        await self.turn(branch, record)
        return self.give(record, value, error)

    async def ask(self, branch: Branch, declared: DeclaredStep, call: Call) -> Answer:
        """Answer a call once that can be said: its record does, or its body is to be run.

        Raises:
            StepMismatchError: If it is refused.
            TypeError: If the task is a sync function.
        """
        declared.require_kind(self.task, "loop")
        declared.require_loop(self.branches[0].asyncio_task)
        if self.is_leaving:
            # What it does on its way out is done where it goes on.
            raise asyncio.CancelledError
        if self._quiet is not None:
            self._quiet = 0
        answer = self._matching.ask(branch, call)
        # What is asked here may answer what is held elsewhere.
        self.watch()
        if answer.what in ("hold", "never"):
            answer = await self._hold(branch, call, answer.record)
        if answer.what == "refuse":
            raise StepMismatchError(self._task_id, declared.name)
        if answer.what == "run" and self.task.cancel_waits:
            await self._stand(branch, call, answer)
        return answer

    async def _stand(self, branch: Branch, call: Call, answer: Answer) -> None:
        """Hold a call at which the code stands: its task is about to be cancelled there."""
        with self._standing.held(
            lambda: self.cut_off(self.record_of(branch, call, answer))
        ) as given:
            self.watch()
            await self.waiting(branch, given)

    async def _hold(self, branch: Branch, call: Call, cancelled: StepRecord | None) -> Answer:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(branch, call, loop.time(), loop.create_future(), cancelled)
        self._held.append(waiting)
        loop.call_later(PATIENCE, self.watch)
        self.watch()
        try:
            answer: Answer = await self.waiting(branch, waiting.answered)
            return answer
        finally:
            if waiting in self._held:
                self._held.remove(waiting)

    async def waiting(self, branch: Branch, what: asyncio.Future[Any]) -> Any:
        """Wait for something that the run itself gives."""
        branch.waits = "held"
        try:
            return await what
        finally:
            branch.waits = None

    async def _run(
        self, branch: Branch, declared: DeclaredStep, record: StepRecord, args: Any, kwargs: Any
    ) -> tuple[Any, BaseException | None]:
        """Run the body of a step, and return its result or its error, as JSON gives it again."""
        branch.waits = "runs"
        inside = entered.set(Body(self, record))
        try:
            body = partial(declared.fn, *args, **kwargs)
            value = await self._bodies.await_(self.task, declared.name, body)
            return _completed(declared, record, value)
        except asyncio.CancelledError:
            self.cut_off(record)
            raise
        except Exception as error:
            return _ended_badly(self, record, error)
        finally:
            entered.reset(inside)
            branch.waits = None

    def cut_off(self, record: StepRecord) -> None:
        """Note that a step was cancelled, unless its task leaves, and runs it again elsewhere."""
        if not self.is_leaving:
            record.state = "cancelled"
            self._cut_off.append(record)
            self.inbox.give_back(given_back([record]))

    async def store(
        self, branch: Branch, record: StepRecord, change: StepChange | None = None
    ) -> None:
        """Store a step with what was cancelled before, and wait until that is done.

        Raises:
            MessageCameError: If it was not stored, since a message has come.
        """
        await self.waiting(branch, _told(partial(self._write, record, change)))
        come_further(self.sleeps.ledger, self.task, record)

    async def turn(self, branch: Branch, record: StepRecord) -> None:
        """Wait until the result of a step that is stored may be given."""
        ready = _Ready(record.number, next(self._came), asyncio.get_running_loop().create_future())
        heapq.heappush(self._results, ready)
        self.watch()
        await self.waiting(branch, ready.given)

    def ended(self, asyncio_task: object) -> None:
        """Look at the calls that are held again, since a branch has ended; on the loop."""
        if self._quiet is not None:
            # Who waits for it hears of that some turns later, and may cancel what is held.
            self._quiet = 0
        self.watch()

    def watch(self) -> None:
        """Count the turns of the loop in which nothing is called, from now on."""
        if self._quiet is None and (self._results or self._held or self.sleeps or self._standing):
            self._quiet = 0
            asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        assert self._quiet is not None
        self._quiet += 1
        # Of one branch alone there is no order to keep.
        alone = len(self.branches) == 1 and not (self.task.replays or self._standing)
        if self._quiet > (0 if alone else QUIET):
            self._quiet = 0
            while self._results and self._results[0].given.done():
                heapq.heappop(self._results)
            if self._results:
                heapq.heappop(self._results).given.set_result(None)
            elif not self._settle() and not self._standing.look(self.branches, self._matching):
                # The next call, the next end of a branch, or patience begins to count again.
                self._quiet = None
                self.sleeps.look(self.branches)
                return
        asyncio.get_running_loop().call_soon(self._count)

    def _settle(self) -> bool:
        """Answer one of the calls that are held, if that can be said; return whether it was."""
        if not self._held:
            return False
        now = asyncio.get_running_loop().time()
        held = [Held(one.branch, one.call, now - one.since, one.cancelled) for one in self._held]
        moves = any(one.state in {"runs", "inside", "outside"} for one in self.branches)
        # What nobody answers is cancelled, if the task is.
        found = self._matching.settle(held, is_stuck=not (moves or self.task.cancel_waits))
        if found is None:
            return False
        waiting = self._held.pop(held.index(found[0]))
        if not waiting.answered.done():
            waiting.answered.set_result(found[1])
        return True

    # -- calls on a thread

    def call_sync(self, branch: Branch, declared: DeclaredStep, args: Any, kwargs: Any) -> Any:
        """Answer a call of a sync step on the thread of its task.

        Raises:
            StepMismatchError: If it is refused.
            TypeError: If the task is an ``async def`` function.
        """
        call = _call_of(declared, args, kwargs)
        answer = self.ask_sync(branch, declared, call)
        if answer.what != "take":
            record = self.record_of(branch, call, answer)
            value, error = None, _interrupted(self._task_id, answer, declared)
            if error is None:
                if declared.starts_first:
                    self.store_sync(record)
                value, error = self._run_sync(declared, record, args, kwargs)
            else:
                _failed(record, error)
            self.store_sync(record)
        else:
            record = answer.recorded
            value, error = _outcome(declared, record)
        return self.give(record, value, error)

    def ask_sync(self, branch: Branch, declared: DeclaredStep, call: Call) -> Answer:
        """Answer a call as `ask` does, on the thread of a sync task."""
        declared.require_kind(self.task, "thread")
        if self.sleeps.left is not None:
            raise self.sleeps.left
        with self._turns:
            answer = self._turns.ask(self._matching, branch, call)
            if answer.what != "take" and self.task.cancel_waits:
                self.cut_off(self.record_of(branch, call, answer))
                self._standing.raise_here()
            if answer.what == "refuse":
                raise StepMismatchError(self._task_id, declared.name)
            self._standing.come(is_there=answer.what != "take" or self._matching.is_over)
            return answer

    def store_sync(self, record: StepRecord, change: StepChange | None = None) -> None:
        """Store a step, and block until it is; see `store`."""
        _block(partial(self._write, record, change))
        come_further(self.sleeps.ledger, self.task, record)

    def _run_sync(
        self, declared: DeclaredStep, record: StepRecord, args: Any, kwargs: Any
    ) -> tuple[Any, BaseException | None]:
        inside = entered.set(Body(self, record))
        try:
            body = partial(declared.fn, *args, **kwargs)
            return _completed(declared, record, self._bodies.run(self.task, declared.name, body))
        except Exception as error:
            return _ended_badly(self, record, error)
        finally:
            entered.reset(inside)

    # -- what both do

    def record_of(self, branch: Branch, call: Call, answer: Answer) -> StepRecord:
        """Return the record of a step whose body is run."""
        if answer.record is not None:
            if answer.what == "run":
                answer.record.state = "started"
            return answer.record
        with self._turns:
            found = self._matching.place(branch), branch.origins, call.function, call.digest
            record = StepRecord(*found, code=self._code, began=self.sleeps.now())
            self._matching.add(record)
            self._known.under_way[record] = None
        self._bodies.changed(self.task)
        return record

    def _write(self, record: StepRecord, change: StepChange | None, told: Told) -> None:
        with self._turns:
            written, self._cut_off = [*self._cut_off, record], []
            # Those of which the start is stored.
            instead_of = [one.number for one in written if one.number]
            for one in written:
                one.number = next(self._next_number)
                self._known.under_way.pop(one, None)
                if one.state != "started":
                    one.ended = self.sleeps.now()
            self._known.stored |= dict.fromkeys(written)
        self._bodies.changed(self.task)
        self._post(written, replace(change or StepChange(), instead_of=instead_of), told)

    def _post(self, written: Sequence[StepRecord], change: StepChange, told: Told) -> None:
        if self._store is not None:
            store_saying(self._store, self.sleeps.ledger, self.task, written, told, change)
            return
        self.inbox.forget(change.takes)
        told(None)

    def give(self, record: StepRecord, value: Any, error: BaseException | None) -> Any:
        if error is None:
            return value
        self._raised.append((error, record))
        raise error


def run_of(branch: Branch) -> StepRun:
    """Return the run that a branch belongs to."""
    assert isinstance(branch.run, StepRun)
    return branch.run


def _interrupted(task_id: str, answer: Answer, declared: DeclaredStep) -> BaseException | None:
    """Return the error of a step that runs once at most, and had begun before; None if not."""
    if answer.record is None or not declared.once:
        return None
    return StepInterruptedError(task_id, declared.name)


def _call_of(declared: DeclaredStep, args: Any, kwargs: Any) -> Call:
    if declared.key is not None:
        text = stable_text(declared.name, "key", declared.key(*args, **kwargs))
        # No arguments in JSON begin so.
        return Call(declared.name, digest_of(f"key {text}"), has_key=True)
    codec = codec_of(declared.fn)
    codec.require_same(args, kwargs)
    return Call(declared.name, digest_of(codec.identify(args, kwargs)))


def _completed(
    declared: DeclaredStep, record: StepRecord, value: Any
) -> tuple[Any, BaseException | None]:
    """Note a result, and return it as it will be when it is read again."""
    value, text = settled(declared.fn, value)
    record.answer = encode_result(declared.fn, value) if text is None else text
    record.state = "completed"
    return value, None


def _failed(record: StepRecord, error: BaseException) -> tuple[Any, BaseException | None]:
    record.state, record.answer = "failed", encode_error(error)
    return None, error


def _ended_badly(
    run: StepRun, record: StepRecord, error: Exception
) -> tuple[Any, BaseException | None]:
    """Note the error of a body, whatever it is.

    Raises:
        asyncio.CancelledError: If its task leaves: its code was cancelled for that, of which the
            error may come. The step is run again elsewhere.
    """
    if run.is_leaving:
        raise asyncio.CancelledError from error
    return _failed(record, error)


def _outcome(declared: DeclaredStep, record: StepRecord) -> tuple[Any, BaseException | None]:
    """Return the result or the error that a record has."""
    if record.state == "failed":
        return None, decode_error(record.answer)
    return decode_result(declared.fn, record.answer), None


def _told(write: Callable[[Told], object]) -> asyncio.Future[None]:
    """Store something, and return what is done once it is stored."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def hear(error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(tell, error)

    write(hear)
    return future


def _block(write: Callable[[Told], object]) -> None:
    """Store something, and block until it is stored."""
    stored, told = threading.Event(), list[BaseException | None]()

    def tell(fault: BaseException | None) -> None:
        told.append(fault)
        stored.set()

    write(tell)
    stored.wait()
    if told[0] is not None:
        raise told[0]
