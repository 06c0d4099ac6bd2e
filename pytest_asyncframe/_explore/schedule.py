"""Steps and schedules: what was chosen in one run of a test, among what.

A schedule is the list of the choices of one run. The default schedule takes the first option
everywhere; each other choice is a deviation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from pytest_asyncframe._turns.choices import Pending

Point: TypeAlias = Callable[[str, str], object]
"""Called on an actor that has reached a point, with its kind and what the actor is about to do."""

CALL = "call"
"""The kind of points before calls that leave Python; see `Chooser.choose`."""


class Location(str):
    """The name of a location in the user's code, such as "app.py:12".

    Attributes:
        key: What stays the same when lines are added before it: the function, and the number
            of the location in it.
        is_alone: Whether a run has shown that no other actor notices what is done there.
    """

    __slots__ = ("is_alone", "key")

    key: str
    is_alone: bool

    @classmethod
    def of(cls, name: str, key: str) -> Location:
        """Return the location with a name and a key."""
        location = cls(name)
        location.key, location.is_alone = key, False
        return location


class Step(NamedTuple):
    """One choice of a run.

    Attributes:
        kind: The kind of point; see `pytest_asyncframe._turns.choices.Chooser`.
        what: What the actor at the point was about to do, which is a `Location` at the levels
            "line" and "opcode"; "" if nobody stood at one. Between two steps of a loop, where
            in the user's code the latest one has stopped.
        options: The identities of what might come next, two or more, the default first.
        preempts: Whether the first option could go on, so that another choice preempts it.
        chosen: The index of the option that was taken.
    """

    kind: str
    what: str
    options: tuple[str, ...]
    preempts: bool
    chosen: int

    @property
    def deviates(self) -> bool:
        """Whether another option than the default was taken."""
        return self.chosen != 0

    @property
    def may_preempt(self) -> bool:
        """Whether another choice than the default is a preemption.

        A step of a loop that is made before the one whose turn it is counts as one, too:
        asyncio would make them in their order.
        """
        return self.preempts or self.kind == "await"

    @property
    def preempted(self) -> bool:
        """Whether somebody was passed over who could have gone on."""
        return self.chosen != 0 and self.may_preempt


class Strategy(Protocol):
    """Chooses in one run."""

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take at step *number*, which counts from 0.

        Called with the sequencer's lock held: it takes no lock and runs no other code. *step*
        has chosen the default so far.
        """
        ...


EARLY = "early"
"""The kind of a step at which time passes though others could go on; see `Hasty`."""


@runtime_checkable
class Hasty(Protocol):
    """A strategy that may let time pass, until a timeout, though others could go on."""

    @property
    def takes_time(self) -> bool:
        """Whether it may do so at all."""
        ...

    def pass_time(
        self, number: int, moment: int, pending: Sequence[Pending], served: Sequence[str]
    ) -> int | None:
        """Return the index of the timeout until which time passes now; None for none.

        Args:
            number: The number of the next step.
            moment: How often it was called before in this run.
            pending: See `Chooser.pass_time`.
            served: See `Chooser.pass_time`.
        """
        ...


def early(timeout: str, moment: int) -> str:
    """Return the identity of the choice that time passes until a timeout at a moment."""
    return f"{timeout}, moment {moment}"


def early_step(pending: Pending, moment: int) -> Step:
    """Return the step at which time passes: others come before who is held back, as at a point."""
    options = (pending.held or "go on", early(pending.identity, moment))
    return Step(EARLY, "", options, preempts=False, chosen=1)


_MOMENT = re.compile(r", moment [0-9]+$")


class Rule(Protocol):
    """What a schedule does where it says nothing; follows one run, step by step."""

    def default(self, step: Step) -> int:
        """Return the index of the option that is taken unless a schedule says another one."""
        ...

    def cost(self, step: Step, option: int) -> int:
        """Return how many deviations it is to take an option other than `default`, 0 or 1."""
        ...

    def took(self, step: Step, option: int) -> object:
        """Take note of the option that was taken at a step."""
        ...


