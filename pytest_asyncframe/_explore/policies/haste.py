"""Schedules in which one timeout comes early, of those that the default schedule has offered.

That somebody times out who would not on a fast machine is no race by itself: a test may well say
that nobody does. So each timeout is tried first at a moment that shows just that: while what waits
has not been served. If the test fails there, it does not expect this timeout, and it is left out.
Then come the moments at which the next step serves what waits, and then all others.

At a point somebody is held back while time passes: until nobody else can go on, or until somebody
comes to a point, such as the one whose wait has ended, or only until the timer has fired.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pytest_asyncframe._explore.holds import Holds
from pytest_asyncframe._explore.policies.order import coarse_to_fine, in_turn
from pytest_asyncframe._explore.schedule import Deviating, Step, Strategy, early
from pytest_asyncframe._turns.choices import Pending

Timeouts: TypeAlias = tuple[frozenset[str], str]
"""The names of those that come early together, and where the last of them waits."""

Plan: TypeAlias = dict[int, str]
"""What a schedule does instead of the default, by the number of the step."""


@dataclass(slots=True)
class Offer:
    """A moment at which timeouts may come early.

    Attributes:
        number: The number of the next step there.
        identity: What the choice is called.
        names: Of the timeouts.
        held: Who is held back meanwhile; "" for nobody.
        until: The moment at which they fire.
        at_once: Whether they fire before anybody makes a step.
        is_last: Whether what waits for one of them is served by the next steps.
    """

    number: int
    identity: str
    names: frozenset[str]
    held: str
    until: int
    at_once: bool
    is_last: bool = False

    @property
    def shows(self) -> bool:
        """Whether the wait ends by the timeout alone, and has not been served."""
        return self.at_once or not self.is_last

    @property
    def plan(self) -> Plan:
        """The schedule in which it is taken."""
        return {self.number: self.identity}

    def plans_to_go_on(self, steps: Sequence[Step]) -> list[Plan]:
        """Return schedules in which who was held back goes on sooner.

        Args:
            steps: Those of the run in which the offer was taken.
        """
        behind = [*enumerate(steps)][self.number + 2 :]
        chances = [
            (number, step.preempts)
            for number, step in behind
            if self.held in step.options and step.options[step.chosen] != self.held
        ]
        at_a_point = [number for number, preempts in chances if preempts]
        found = dict.fromkeys([*at_a_point[:1], *(number for number, _ in chances[:1])])
        return [{**self.plan, number: self.held} for number in found]


class Noting:
    """Takes the default everywhere, and notes the timeouts that could come early.

    Attributes:
        offers: The moments at which they could.
    """

    takes_time = True

    def __init__(self) -> None:
        self.offers: dict[Timeouts, list[Offer]] = defaultdict(list)
        self._latest: list[Offer] = []

    def choose(self, number: int, step: Step) -> int:
        """Return 0; see `Strategy`."""
        return 0

    def pass_time(
        self, number: int, moment: int, pending: Sequence[Pending], served: Sequence[str]
    ) -> None:
        """Note what is offered; see `Hasty`."""
        self._latest = [one for one in self._latest if moment <= one.until]
        for offer in self._latest:
            offer.is_last = offer.is_last or not offer.names.isdisjoint(served)
        for one in pending:
            identity, names = early(one.identity, moment), frozenset(one.names)
            # What the next steps serve is known at the next moment.
            until = moment + max(one.ahead, 1)
            offer = Offer(number, identity, names, one.held, until, at_once=not one.ahead)
            self._latest.append(offer)
            self.offers[names, one.where].append(offer)


class Trial(Deviating):
    """Has a timeout come early while nothing else happens to what waits.

    Attributes:
        failed: Whether the test has failed, which shows that it does not expect the timeout.
    """

    failed = False


class Haste:
    """The schedules in which one timeout comes early, each once.

    Attributes:
        noting: The strategy of the default schedule, which must be the first run.
    """

    def __init__(self) -> None:
        self.noting = Noting()
        self._ran = 0
        self._left_out = False
        self._untried: deque[Timeouts] = deque()
        self._trial: tuple[Trial, Timeouts] | None = None
        self._allowed: list[Timeouts] = []
        # Schedules, and the offer that is taken in one for the first time.
        self._current: deque[tuple[Plan, Offer | None]] = deque()
        self._later: list[list[tuple[Plan, Offer | None]]] = []
        self._taken: Offer | None = None

    def begin(self) -> None:
        """Find the schedules, when the default one has run."""
        places: dict[str, list[Timeouts]] = defaultdict(list)
        for timeouts, offers in self.noting.offers.items():
            if any(one.shows for one in offers):
                places[timeouts[1]].append(timeouts)
            else:
                self._left_out = True
        # At different places first: one may wait a hundred times, in a loop.
        self._untried.extend(in_turn([coarse_to_fine(found) for found in places.values()]))

    @property
    def words(self) -> str:
        """What is said of them, such as ", and 3 with an early timeout"; "" if none has run."""
        if not self._ran:
            return ""
        left = self._untried or self._current or self._later or self._trial
        every = "" if left else "all "
        allowed = " that the test allows" if self._left_out else ""
        return f", and {every}{self._ran} with an early timeout{allowed}"

    def next(self) -> Strategy | None:
        """Return the strategy of the next schedule; None if there is none."""
        if not self._current and not self._untried:
            self._current.extend(in_turn(self._later))
            self._later = []
        if self._current:
            self._ran += 1
            plan, self._taken = self._current.popleft()
            return Deviating(plan, Holds())
        if not self._untried:
            return None
        timeouts = self._untried.popleft()
        self._taken = next(one for one in self.noting.offers[timeouts] if one.shows)
        trial = Trial(self._taken.plan, Holds())
        self._trial = (trial, timeouts)
        return trial

    def ended(self, steps: Sequence[Step]) -> None:
        """Find further schedules when one of these has run, with these steps."""
        taken, self._taken = self._taken, None
        further = taken.plans_to_go_on(steps) if taken is not None and taken.held else []
        if self._trial is not None:
            (trial, timeouts), self._trial = self._trial, None
            if trial.failed and not self._is_allowed(timeouts):
                self._left_out = True
                return
            self._allow(timeouts, None if trial.failed else taken)
        if further:
            self._later.append([(plan, None) for plan in further])

    def _allow(self, timeouts: Timeouts, tried: Offer | None) -> None:
        """Let timeouts come at all moments but the one that was tried, if the test has passed."""
        offers = self.noting.offers[timeouts]
        if tried is not None:
            self._allowed.append(timeouts)
            self._ran += 1
            offers = [one for one in offers if one is not tried]
        last = coarse_to_fine([one for one in offers if one.is_last])
        others = coarse_to_fine([one for one in offers if not one.is_last])
        self._current.extend((one.plan, one) for one in last)
        self._later.append([(one.plan, one) for one in others])

    def _is_allowed(self, timeouts: Timeouts) -> bool:
        """Whether the test has passed when these and others came early, at the same place."""
        names, where = timeouts
        return any(names <= more and where == there for more, there in self._allowed)
