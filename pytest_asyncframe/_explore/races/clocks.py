"""Which work of one actor comes before which work of another: vector clocks.

Guarantees: there may be more order than the program keeps, never less. So nothing is said to be
    in no order that is in one. What has no actor shares one clock, and an actor that nobody has
    announced comes after all that has been done.
Relies on: one actor running at a time, and the sequencer telling of each way in which one waits
    for another; see `pytest_asyncframe._turns.hearing`.

Source:
    L. Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", CACM 21(7),
    1978; C. Flanagan and S. Freund, "FastTrack: Efficient and Precise Dynamic Race Detection",
    PLDI 2009.
"""

from __future__ import annotations

import _thread
import itertools
from collections.abc import Mapping
from typing import TypeAlias
from weakref import WeakKeyDictionary

from pytest_asyncframe._explore.races.numbers import Numbers
from pytest_asyncframe._turns.actors import Actor, Arrival
from pytest_asyncframe._turns.hearing import ENDED
from pytest_asyncframe._turns.sequencer import Sequencer

Times: TypeAlias = Mapping[int, int]
"""Up to which of its times the work of each actor comes before, by the number of the actor."""

NONE: Times = {}


def joined(one: Times, other: Times) -> Times:
    """Return the times up to which work comes before if it does by one or the other."""
    if one is other or not other:
        return one
    if all(one.get(number, 0) >= time for number, time in other.items()):
        return one
    found = dict(one)
    for number, time in other.items():
        if found.get(number, 0) < time:
            found[number] = time
    return found


class Clock:
    """What comes before the next work of one actor.

    Attributes:
        number: The actor's, which no other one gets.
        time: The actor's own, which grows each time others may hear of its work.
        kept: What comes before by locks and waits.
        seen: What comes before by these, and by values that it has read and others had written.
    """

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.time: int = 1
        self.kept: Times = NONE
        self.seen: Times = NONE

    def told(self) -> tuple[Times, Times]:
        """Return what comes before what others do when they have heard of its work so far."""
        found = {**self.kept, self.number: self.time}, {**self.seen, self.number: self.time}
        self.time += 1
        return found

    def hear(self, told: tuple[Times, Times]) -> None:
        """Come after what *told* says."""
        self.kept, self.seen = joined(self.kept, told[0]), joined(self.seen, told[1])


class Order:
    """Keeps the clocks of the actors of a run; see `pytest_asyncframe._turns.hearing.Listener`.

    Args:
        sequencer: The run's.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._next = itertools.count(1)
        # By the actor itself: the identifiers of threads are used again.
        self._clocks: WeakKeyDictionary[Actor, Clock] = WeakKeyDictionary()
        self._nobodys = Clock(next(self._next))
        # For whom a thread does something that is none of its own work.
        self._acting: dict[int, Clock] = {}
        self._numbers = Numbers()
        self._told: dict[int, tuple[Times, Times]] = {}
        self._all = (NONE, NONE)

    def of(self, actor: Actor | None) -> Clock:
        """Return the clock of an actor; for None that of all that has no actor."""
        if actor is None:
            return self._nobodys
        clock = self._clocks.get(actor)
        if clock is None:
            clock = self._clocks[actor] = Clock(next(self._next))
        return clock

    def _here(self) -> Clock:
        ident = _thread.get_ident()
        if self._acting and ident in self._acting:
            return self._acting[ident]
        # Away or not: it is this thread that does it.
        return self.of(self._sequencer.actors.get(ident))

    def released(self, subject: object) -> None:
        """Let those hear of this thread's work who acquire *subject*."""
        self.tell(self.number_of(subject), self._here())

    def number_of(self, subject: object) -> int:
        """Return the number of a subject, which keeps it alive only if it must."""
        return self._numbers.of(subject)

    def tell(self, number: int, clock: Clock) -> None:
        """Let those hear of an actor's work who acquire the subject with a number."""
        told = clock.told()
        before = self._told.get(number)
        if before is not None:
            told = joined(before[0], told[0]), joined(before[1], told[1])
        self._told[number] = told

    def acquired(self, subject: object) -> None:
        """Come after those who have released *subject*."""
        self.hear(self.number_of(subject), self._here())

    def hear(self, number: int, clock: Clock) -> None:
        """Let an actor come after those who have released the subject with a number."""
        told = self._told.get(number)
        if told is not None:
            clock.hear(told)

    def woke(self, actor: Actor) -> None:
        """Let an actor hear of this thread's work."""
        self.of(actor).hear(self._here().told())

    def entered(self, actor: Actor, arrival: Arrival | None) -> None:
        """Let a new actor hear of who has announced it; of all, if nobody has."""
        if arrival is not None:
            self.acquired(arrival)
            return
        clock = self.of(actor)
        clock.hear(self._nobodys.told())
        for other in list(self._clocks.values()):
            if other is not clock:
                clock.hear(other.told())
        self.acquired(ENDED)

    def left(self, actor: Actor) -> None:
        """Let those hear of an actor's work who ask for what has ended."""
        self.tell(self.number_of(ENDED), self.of(actor))

    def acts_for(self, subject: object | None) -> None:
        """Let others hear of the work for which this thread acts, and not of its own."""
        ident = _thread.get_ident()
        self._acting.pop(ident, None)
        if subject is not None:
            clock = Clock(next(self._next))
            clock.hear(self._told.get(self._numbers.of(subject), self._all))
            self._acting[ident] = clock
