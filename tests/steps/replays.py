"""A model of tasks that go on: programs with steps, killed at each event, on a small virtual time.

A program is a generator that yields operations. A run of it ends, is refused, hangs, or is killed
at an event: the effect of a step's body, or a commit. The next run begins with the records that
were committed. What answers a call is said by `_matching`, which sees functions, arguments and
branches. The model knows the *identity* of each call as well, so it sees when a call gets a result
that is not its own, and when a recorded step is run again.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from framework._records.steps import Origin, Path, StepRecord
from framework.steps._matching import PATIENCE, Answer, Call, Held, Matching, State

DELAYS: Final = (0.5, 1.0, 2.0, 3.0)
"""How long the body of a step takes until its effect, in seconds."""

COMMITS: Final = (0.0, 0.5, 1.0)
"""How long it takes from there to the commit."""

SLOWER: Final = (0.3, 1.0, 1.7)
"""By what something outside differs in how long it takes."""

# ------------------------------------------------------------------ what programs yield


class Step(NamedTuple):
    """A call of a step; gives its result, or raises `FailedError`.

    Attributes:
        function: Which step.
        args: Its arguments.
        identity: Which call it is, whatever its arguments are in this run.
        fails: Whether its body fails.
        key: What identifies the work; None for the arguments.
    """

    function: str
    args: Any
    identity: str
    fails: bool = False
    key: Any = None


class Outside(NamedTuple):
    """Wait for something from outside, for some seconds, or a little more or less."""

    seconds: float


Started: TypeAlias = "tuple[str, Any, Program]"
"""A branch to start: its name, its arguments, and its program."""


class Gather(NamedTuple):
    """Start branches and wait for all; gives their results."""

    children: Sequence[Started]


class First(NamedTuple):
    """Start branches and wait for the first, which gives its number and result.

    Attributes:
        children: They.
        cancels: Whether the others are cancelled; otherwise they are given as well.
    """

    children: Sequence[Started]
    cancels: bool = True


class Rest(NamedTuple):
    """Wait for branches that were started before; gives their results."""

    children: Sequence[Branch]


class Limit(NamedTuple):
    """Start a branch and cancel it after some seconds; gives whether it has ended, and how."""

    seconds: float
    child: Started


class Acquire(NamedTuple):
    """Wait for a lock."""

    lock: str


class Release(NamedTuple):
    """Let go of it."""

    lock: str


Program: TypeAlias = Generator[Any, Any, Any]


class FailedError(Exception):
    """A step has failed."""


# ------------------------------------------------------------------ what is left of a life


@dataclass(eq=False)
class Branch:
    """A branch of a run; see `_matching.Branch`."""

    path: Path
    parent: Branch | None
    origin: Origin
    program: Program
    state: State = "runs"
    is_ready: bool = True
    children: list[Branch] = field(default_factory=list)
    waits_for: Sequence[Branch] = ()
    operation: Any = None
    answer: tuple[Any, BaseException | None] = (None, None)
    result: tuple[Any, BaseException | None] = (None, None)
    token: int = 0
    runs: StepRecord | None = None

    @property
    def origins(self) -> tuple[Origin, ...]:
        """What each branch on its path was started with."""
        return () if self.parent is None else (*self.parent.origins, self.origin)


@dataclass
class World:
    """What survives a kill, and what the model knows of it.

    Attributes:
        records: What was committed.
        identities: Of which call each record is.
        effects: Of bodies: the identity, the number of the run, and the arguments.
        faults: What no run may do, and how often it was done.
        held: For how many seconds calls were held.
        ended: How many steps have ended.
    """

    records: list[StepRecord] = field(default_factory=list)
    identities: dict[StepRecord, str] = field(default_factory=dict)
    effects: list[tuple[str, int, Any]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    again: set[str] = field(default_factory=set)
    held: list[float] = field(default_factory=list)
    ended: int = 0

    def recorded(self) -> set[str]:
        """Return the identities of the calls whose steps have ended."""
        done = ("completed", "failed")
        return {self.identities[one] for one in self.records if one.state in done}


class Outcome(NamedTuple):
    """How a run has ended: ``done``, ``failed``, ``refused``, ``hangs`` or ``killed``.

    Attributes:
        how: That.
        what: Its result, or why.
        events: How many there were at which it could have been killed.
    """

    how: str
    what: Any
    events: int


class _KilledError(Exception):
    """The process is dead."""


class _RefusedError(Exception):
    """A call is refused."""


class Life:
    """One run of a program, from the records of the lives before.

    Args:
        world: What is left of them, and what this one leaves.
        program: What to run.
        number: Of the run, from 0.
        rng: How long things take.
        matching: Makes what answers the calls, from the records and the branches.
        kill_at: At which event it is killed; None for never.
    """

    def __init__(
        self,
        world: World,
        program: Program,
        number: int,
        rng: random.Random,
        matching: Callable[[Sequence[StepRecord], Sequence[Branch]], Matching],
        kill_at: int | None,
    ) -> None:
        self._world = world
        self._number = number
        self._rng = rng
        self._kill_at = kill_at
        self._root = Branch((), None, ("root", None), program)
        self._branches = [self._root]
        self._matching = matching(world.records, self._branches)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._tick = itertools.count()
        self._now = 0.0
        self._events = 0
        self._locks: dict[str, tuple[Branch, list[Branch]]] = {}
        self._held: list[tuple[Branch, Step, float]] = []
        self._delivered: list[tuple[Branch, StepRecord]] = []
        self._started: list[StepRecord] = []
        self._cancelled: list[StepRecord] = []

    # -- time and events

    def _event(self) -> None:
        self._events += 1
        if self._events == self._kill_at:
            raise _KilledError

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self._now + seconds, next(self._tick), do))

    def _for(self, branch: Branch, do: Callable[[], None]) -> Callable[[], None]:
        """Return what is done for a branch, unless it does something else by then."""
        token = branch.token

        def still() -> None:
            if branch.token == token and branch.state != "ended":
                do()

        return still

    # -- branches

    def _wake(self, branch: Branch, value: Any = None, error: BaseException | None = None) -> None:
        branch.state, branch.is_ready, branch.answer = "runs", True, (value, error)
        branch.waits_for = ()

    def _start(self, parent: Branch, children: Sequence[Started]) -> list[Branch]:
        made = []
        for name, args, program in children:
            path = (*parent.path, len(parent.children))
            made.append(Branch(path, parent, (name, args), program))
            parent.children.append(made[-1])
        self._branches += made
        return made

    def _end(self, branch: Branch, value: Any, error: BaseException | None = None) -> None:
        branch.state, branch.is_ready, branch.result = "ended", False, (value, error)
        for lock, (owner, _) in list(self._locks.items()):
            if owner is branch:
                self._release(lock)
        parent = branch.parent
        if parent is None or branch not in parent.waits_for:
            return
        operation, group = parent.operation, list(parent.waits_for)
        if isinstance(operation, Limit):
            self._wake(parent, (True, value), error)
        elif isinstance(operation, First):
            others = [one for one in group if one is not branch]
            if operation.cancels:
                for one in others:
                    self._cancel(one)
            found = (group.index(branch), value) + (() if operation.cancels else (others,))
            self._wake(parent, found, error)
        elif error is not None:
            self._wake(parent, error=error)  # as with asyncio.gather, the others go on
        elif all(one.state == "ended" for one in group):
            self._wake(parent, [one.result[0] for one in group])

    def _cancel(self, branch: Branch) -> None:
        if branch.state == "ended":
            return
        for one in branch.children:
            self._cancel(one)
        branch.token += 1
        if branch.runs is not None:
            self._cancelled.append(branch.runs)
        self._held = [one for one in self._held if one[0] is not branch]
        self._delivered = [one for one in self._delivered if one[0] is not branch]
        branch.state, branch.is_ready = "ended", False
        branch.program.close()

    def _release(self, lock: str) -> None:
        _, waiting = self._locks.pop(lock)
        if waiting:
            self._locks[lock] = (waiting[0], waiting[1:])
            self._wake(waiting[0])

    # -- steps

    def _call(self, step: Step) -> Call:
        digest = repr(step.args) if step.key is None else repr(("key", step.key))
        return Call(step.function, digest, step.key is not None)

    def _act(self, branch: Branch, step: Step, answer: Answer) -> None:
        record = answer.record
        if answer.what == "refuse":
            raise _RefusedError(step.identity)
        if answer.what == "hold":
            branch.state = "held"
            self._held.append((branch, step, self._now))
            self._later(PATIENCE, lambda: None)
        elif answer.what == "never":
            branch.state = "outside"
        elif answer.what == "run":
            self._run_body(branch, step, record)
        elif record is not None:
            if self._world.identities[record] != step.identity:
                self._world.faults["result of another call"] += 1
            branch.state = "held"
            self._delivered.append((branch, record))

    def _run_body(self, branch: Branch, step: Step, record: StepRecord | None) -> None:
        if record is None:
            call = self._call(step)
            place = self._matching.place(branch)
            record = StepRecord(place, branch.origins, call.function, call.digest)
            self._world.identities[record] = step.identity
            self._matching.add(record)
            self._started.append(record)
        branch.state, branch.runs = "runs", record

        def effect() -> None:
            if step.identity in self._world.recorded():
                self._world.faults["recorded step run again"] += 1
                self._world.again.add(step.identity)
            self._world.effects.append((step.identity, self._number, step.args))
            self._event()
            self._later(self._rng.choice(COMMITS), self._for(branch, end))

        def end() -> None:
            branch.runs = None
            record.state = "failed" if step.fails else "completed"
            record.answer = ("result", step.identity)
            self._commit(record)
            self._give(branch, record)

        self._later(self._rng.choice(DELAYS), self._for(branch, effect))

    def _commit(self, record: StepRecord) -> None:
        """Store the end of a step, and what has started or was cancelled before it."""
        self._world.records += [one for one in self._started if one not in self._world.records]
        for one in self._cancelled:
            one.state = "cancelled"
        self._started, self._cancelled = [], []
        self._world.ended += 1
        record.number = self._world.ended
        self._event()

    def _give(self, branch: Branch, record: StepRecord) -> None:
        if record.state == "failed":
            self._wake(branch, error=FailedError(record.function))
        else:
            self._wake(branch, record.answer)

    # -- the run

    def run(self) -> Outcome:
        """Run to the end, or to the kill."""
        try:
            while True:
                ended = self._turn()
                if ended is not None:
                    return ended
        except _RefusedError as error:
            return Outcome("refused", str(error), self._events)
        except _KilledError:
            return Outcome("killed", None, self._events)

    def _turn(self) -> Outcome | None:
        branch = next((one for one in self._branches if one.is_ready), None)
        if branch is not None:
            return self._go_on(branch)
        if self._delivered:
            # In the order in which they ended, one at a time.
            self._delivered.sort(key=lambda one: one[1].number)
            self._give(*self._delivered.pop(0))
        elif not self._settle():
            if not self._timers:
                waiting = [(one.path, one.state) for one in self._branches if one.state != "ended"]
                return Outcome("hangs", waiting, self._events)
            self._now, _, do = heapq.heappop(self._timers)
            do()
        return None

    def _settle(self) -> bool:
        held = [Held(one, self._call(step), self._now - since) for one, step, since in self._held]
        moves = any(one.state in {"runs", "inside", "outside"} for one in self._branches)
        found = self._matching.settle(held, is_stuck=not moves) if held else None
        if found is None:
            return False
        (asking, _, since, _), answer = found
        ((branch, step, _),) = (one for one in self._held if one[0] is asking)
        self._held = [one for one in self._held if one[0] is not branch]
        self._world.held.append(since)
        self._act(branch, step, answer)
        return True

    def _go_on(self, branch: Branch) -> Outcome | None:
        value, error = branch.answer
        branch.is_ready = False
        branch.token += 1
        try:
            program = branch.program
            operation = program.send(value) if error is None else program.throw(error)
        except StopIteration as stop:
            self._end(branch, stop.value)
            return Outcome("done", stop.value, self._events) if branch is self._root else None
        except FailedError as failed:
            self._end(branch, None, failed)
            return Outcome("failed", str(failed), self._events) if branch is self._root else None
        branch.operation = operation
        self._do(branch, operation)
        return None

    def _do(self, branch: Branch, operation: Any) -> None:
        if isinstance(operation, Step):
            self._act(branch, operation, self._matching.ask(branch, self._call(operation)))
        elif isinstance(operation, Outside):
            branch.state = "outside"
            seconds = operation.seconds * self._rng.choice(SLOWER)
            self._later(seconds, self._for(branch, lambda: self._wake(branch)))
        elif isinstance(operation, Acquire):
            owner, waiting = self._locks.setdefault(operation.lock, (branch, []))
            if owner is branch:
                self._wake(branch)
            else:
                branch.state = "inside"
                waiting.append(branch)
        elif isinstance(operation, Release):
            self._release(operation.lock)
            self._wake(branch)
        else:
            self._join(branch, operation)

    def _join(self, branch: Branch, operation: Gather | First | Rest | Limit) -> None:
        branch.state = "joins"
        if isinstance(operation, Rest):
            branch.waits_for = operation.children
        elif isinstance(operation, Limit):
            branch.waits_for = self._start(branch, [operation.child])

            def over() -> None:
                self._cancel(branch.waits_for[0])
                self._wake(branch, (False, None))

            self._later(operation.seconds, self._for(branch, over))
        else:
            branch.waits_for = self._start(branch, operation.children)
        if all(one.state == "ended" for one in branch.waits_for):
            self._wake(branch, [one.result[0] for one in branch.waits_for])
