"""The threads of a run: one runs at a time, and a chooser says which."""

from __future__ import annotations

from collections.abc import Callable

from pytest_asyncframe._turns.actors import Actor, TestEndedError
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe._turns.sequencer import Sequencer

_MANY = 211
"""After so many points in a row a thread lets another one run: it may spin until that has.

A prime number, so that a thread which spins does not stop at the same place each time, perhaps
with the lock that the other one needs.
"""


class Turns:
    """Lets the threads of a run wait for each other, and for virtual time.

    Args:
        chooser: Decides who runs where several threads could.

    Attributes:
        sequencer: Gives the turns.
        over: Whether the run has ended: whoever still waits is woken with `TestEndedError`.
        stuck: Who waited for what when nobody could run any more; "" if that never happened.
        blocked: Who blocked in a way that is not modelled, such as a real lock; "" for nobody.
    """

    def __init__(self, chooser: Chooser) -> None:
        self.sequencer = Sequencer(moves=True, one_at_a_time=True, chooser=chooser)
        self.sequencer.on_stall = self._stall
        self.sequencer.watchdog.on_overtake = self._note_blocked
        self.over = False
        self.stuck = ""
        self.blocked = ""
        self._latest: Actor | None = None
        self._in_a_row = 0

    @property
    def now(self) -> int:
        """Nanoseconds of virtual time since the run began."""
        return self.sequencer.now

    @property
    def here(self) -> Actor | None:
        """The actor of the calling thread; None if it does not belong to the run."""
        return self.sequencer.here

    def enter_first(self) -> Actor:
        """Make the calling thread the first actor, which stops at no points."""
        actor = self.sequencer.first = self.sequencer.enter(name="test")
        return actor

    def point(self, kind: str, what: str) -> None:
        """Let another thread run here, if the chooser says so."""
        sequencer = self.sequencer
        actor = sequencer.here
        if actor is None or actor is sequencer.first:
            return
        if self.over:
            raise TestEndedError
        if actor is not self._latest:
            self._latest, self._in_a_row = actor, 0
        self._in_a_row += 1
        if self._in_a_row % _MANY == 0:
            sequencer.yield_turn(actor)
        else:
            sequencer.point(kind, what)

    def block(self, actor: Actor, free: Callable[[], bool], until: int | None, wants: str) -> bool:
        """Wait until *free* is true, or nanosecond *until* has come; see `Turns.block`."""
        return self.sequencer.block(actor, free, until, wants)

    def hurry(self) -> None:
        """Move time to the next moment for which somebody waits, though others could run."""
        first = self.sequencer._timers.first
        if first is not None:
            self.sequencer.now = max(self.sequencer.now, first)

    def _stall(self) -> BaseException:
        waits = [it for it in self.sequencer.actors.values() if it.is_stopped]
        self.stuck = "; ".join(f"{it.identity} waits for {it.wants}" for it in waits)
        self.over = True
        return TestEndedError()

    def _note_blocked(self, actors: list[Actor]) -> None:
        self.blocked = ", ".join(actor.identity for actor in actors)

    def end(self) -> None:
        """Wake whoever still waits."""
        self.over = True
        self.sequencer.end_waits()
