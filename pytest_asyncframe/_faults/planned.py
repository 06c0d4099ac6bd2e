"""Planned faults as data: what shall go wrong and when, and what has gone wrong so far."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
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


@dataclass(eq=False, repr=False)
class Fault:
    """A fault that a test has planned.

    Attributes:
        call: How it was planned, as source code.
        place: The line that planned it: ``file:line in function``.
        exc: The error of attempts that fail.
        seconds: How much longer slow attempts take.
    """

    # The name of the method that planned it.
    _kind: str
    call: str
    place: str
    # The function that it is about, None for all functions; and what is counted, in the singular.
    _target: Target | None
    _counts: str = "task"
    # At which numbers it takes place, None for each one; and how many there had been before.
    _numbers: frozenset[int] | None = None
    _before: int = 0
    exc: Exc = InjectedError
    seconds: float = 0.0
    _fired: list[Firing] = field(default_factory=list, init=False)
    _cut_short: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._count = self._before
        self._lock = threading.Lock()

    @property
    def fired(self) -> tuple[Firing, ...]:
        """The times that it took place, in order."""
        return tuple(self._fired)

    def __str__(self) -> str:
        return f"{self.call} at {self.place}: fired {in_words(len(self._fired))}"

    def __repr__(self) -> str:
        return f"<{self}>"

    # -- for the rest of the plugin

    def concerns(self, one: Submission) -> bool:
        """Whether it is about the function of a task."""
        return self._target is None or one.is_of(self._target)

    def due(self, one: Submission, counts: str) -> tuple[int, str]:
        """Count one more attempt, submission, task or event, if it is about such.

        Args:
            one: The task.
            counts: What is counted.

        Returns:
            Its number, from 1, and what happens to it; "" for nothing.
        """
        if self._counts != counts or not self.concerns(one):
            return 0, ""
        with self._lock:
            self._count += 1
            number = self._count
        takes_place = self._numbers is None or number in self._numbers
        return number, self._kind if takes_place else ""

    def add(self, firing: Firing) -> None:
        """Record that it took place."""
        self._fired.append(firing)

    def hides(self, later: Fault) -> bool:
        """Whether it would keep a later fault of the same kind from taking place, at least once."""
        mine, its = self._target, later._target
        if self._kind != later._kind or mine is None or its is None or not _same(mine, its):
            return False
        if self._numbers is None or later._numbers is None:
            return self._numbers is None
        return not self._numbers.isdisjoint(later._numbers)

    def cut_short(self, task_id: str) -> None:
        """Record that the second run of a task was ended from outside."""
        self._cut_short.append(task_id)

    def finding(self) -> str | None:
        """Return in what way it did not take place as planned; None if it did."""
        planned = f"{self.call}, planned at {self.place}"
        if self._cut_short:
            return (
                f"fault cut short: {planned}: the second run of {' and '.join(self._cut_short)} "
                "had not ended; wait for it with settled() or run_until_idle()"
            )
        missing = self._missing()
        return f"fault never fired: {planned}: {missing}" if missing else None

    def _missing(self) -> str:
        of = "" if self._target is None else f" of {self._target.name}"
        if self._count == self._before:
            return f"there was no {self._counts}{of} after that"
        if self._numbers is None:
            return self._idle(f"{self._counts}{of}")
        left = self._numbers - {firing.number for firing in self._fired}
        if not left:
            return ""
        counts = self._counts if len(left) == 1 else f"{self._counts}s"
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


_DRAWN = {
    "submission": ("queue_full",),
    "task": ("deliver_twice", "crash_worker"),
    "attempt": ("fail", "slow"),
}
"""What chance may do to what is counted."""


@dataclass(eq=False, repr=False)
class Chaos(Fault):
    """Random faults: a draw depends on the seed, the function and a number, and nothing else.

    Attributes:
        p: The probability of a fault, from 0 to 1.
        seed: Seed of the draws.
        kinds: What may happen.
    """

    _: KW_ONLY
    p: float
    seed: int
    kinds: Sequence[str]
    _counted: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)

    def _idle(self, counts: str) -> str:
        # Nothing is wrong with chance.
        return ""

    def due(self, one: Submission, counts: str) -> tuple[int, str]:
        """Draw what happens to the next attempt, submission or task of a function."""
        able = [kind for kind in self.kinds if kind in _DRAWN.get(counts, ())]
        if not able or not self.concerns(one):
            return 0, ""
        name = function_name(one.call.fn)
        with self._lock:
            self._count += 1
            self._counted[name, counts] += 1
            number = self._counted[name, counts]
        # Seeded with a text, which gives the same draws in every process; a hash would not.
        draws = random.Random(f"{self.seed} {name} {counts} {number}")  # no secret
        return number, draws.choice(able) if draws.random() < self.p else ""
