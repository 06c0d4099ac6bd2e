"""The run of a replay: steps are answered from their records, and no body runs.

A branch that calls a step of which nothing is recorded waits there for ever, since nobody knows
what would come of it. When nothing goes on any more, the replay leaves as a task does that sleeps
for long: its asyncio tasks are cancelled, and no step answers.

Guarantees: nothing is stored, submitted, sent or received.
Relies on: whoever calls it to set a limit of real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from framework._records.jsonsafe import cut, safe_repr
from framework._records.steps import Path, StepRecord, said
from framework._replays import lines
from framework._replays.differences import Asked
from framework._running.ledger import Ledger
from framework._running.mail import Mail
from framework._running.outcomes import PublishAgain
from framework._running.waits.policies import Policies
from framework._tasks.functions import Args, Kwargs
from framework._tasks.live import LiveTask
from framework.exceptions import StepMismatchError
from framework.steps._attempts import causes_of
from framework.steps._bodies import Bodies, DeclaredStep
from framework.steps._branches import Branch
from framework.steps._matching import Answer, Call
from framework.steps._runs import StepRun
from framework.steps._sleeps import Sleeps

PATIENCE: Final = 7 * 86_400.0
"""For how many seconds of its loop's time a replay goes on that waits outside of steps."""

_FIRST_LOOK: Final = 0.001
"""After how many seconds such a replay is looked at again; each next look comes twice as late."""

_LONGEST: Final = 200
"""Characters of a call that are shown."""


class ReplayRun(StepRun):
    """The steps of a task that is replayed; see `StepRun`.

    Args:
        task: The task.
        code: A digest of its code.
        policies: Of a framework that runs no task.
        ledger: Of the same one.
        mail: As above.
        records: Of its steps; it changes them.
        patience: For how many seconds of its loop's time it goes on that waits outside of steps.

    Attributes:
        refused: The calls that were refused.
        unrecorded: The calls of which nothing is recorded.
        ends: When it is over.
        repeats: Whether it waits at a step that had ended an attempt by its error.
        unasked: What was not asked for when it was over.
        waits_outside: Whether its own code waited for something when it was over.
        line: Where; "" if that is unknown.
    """

    def __init__(
        self,
        task: LiveTask,
        code: str,
        policies: Policies,
        ledger: Ledger,
        mail: Mail,
        records: Sequence[StepRecord],
        patience: float,
    ) -> None:
        self.ends = Ends(self, task, policies, ledger, patience)
        self._stopped: dict[Branch, None] = {}
        super().__init__(task, code, None, self.ends, mail, Bodies(ledger, None), records)

    @property
    def is_changed(self) -> bool:
        """Whether the code is not that of the records."""
        return any(one.code != self._code for one in self._known.stored)

    def begin(self, coroutine: Any = None) -> Branch:
        """Begin it; return its first branch."""
        self.refused: list[Asked] = []
        self.unrecorded: list[Asked] = []
        self.repeats = False
        self.unasked: Sequence[StepRecord] = ()
        self.waits_outside, self.line = False, ""
        self._states: dict[Path, str] = {}
        self._calls: dict[Branch, str] = {}
        self._stopped.clear()
        root = super().begin(coroutine)
        if coroutine is not None:
            self.watch()
        return root

    def complete(self) -> None:
        """Note how everything is, since the function has ended."""
        self.look_around()
        self._states[()], self.waits_outside = "ended", False

    async def drop(self, error: BaseException) -> None:
        """Drop nothing: no attempt follows."""

    def drop_sync(self, error: BaseException) -> None:
        """Drop nothing, as above."""

    def has_raised(self, error: BaseException) -> bool:
        """Return whether an error is that of a recorded step, or was raised because of one."""
        causes = {id(one) for one in causes_of(error)}
        return any(id(one) in causes for one, _ in self._raised)

    async def call(self, branch: Branch, declared: DeclaredStep, args: Any, kwargs: Any) -> Any:
        """Answer a call; see `StepRun.call`."""
        self._calls[branch] = shown_call(declared.name, args, kwargs)
        return await super().call(branch, declared, args, kwargs)

    def call_sync(self, branch: Branch, declared: DeclaredStep, args: Any, kwargs: Any) -> Any:
        """Answer a call; see `StepRun.call_sync`."""
        self._calls[branch] = shown_call(declared.name, args, kwargs)
        return super().call_sync(branch, declared, args, kwargs)

    async def ask(self, branch: Branch, declared: DeclaredStep, call: Call) -> Answer:
        """Answer a call from its record, or never."""
        self.ends.stir()
        asked = self._asked(branch, call)
        try:
            answer = await super().ask(branch, declared, call)
            if self._is_known(branch, declared, call, answer, asked):
                return answer
        except StepMismatchError:
            self.refused.append(asked)
        # As the body would run there, which is no reason to give up what others wait for.
        self._stopped[branch], branch.waits = None, "runs"
        never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            return await never
        finally:
            branch.waits = None
            del self._stopped[branch]
            if self.ends.left is None and asked in self.unrecorded:
                # Another branch has cancelled it, so nobody uses its result.
                self.unrecorded.remove(asked)

    def ask_sync(self, branch: Branch, declared: DeclaredStep, call: Call) -> Answer:
        """Answer a call from its record, or end the replay."""
        asked = self._asked(branch, call)
        try:
            answer = super().ask_sync(branch, declared, call)
            if self._is_known(branch, declared, call, answer, asked):
                return answer
        except StepMismatchError:
            self.refused.append(asked)
        self._stopped[branch] = None
        self.look_around()
        raise self.ends.leave(self.branches)

    async def turn(self, branch: Branch, record: StepRecord) -> None:
        """Wait for the turn of a result; see `StepRun.turn`."""
        await super().turn(branch, record)
        self.ends.stir()

    def ended(self, asyncio_task: object) -> None:
        """Hear that a branch has ended; see `StepRun.ended`."""
        self.ends.stir()
        super().ended(asyncio_task)

    def _settle(self) -> bool:
        """Answer a call that is held once nothing goes on; see `StepRun._settle`."""
        return self.ends.is_still and super()._settle()

    def _is_known(
        self, branch: Branch, declared: DeclaredStep, call: Call, answer: Answer, asked: Asked
    ) -> bool:
        """Return whether a record answers a call; note one of which nothing is recorded."""
        if answer.what != "run":
            return True
        if answer.record is not None:
            # It had begun. That it may not run again is an answer, too.
            return declared.once
        place = self._matching.place(branch), call.function, call.digest
        if any((one.path, one.function, one.digest) == place for one in self._ended):
            self.repeats = True
        else:
            self.unrecorded.append(asked)
        return False

    @property
    def _ended(self) -> list[StepRecord]:
        return [one for one in self._known.stored if one.state == "ended"]

    def _asked(self, branch: Branch, call: Call) -> Asked:
        text = self._calls.pop(branch, "")
        if said(call.function) != call.function or not text:
            text = said(call.function)
        return Asked(call.function, text, lines.calling(), branch.path)

    def is_past(self, record: StepRecord) -> bool:
        """Return whether a step that was not called would not have been called later, either.

        Nobody knows that of a branch that waits for something which a step may bring about.
        """
        path = record.path
        while path not in self._states and path:
            path = path[:-1]
        state = self._states.get(path, "ended")
        if state == "joins":
            # What it waits for may be anything, unless all of that waits for a step.
            return not {"runs", "inside", "outside", "held"}.intersection(self._states.values())
        return state in {"stopped", "ended"}

    def moving(self) -> list[Branch]:
        """Return the branches whose own code may go on, or waits for something that may come."""
        states = {one: one.state for one in self.branches if one not in self._stopped}
        going = {"runs", "outside"}
        if not self._stopped:
            # Otherwise one that waits for ever may have what these wait for.
            going |= {"inside", "held"}
        return [one for one, state in states.items() if state in going]

    def look_around(self) -> None:
        """Note how everything is, since nothing goes on any more."""
        self._states = {self._matching.place(one): self._state(one) for one in self.branches}
        self.unasked = self._matching.unasked
        waiting = self.moving()
        found = (lines.waiting(one.coroutine) for one in waiting)
        self.line = next((one for one in found if one), "")
        self.waits_outside = bool(waiting)

    def _state(self, branch: Branch) -> str:
        if branch in self._stopped:
            return "stopped"
        asyncio_task = branch.asyncio_task
        is_cancelled = asyncio_task is not None and asyncio_task.done() and asyncio_task.cancelled()
        return "cancelled" if is_cancelled else branch.state


