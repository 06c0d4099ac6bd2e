"""What becomes of the threads of a test that has ended, or whose process has died.

Guarantees: no thread of a dead process gets a turn again, nor does one that was announced and is
only starting. Nothing wakes it, and time does not wait for it.
Relies on: `turns`, through whose `_stop` each wait goes. Where a process dies, one actor runs at a
time, which is the one that lets it die.
"""

from __future__ import annotations

from collections.abc import Collection
from threading import Thread

from pytest_asyncframe._turns.actors import Actor, Arrival, TestEndedError, halt
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe._turns.points import Points


class Endings(Points):
    """The actors of one test, whose waits end with it, and all but one of which may die before.

    Args:
        one_at_a_time: Whether only one actor runs at a time.
        starts: Whether queued calls start by themselves.
        chooser: Decides what comes next.

    Attributes:
        firing: Identifiers of the threads that are running a timer's callback.
    """

    def __init__(self, *, one_at_a_time: bool, starts: bool, chooser: Chooser | None) -> None:
        super().__init__(one_at_a_time=one_at_a_time, starts=starts, chooser=chooser)
        self.firing: set[int] = set()
        # Actors that wait until nobody else runs, and whether also for what is outside.
        self._watchers: list[tuple[Actor, bool]] = []
        self._has_waits = True

    def enter(
        self, arrival: Arrival | None = None, *, name: str | None = None, order: int = 0
    ) -> Actor:
        """Make the calling thread an actor; see `Turns.enter`. It stops if its process is dead."""
        if arrival is not None and arrival.life != self._roster.life:
            halt()
        return super().enter(arrival, name=name, order=order)

    def leave(self, actor: Actor) -> None:
        """Undo one `enter` of the calling thread; see `Turns.leave`."""
        if not actor.is_gone:
            super().leave(actor)

    def _run_unbidden(self, actor: Actor) -> None:
        if not actor.is_gone:
            super()._run_unbidden(actor)

    def kill(self, threads: Collection[Thread], heir: str) -> Arrival:
        """Let all actors but `first` stop for ever, as the threads of a process that is killed.

        Nothing that they have queued or set a timer for happens any more. The caller is `first`, or
        one of the others; that one calls `dispatch` and `halt` next.

        Args:
            threads: All threads of that process, also those that are no actors.
            heir: The name of a thread that begins next, before all others go on.

        Returns:
            Its announcement.
        """
        with self._lock:
            gone = [one for one in self.actors.values() if one is not self.first]
            self._roster.bury(gone, self.first)
            for one in gone:
                del self.actors[one.ident]
            for timer in self._timers.live():
                if timer.actor is None and timer.setter is not self.first:
                    timer.cancel()
            self._watchers = [one for one in self._watchers if one[0] is self.first]
            self.queue.clear()
            self._admitted.clear()
            self._owing.clear()
            self._admitter = self._at_point = None
            self.firing.clear()
            self.outside.bury(threads)
            # With the lock still held, or nothing would be left that could go on.
            return self._roster.announce(self._roster.new_identity(heir), with_turn=False)

    def end_waits(self) -> None:
        """Raise `TestEndedError` in every actor that waits, or is about to from now on.

        All but `first`, which ends the test. Who is ready now would otherwise wait for ever,
        at its next wait, for what nobody does any more.
        """
        with self._lock:
            self._has_waits = False
            for actor in self.actors.values():
                if actor is not self.first:
                    self._throw(actor, TestEndedError())
        self.dispatch()

    def _stop(self, actor: Actor, until: int | None, wants: object) -> None:
        if not self._has_waits and actor is not self.first:
            actor.refuse_wait()
        super()._stop(actor, until, wants)
