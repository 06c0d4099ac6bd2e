"""Planned faults as data: what shall go wrong and when, and what has gone wrong so far."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from framework.testing import function_name
from pytest_asyncframe._seen.entries import Submission, Target
from pytest_asyncframe._seen.matchers import in_words

Exc: TypeAlias = BaseException | type[BaseException] | Callable[[], BaseException]
"""An error to raise: an instance, a class, or a function that returns or raises an instance."""


class InjectedError(Exception):
    """Raised by a function that a test makes fail without naming another error.

    Attributes:
        function: Name of the function.
        attempt: Which attempt of the function it was, from 1.
    """

    def __init__(self, function: str, attempt: int) -> None:
        super().__init__(function, attempt)
        self.function = function
        self.attempt = attempt

    def __str__(self) -> str:
        return f"attempt {self.attempt} of {self.function} was made to fail"


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that a planned fault took place.

    Attributes:
        fault: The fault.
        function: Name of the function, without its module.
        task_id: Id of the task, also of one that was refused.
        number: Which attempt, submission, task or event it was, from 1.
        at: When it was, in seconds of the test's clock.
        text: What happened, for people.
    """

    fault: Fault
    function: str
    task_id: str
    number: int
    at: float
    text: str

    def __repr__(self) -> str:
        return f"<{self.text}, at {self.at:.9g} s>"


@dataclass(frozen=True, slots=True)
class Plan:
    """When a fault is to take place, and how it was planned.

    Attributes:
        call: How it was planned, as source code.
        location: The line that planned it.
        counts: What is counted, in the singular.
        target: The function that it is about; None for all functions.
        numbers: The numbers at which it takes place; None for each one.
        before: How many there had been when it was planned.
    """

    call: str
    location: str
    counts: str
    target: Target | None
    numbers: frozenset[int] | None = None
    before: int = 0


class Fault:
    """A fault that a test has planned."""

    def __init__(self, plan: Plan) -> None:
        self._planned = plan
        self._count = plan.before
        self._fired: list[Firing] = []
        self._cut_short: list[str] = []
        self._lock = threading.Lock()

    @property
    def fired(self) -> tuple[Firing, ...]:
        """The times that it took place, in order."""
        return tuple(self._fired)

    @property
    def call(self) -> str:
        """How it was planned, as source code."""
        return self._planned.call

    @property
    def place(self) -> str:
        """The line that planned it: ``file:line in function``."""
        return self._planned.location

    def __str__(self) -> str:
        return (
            f"{self._planned.call} at {self._planned.location}: fired {in_words(len(self._fired))}"
        )

    def __repr__(self) -> str:
        return f"<{self}>"

    # -- for the rest of the plugin

    def concerns(self, one: Submission) -> bool:
        """Whether it is about the function of a task."""
        return self._planned.target is None or one.is_of(self._planned.target)

    def next_number(self, one: Submission) -> int | None:
        """Count one more for a task; return its number if the fault takes place now, else None."""
        if not self.concerns(one):
            return None
        with self._lock:
            self._count += 1
            number = self._count
        numbers = self._planned.numbers
        return number if numbers is None or number in numbers else None

    def add(self, firing: Firing) -> None:
        """Record that it took place."""
        self._fired.append(firing)

    def hides(self, later: Fault) -> bool:
        """Whether it would keep a later fault of the same kind from taking place, at least once."""
        mine, its = self._planned, later._planned
        if mine.target is None or its.target is None or not _same(mine.target, its.target):
            return False
        if mine.numbers is None or its.numbers is None:
            return mine.numbers is None
        return not mine.numbers.isdisjoint(its.numbers)

    def cut_short(self, task_id: str) -> None:
        """Record that the second run of a task was ended from outside."""
        self._cut_short.append(task_id)

    def finding(self) -> str | None:
        """Return in what way it did not take place as planned; None if it did."""
        planned = f"{self._planned.call}, planned at {self._planned.location}"
        if self._cut_short:
            return (
                f"fault cut short: {planned}: the second run of {' and '.join(self._cut_short)} "
                "had not ended; wait for it with settled() or run_until_idle()"
            )
        missing = self._missing()
        return f"fault never fired: {planned}: {missing}" if missing else None

    def _missing(self) -> str:
        plan = self._planned
        of = "" if plan.target is None else f" of {plan.target.name}"
        if self._count == plan.before:
            return f"there was no {plan.counts}{of} after that"
        if plan.numbers is None:
            return self._idle(f"{plan.counts}{of}")
        left = plan.numbers - {firing.number for firing in self._fired}
        if not left:
            return ""
        counts = plan.counts if len(left) == 1 else f"{plan.counts}s"
        which = " and ".join(map(str, sorted(left)))
        return f"{counts} {which}{of} never came, the last one was {self._count}"

    def _idle(self, counts: str) -> str:
        """Return the message for a fault that never took place although it had the chance."""
        return "" if self._fired else f"no {counts} after that was free for it"


def _same(one: Target, other: Target) -> bool:
    """Whether two targets are the same function."""
    if one.fn is not None and other.fn is not None:
        return one.fn == other.fn
    return not one.labels.isdisjoint(other.labels)


class Fail(Fault):
    """Attempts that fail with *exc*."""

    def __init__(self, plan: Plan, exc: Exc) -> None:
        super().__init__(plan)
        self.exc: Exc = exc


class Slow(Fault):
    """Attempts that take *seconds* longer."""

    def __init__(self, plan: Plan, seconds: float) -> None:
        super().__init__(plan)
        self.seconds: float = seconds


class Crash(Fault):
    """A worker that crashes after the event *after*."""

    def __init__(self, plan: Plan, after: str) -> None:
        super().__init__(plan)
        self.after: str = after


class QueueFull(Fault):
    """Submissions that are refused."""


class DeliverTwice(Fault):
    """Tasks that are delivered twice."""


class Chaos(Fault):
    """Random faults: a draw depends on the seed, the function and a number, and nothing else.

    Args:
        plan: Of which function.
        p: The probability of a fault, from 0 to 1.
        seed: Seed of the draws.
        kinds: What may happen.
        exc: The error of attempts that fail.
        seconds: How much longer slow attempts take.
    """

    def __init__(
        self, plan: Plan, p: float, seed: int, kinds: Sequence[str], exc: Exc, seconds: float
    ) -> None:
        super().__init__(plan)
        self.exc: Exc = exc
        self.seconds: float = seconds
        self._p = p
        self._seed = seed
        self._kinds = kinds
        self._counts: Counter[tuple[str, str]] = Counter()

    def _idle(self, counts: str) -> str:
        # Nothing is wrong with chance.
        return ""

    def draw(self, one: Submission, counts: str, kinds: Sequence[str]) -> tuple[int, str]:
        """Draw what happens to the next attempt, submission or task of a function.

        Args:
            one: The task.
            counts: What is counted.
            kinds: What can happen to it.

        Returns:
            Its number, from 1, and what happens; "" for nothing.
        """
        able = [kind for kind in self._kinds if kind in kinds]
        if not able or not self.concerns(one):
            return 0, ""
        name = function_name(one.call.fn)
        with self._lock:
            self._count += 1
            self._counts[name, counts] += 1
            number = self._counts[name, counts]
        # Seeded with a text, which gives the same draws in every process; a hash would not.
        draws = random.Random(f"{self._seed} {name} {counts} {number}")  # no secret
        return number, draws.choice(able) if draws.random() < self._p else ""
