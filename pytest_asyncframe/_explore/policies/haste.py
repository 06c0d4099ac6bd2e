"""Schedules in which one timeout comes early, of those that the default schedule has offered.

That somebody times out who would not on a fast machine is no race by itself: a test may well say
that nobody does. So each timeout is tried first at a moment that shows just that: while what waits
has not been served. If the test fails there, it does not expect this timeout, and it is left out.
Then come the moments at which the next step serves what waits, and then all others.
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


@dataclass(slots=True)
class Offer:
    """A moment at which timeouts may come early.

    Attributes:
        number: The number of the next step there.
        identity: What the choice is called.
        names: Of the timeouts.
        until: The moment at which they fire.
        is_last: Whether what waits for one of them is served before that.
    """

    number: int
    identity: str
    names: frozenset[str]
    until: int
    is_last: bool = False


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
            offer = Offer(number, identity, names, moment + one.ahead)
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
        self._current: deque[Offer] = deque()
        self._later: list[list[Offer]] = []

    def begin(self) -> None:
        """Find the schedules, when the default one has run."""
        for timeouts, offers in self.noting.offers.items():
            if all(one.is_last for one in offers):
                self._left_out = True
            else:
                self._untried.append(timeouts)

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
            offer = self._current.popleft()
            return Deviating({offer.number: offer.identity}, Holds())
        if not self._untried:
            return None
        timeouts = self._untried.popleft()
        first = next(one for one in self.noting.offers[timeouts] if not one.is_last)
        trial = Trial({first.number: first.identity}, Holds())
        self._trial = (trial, timeouts)
        return trial

    def ended(self) -> None:
        """Called when a run has ended: a trial shows whether the others are to run."""
        if self._trial is None:
            return
        (trial, timeouts), self._trial = self._trial, None
        if trial.failed and not self._is_allowed(timeouts):
            self._left_out = True
            return
        offers = self.noting.offers[timeouts]
        first = next(one for one in offers if not one.is_last)
        if not trial.failed:
            self._allowed.append(timeouts)
            self._ran += 1
            offers = [one for one in offers if one is not first]
        self._current.extend(coarse_to_fine([one for one in offers if one.is_last]))
        self._later.append(coarse_to_fine([one for one in offers if not one.is_last]))

    def _is_allowed(self, timeouts: Timeouts) -> bool:
        """Whether the test has passed when these and others came early, at the same place."""
        names, where = timeouts
        return any(names <= more and where == there for more, there in self._allowed)
