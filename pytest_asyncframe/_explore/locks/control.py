"""How the actors of a run wait for modelled locks.

Relies on: `Turns.block` and `Points.point`; the frames of threads, to say where each waits.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from pytest_asyncframe._explore.locks.making import stand_ins
from pytest_asyncframe._explore.locks.model import Modelled, current
from pytest_asyncframe._locations import where_is
from pytest_asyncframe._turns.actors import Actor, TestEndedError
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._clock import nanoseconds

_SPINS = 100
"""How often an actor may try in vain to take a lock before some time passes."""

_SPIN_NS = 1_000_000
"""The virtual time that passes then, in nanoseconds."""


@contextmanager
def controlled(
    sequencer: Sequencer, note: Callable[[str], object], *, points: bool
) -> Iterator[None]:
    """Let the locks of a run be modelled, and its actors wait for them, inside the block.

    After it, the actors that are left wait as before, but there are no more points.

    Args:
        sequencer: The run's sequencer.
        note: See `RunControl`.
        points: See `RunControl`.
    """
    control = current.control = RunControl(sequencer, note, points=points)
    with nullcontext() if current.makes else stand_ins():
        try:
            yield
        finally:
            control.points = False


class RunControl:
    """Lets the actors of a run wait for modelled locks.

    Args:
        sequencer: The run's sequencer.
        note: Called with a text for the timeline when actors wait for each other, which a
            time limit may end before nothing else can happen.
        points: Whether others may run before a lock is taken and after it is released.

    Attributes:
        points: See above.
    """

    # Why there are points on both sides: before it is taken, others may take it first, which
    # finds deadlocks. After it is released, others may run before what should have been done
    # while it was held. Inside of it, whoever uses the lock could not run anyway.

    def __init__(
        self, sequencer: Sequencer, note: Callable[[str], object], *, points: bool
    ) -> None:
        self._sequencer = sequencer
        self._note = note
        self.points: bool = points
        self._waits: dict[Actor, LockWait] = {}
        self._endless: dict[Actor, LockWait] = {}  # those without a timeout
        # What each actor has tried to take in vain, without waiting, and how often in a row.
        self._vain: dict[Actor, tuple[Modelled, int]] = {}

    def actor(self) -> Actor | None:
        """Return the actor of the calling thread; None if it waits in real time."""
        return self._sequencer.here

    def take(self, lock: Modelled, actor: Actor, timeout: float) -> bool:
        """Take a lock on an actor; see `Control`."""
        if lock.origin.has_points:
            # Others may notice it, also where it is no point.
            actor.was_seen = True
            # Who has to wait lets others run anyway.
            if self.points and (lock.holder is None or timeout >= 0):
                self._sequencer.point("lock", lock.origin.acquire)
        if lock.real.acquire(False):
            if self._vain:
                self._vain.pop(actor, None)
            return True
        if not timeout:
            return self._tried_in_vain(lock, actor)
        until = None if timeout < 0 else self._sequencer.now + nanoseconds(timeout)
        while self._wait(lock, actor, until):
            if lock.real.acquire(False):
                return True
        return False

    def _wait(self, lock: Modelled, actor: Actor, until: int | None) -> bool:
        """Wait until a lock is free; False once nanosecond *until* has come."""
        wait = self._waits[actor] = LockWait(self._sequencer, lock, actor)
        if until is None:
            self._endless[actor] = wait
            self._tell_circle(actor)
        try:
            return self._sequencer.block(actor, lock.is_free, until, wait)
        finally:
            self._waits.pop(actor, None)
            self._endless.pop(actor, None)

    def _tell_circle(self, actor: Actor) -> None:
        """Note it if *actor* waits for others that wait for it."""
        circle: dict[Actor, LockWait] = {}
        holder: object = actor
        while isinstance(holder, Actor) and holder not in circle and holder in self._endless:
            circle[holder] = self._endless[holder]
            holder = circle[holder].lock.holder
        # Of one alone: another one may release what it holds.
        if holder is actor and len(circle) > 1:
            waits = (f"{one.identity} waits {wait}" for one, wait in circle.items())
            self._note(f"deadlock: {'; '.join(waits)}")

    def _tried_in_vain(self, lock: Modelled, actor: Actor) -> bool:
        """Let some time pass for an actor that does nothing but try; return False."""
        before, times = self._vain.get(actor, (lock, 0))
        times = times + 1 if before is lock else 1
        self._vain[actor] = lock, times % _SPINS
        if times == _SPINS:
            self._wait(lock, actor, self._sequencer.now + _SPIN_NS)
        return False

    def await_free(self, lock: Modelled, actor: Actor) -> None:
        """Wait on an actor until a lock is free; see `Control`."""
        while not lock.is_free():
            ended = sys.exception()
            if isinstance(ended, TestEndedError):
                # Who holds it may have ended long ago.
                raise ended
            self._wait(lock, actor, None)

    def released(self, lock: Modelled) -> None:
        """Let others run after the calling thread has released a lock."""
        actor = self.actor()
        if actor is None:
            # Only actors see to it that the next one runs.
            if self._waits:
                self._sequencer.dispatch()
        elif lock.origin.has_points:
            actor.was_seen = True
            if self.points:
                self._sequencer.point("lock", lock.origin.released)


class LockWait:
    """The lock that an actor waits for, and its holder; for messages.

    Args:
        sequencer: The run's sequencer.
        lock: The lock.
        actor: The actor that waits.

    Attributes:
        lock: See above.
    """

    def __init__(self, sequencer: Sequencer, lock: Modelled, actor: Actor) -> None:
        self._sequencer = sequencer
        self.lock: Modelled = lock
        self._actor = actor

    def __str__(self) -> str:
        """Return ``for app.lock, made at app.py:3, held by ...``, as it is now."""
        return f"for {self.lock.origin}, {self._holder()}"

    def _holder(self) -> str:
        holder, actors = self.lock.holder, self._sequencer.actors
        if holder is None:
            return "held by code that is not controlled"
        ident = holder if isinstance(holder, int) else holder.ident
        actor = actors.get(ident)
        if isinstance(holder, Actor) and actor is not holder:
            return f"held by {holder.identity}, which has ended"
        if actor is self._actor:
            # A coroutine that waits does not let go of what its thread has.
            elsewhere = ", maybe in another coroutine of its event loop"
            return "held by itself" + (elsewhere if self._actor.loop is not None else "")
        location = where_is(sys._current_frames(), ident)
        if actor is not None:
            return f"held by {actor.identity}, which waits at {location}"
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # no dead ones
        if thread is None:
            return "held by a thread that has ended"
        return f"held by {thread.name}, which is at {location}"