class Ends(Sleeps):
    """Finds out when nothing of a replay goes on any more; nothing sleeps in it.

    Args:
        run: The replay.
        task: Its task.
        policies: As `Sleeps` has them.
        ledger: As above.
        patience: As `ReplayRun` has it.

    Attributes:
        is_still: Whether a timer has been set since anything went on. A result, an end or a
            cancellation takes some turns until it has reached all that wait for it, and a timer
            fires after them.
    """

    def __init__(
        self,
        run: ReplayRun,
        task: LiveTask,
        policies: Policies,
        ledger: Ledger,
        patience: float,
    ) -> None:
        self._run, self._patience = run, patience
        super().__init__(task, policies, ledger)

    def begin(self) -> None:
        """Begin an attempt."""
        super().begin()
        self._pause, self._since, self.is_still = _FIRST_LOOK, 0.0, False

    def stir(self) -> None:
        """Note that something goes on."""
        self.is_still = False

    def __bool__(self) -> bool:
        """Return True, so that turns are counted until nothing goes on."""
        return True

    def look(self, branches: Sequence[Branch]) -> None:
        """Leave if nothing goes on; otherwise look again later."""
        if self.left is not None:
            return
        self._wake()
        pause = 0.0
        if not self.is_still:
            pause = _FIRST_LOOK
            self.is_still = True
        elif self._run.moving() and self._since < self._patience:
            pause = self._pause
            self._since += pause
            self._pause *= 2
        if pause:
            self._timer = asyncio.get_running_loop().call_later(pause, self._run.watch)
            return
        self._run.look_around()
        self.leave(branches)

    def leave(self, branches: Sequence[Branch]) -> PublishAgain:
        """Leave now; return what a sync function raises then."""
        self._wake()
        left = PublishAgain("sleeping", 0.0, None, "its replay is over")
        self._leave(left, branches)
        return left


def shown_call(name: str, args: Args, kwargs: Kwargs) -> str:
    """Return a call as people write it."""
    given = [safe_repr(one, 80) for one in args]
    given += [f"{key}={safe_repr(one, 80)}" for key, one in kwargs.items()]
    return cut(f"{name}({', '.join(given)})", _LONGEST)
