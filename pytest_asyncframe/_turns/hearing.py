"""Who hears what puts the work of one actor before that of another.

Relies on: `turns`, where one actor announces, wakes and waits for another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_asyncframe._turns.actors import Actor, Arrival, Waiter
from pytest_asyncframe._turns.turns import Turns

ENDED = "what has ended"
"""The subject that each actor releases when it ends."""


class Listener(Protocol):
    """Hears what puts the work of one actor before that of another.

    Called on the thread that does it, maybe with the sequencer's lock held, so it takes no lock.
    A subject is anything by which actors meet: a lock, a queue, a thread, the announcement of one.
    """

    def released(self, subject: object) -> None:
        """Put what this thread has done before what follows where *subject* is acquired."""

    def acquired(self, subject: object) -> None:
        """Put what was done where *subject* was released before what follows here."""

    def woke(self, actor: Actor) -> None:
        """Put what this thread has done before what *actor* does from now on."""

    def entered(self, actor: Actor, arrival: Arrival | None) -> None:
        """Take note of a new actor on this thread; None if nobody has announced it."""

    def left(self, actor: Actor) -> None:
        """Take note that an actor has done its work."""

    def acts_for(self, subject: object | None) -> None:
        """Let this thread act for who has released *subject*; None for itself again."""


class Listeners(list[Listener]):
    """Those who listen; nobody, unless a test asks for it. See `Listener` for the methods."""

    def released(self, subject: object) -> None:
        """Tell all."""
        for one in self:
            one.released(subject)

    def acquired(self, subject: object) -> None:
        """Tell all."""
        for one in self:
            one.acquired(subject)

    def woke(self, actor: Actor) -> None:
        """Tell all."""
        for one in self:
            one.woke(actor)

    def acts_for(self, subject: object | None) -> None:
        """Tell all."""
        for one in self:
            one.acts_for(subject)


class HeardTurns(Turns):
    """The actors of one test, which others may listen to.

    Args:
        one_at_a_time: Whether only one actor runs at a time.

    Attributes:
        listeners: Who listens.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        super().__init__(one_at_a_time=one_at_a_time)
        self.listeners: Listeners = Listeners()

    def end(self) -> None:
        """Stop calling functions of the test."""
        super().end()
        self.listeners.clear()

    def expect(self, name: str) -> Arrival:
        """Announce a thread; see `Turns.expect`."""
        arrival = super().expect(name)
        self.listeners.released(arrival)
        return arrival

    def enter(
        self, arrival: Arrival | None = None, *, name: str | None = None, order: int = 0
    ) -> Actor:
        """Make the calling thread an actor; see `Turns.enter`."""
        actor = super().enter(arrival, name=name, order=order)
        for one in self.listeners:
            if actor.depth == 1:
                one.entered(actor, arrival)
            elif arrival is not None:
                one.acquired(arrival)
        return actor

    def _take_off(self, actor: Actor) -> None:
        for one in self.listeners:
            one.left(actor)
        super()._take_off(actor)

    def notify(self, waiter: Waiter, actor: Actor) -> None:
        """Wake an actor that waits for a condition; see `Turns.notify`."""
        self.listeners.woke(actor)
        super().notify(waiter, actor)

    def wake(self, actor: Actor | None, otherwise: Callable[[], object] | None = None) -> None:
        """Wake an actor that is parked in its event loop; see `Turns.wake`."""
        if actor is not None:
            self.listeners.woke(actor)
        super().wake(actor, otherwise)
