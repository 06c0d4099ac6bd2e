"""The counts that decide who gets a turn: who runs, who is about to run, who is ready.

Guarantees:
    A joined thread that has left counts as coming until it has woken its joiners, and they
    have a number from then on, so that it does not matter how long it takes to end.
    No two actors or queued calls of a test have the same identity.
Relies on: the lock of `Turns`, which its callers hold. Nothing here takes a lock or calls
    other code, but for `Actor.free`.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Collection

from pytest_asyncframe._turns.actors import Actor, Arrival, State


class Roster:
    """The actors of a test that may run next, and how many run or will.

    Attributes:
        running: How many run, and how many turns were given in advance.
        coming: How many threads will be running soon: announced, or joined and about to end.
            No turn is given before they are there.
        elsewhere: How many calls run in other processes. Time stands still meanwhile.
        beats: A counter that changes whenever anything happens.
        ready: The ready actors, in the order of their numbers.
        life: How many processes of the test were killed.
    """

    def __init__(self) -> None:
        self.life: int = 0
        self.running: int = 0
        self.coming: int = 0
        self.elsewhere: int = 0
        self.beats: int = 0
        self.ready: list[Actor] = []
        self._numbers = itertools.count(1)
        self._named: Counter[str] = Counter()
        self._joined: dict[int, _Joined] = {}

    @property
    def is_free(self) -> bool:
        """Whether nobody runs, and nobody waits for the next turn."""
        if self.running or self.coming:
            return False
        return not self.ready or self.first_ready is None

    def new_identity(self, name: str) -> str:
        """Return a name that no other actor or queued call of the test has."""
        short = name.rpartition(".")[2]
        self._named[short] += 1
        return f"{short}#{self._named[short]}"

    def announce(self, identity: str, *, with_turn: bool) -> Arrival:
        """Expect a thread, which is given a turn now or has to wait for one."""
        self.running += with_turn
        self.coming += not with_turn
        return Arrival(next(self._numbers), with_turn, identity, self.life)

    def close(self, arrival: Arrival | None) -> bool:
        """Stop counting an arrival; return whether it was still expected."""
        if arrival is None or not arrival.is_open or arrival.life != self.life:
            return False
        arrival.is_open = False
        self.running -= arrival.has_turn
        self.coming -= not arrival.has_turn
        return True

    def make_ready(self, actor: Actor, number: int | None = None) -> None:
        """Queue *actor* for a turn, in the order of *number*; None for behind all others."""
        if actor.is_gone:
            return
        actor.state = State.READY
        actor.number = next(self._numbers) if number is None else number
        bisect.insort(self.ready, actor, key=lambda one: one.number)

    @property
    def first_ready(self) -> Actor | None:
        """Whoever has the next turn of those who can go on; None if nobody can."""
        return next((one for one in self.ready if one.can_go_on), None)

    def wake(self, actor: Actor, *, in_turn: bool) -> None:
        """Wake a stopped actor, which has to wait for others if turns are given *in_turn*."""
        if actor.is_gone:
            return
        self.beats += 1
        actor.drop_timer()
        if actor.state is not State.PARKED:
            # It is ready, and no longer waits to be free.
            actor.free, actor.in_time = None, False
            return
        waiter = actor.waiter
        if waiter is not None:
            waiter.late = not waiter.notified
        if in_turn and not self.is_free:
            self.make_ready(actor, actor.reserved)
        else:
            self.give_turn(actor)

    def give_turn(self, actor: Actor) -> None:
        """Let an actor that is parked or ready run."""
        # Counted before it can run, so that the test never looks idle in between.
        self.take_turn(actor)
        actor.kick()

    def take_turn(self, actor: Actor) -> None:
        """Count an actor that is parked or ready as running, which waits for nothing now."""
        if actor.free is not None:
            actor.free = None
            actor.drop_timer()
        if actor.state is State.READY:
            self.ready.remove(actor)
        actor.state = State.RUNNING
        self.running += 1

    def bury(self, gone: Collection[Actor], left: Actor | None) -> None:
        """Count only *left* from now on, and nobody who was announced: their process is dead."""
        self.beats += 1
        self.life += 1
        for actor in gone:
            actor.is_gone = True
            actor.drop_timer()
        is_running = left is not None and left.state is State.RUNNING and not left.away
        self.running = int(is_running)
        self.ready = [one for one in self.ready if not one.is_gone]
        self.coming = self.elsewhere = 0
        self._joined.clear()

    # -- joined threads

    def join(self, ident: int, actor: Actor, *, works: bool) -> None:
        """Let *actor* wait for a thread to end.

        Args:
            ident: The thread's identifier.
            actor: The one that waits.
            works: Whether the thread is an actor. Another one has done its work.
        """
        joined = self._joined.get(ident)
        if joined is None:
            joined = self._joined[ident] = _Joined()
            self._count(joined, is_ending=not works)
        joined.joiners.append(actor)
        actor.reserved = joined.number

    def stop_joining(self, ident: int, actor: Actor) -> None:
        """Let *actor* wait for that thread no more."""
        actor.reserved = None
        joined = self._joined.get(ident)
        if joined is not None and actor in joined.joiners:
            joined.joiners.remove(actor)
            if not joined.joiners:
                self.has_ended(ident)

    def begins(self, ident: int) -> None:
        """Take note that a thread works again, so that it is not about to end."""
        if ident in self._joined:
            self._count(self._joined[ident], is_ending=False)

    def stops(self, ident: int) -> None:
        """Take note that a thread, which runs, has done its work."""
        self.beats += 1
        self.running -= 1
        if ident in self._joined:
            self._count(self._joined[ident], is_ending=True)

    def has_ended(self, ident: int) -> None:
        """Take note that a thread has ended, after its joiners were told."""
        joined = self._joined.pop(ident, None)
        if joined is not None:
            self._count(joined, is_ending=False)

    def _count(self, joined: _Joined, *, is_ending: bool) -> None:
        self.coming += is_ending - joined.is_ending
        joined.is_ending = is_ending
        joined.number = next(self._numbers) if is_ending else None
        for actor in joined.joiners:
            if actor.state is State.PARKED:
                actor.reserved = joined.number


class _Joined:
    """A thread that other actors join.

    Attributes:
        is_ending: Whether it is counted as coming: it has left, and will wake its joiners.
        joiners: The actors that wait for it to end.
        number: The number that joiners get when they are woken, taken when the thread left.
    """

    def __init__(self) -> None:
        self.is_ending = False
        self.joiners: list[Actor] = []
        self.number: int | None = None