class InOrder:
    """Takes the first option everywhere: each other choice is a deviation."""

    def default(self, step: Step) -> int:
        """Return 0; see `Rule`."""
        return 0

    def cost(self, step: Step, option: int) -> int:
        """Return 1; see `Rule`."""
        return 1

    def took(self, step: Step, option: int) -> None:
        """Do nothing; see `Rule`."""


class Default:
    """Takes the default everywhere."""

    def choose(self, number: int, step: Step) -> int:
        """Return 0; see `Strategy`."""
        return 0


class Deviating:
    """Takes the default at all steps but some.

    Args:
        deviations: The identities of the options to take, by the number of the step. One that
            is not offered there is passed over: the default is taken.
        rule: What the default is, for one run.
    """

    def __init__(self, deviations: Mapping[int, str], rule: Rule | None = None) -> None:
        self._deviations = deviations
        self._option_at = deviations.get
        self._rule = InOrder() if rule is None else rule

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take at step *number*; see `Strategy`."""
        wanted = self._option_at(number)
        rule = self._rule
        option = step.options.index(wanted) if wanted in step.options else rule.default(step)
        rule.took(step, option)
        return option

    @property
    def takes_time(self) -> bool:
        """Whether a deviation lets time pass; see `Hasty`."""
        return any(_MOMENT.search(option) for option in self._deviations.values())

    def pass_time(
        self, number: int, moment: int, pending: Sequence[Pending], served: Sequence[str]
    ) -> int | None:
        """Return the index of the timeout of a deviation; see `Hasty`."""
        wanted = self._option_at(number)
        for index, one in enumerate(pending):
            if early(one.identity, moment) == wanted:
                self._rule.took(early_step(one, moment), 1)
                return index
        return None


def deviations_of(steps: Sequence[Step]) -> dict[int, str]:
    """Return the identities of the options that were taken instead of the default, by step."""
    return {number: step.options[step.chosen] for number, step in enumerate(steps) if step.deviates}


class Course:
    """The choices of one run, made by a strategy and kept.

    Args:
        strategy: Decides.

    Attributes:
        steps: The steps so far.
        offered: How many timeouts could have come early so far, each at each moment.
        takes_time: See `Chooser`.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._choose = strategy.choose
        self._hasty = strategy if isinstance(strategy, Hasty) and strategy.takes_time else None
        self._moments = 0
        self.offered: int = 0
        self.steps: list[Step] = []
        self.takes_time: bool = self._hasty is not None

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next; see `Chooser`."""
        step = Step(kind, what, tuple(options), preempts, 0)
        chosen = self._choose(len(self.steps), step)
        self.steps.append(step._replace(chosen=chosen) if chosen else step)
        return chosen

    def pass_time(self, pending: Sequence[Pending], served: Sequence[str]) -> int | None:
        """Return the index of the timeout until which time passes; see `Chooser`."""
        if self._hasty is None:
            return None
        moment = self._moments
        self._moments += 1
        self.offered += len(pending)
        chosen = self._hasty.pass_time(len(self.steps), moment, pending, served)
        if chosen is not None:
            self.steps.append(early_step(pending[chosen], moment))
        return chosen


class Policy(Protocol):
    """Decides which schedules are run, one after another. The first one is the default one."""

    def next(self) -> Strategy | None:
        """Return the strategy of the next run; None if all schedules of the policy are done."""
        ...

    def ended(self, steps: Sequence[Step]) -> object:
        """Take note of the steps that the latest run has taken."""
        ...

    def claim(self, runs: int, where: str = "") -> str:
        """Say in a few words which schedules *runs* runs were, from 1 run on.

        Args:
            runs: How many runs there were.
            where: Which schedules they were, such as " of level line".
        """
        ...
