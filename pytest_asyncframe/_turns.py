"""Who may run: the actors of one test, their turns, parking and waking.

An actor is a thread that works for the test: the test's own, a loop's, one of a pool. It
runs, or it is parked: in a loop's `select`, in a sleep, in a wait; or it is ready, which
means that it has been woken and waits for its turn.

Guarantees: whoever wakes an actor has counted it as running before it can run, so there is
no moment in which everybody seems to stand still although somebody was woken; with
*one_at_a_time* at most one actor runs at any moment, unless that one blocks where nobody
sees it, of which `on_push_in` tells.
Relies on: everything that waits doing so through here; what does not keeps its actor
running. `go_on`, of the sequencer that is built on this, to decide what comes next.
Lock order: `_lock` is innermost, is a raw lock (what `threading` has may be replaced), and
no other code runs under it.
"""

from __future__ import annotations

import _thread
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_asyncframe._activity import activity
from pytest_asyncframe._actors import Actor, Timer, Waiter, raise_error
from pytest_asyncframe._timers import Timers

LOOK_EVERY = 0.05
"""Real seconds after which an actor that is ready looks whether those that run block."""


class Turns(ABC):
    """The actors of one test, and which of them run.

    Args:
        one_at_a_time: Whether only one actor runs at any moment.

    Attributes:
        now: Nanoseconds of virtual time since the test began.
        beats: Counts up whenever anything changes; tells whether something moves.
        on_quiet: Called on a parked actor when nothing has moved for `patience`.
        on_push_in: Called on an actor that goes on beside others, with these: they block,
            outside the clock, though only one is to run at a time.
        patience: Real seconds after which an actor that waits looks around, above 0.
        actors: The actors, by their thread's identifier.
        known: The identifiers of the threads that are or have been actors and have not ended.
        loops: The event loop of each actor that runs one, by the thread's identifier.
        first: The actor that is told of a stall: the test's own.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.now: int = 0
        self.beats: int = 0
        self.on_quiet: Callable[[Actor], BaseException | None] = lambda _: None
        self.on_push_in: Callable[[list[Actor]], object] = lambda _: None
        self.patience: float = 5.0
        self.first: Actor | None = None
        self.actors: dict[int, Actor] = {}
        self.known: set[int] = set()
        self.loops: dict[int, Any] = {}
        self._lock = _thread.allocate_lock()
        self._running = 0
        self._expected = 0
        self._ready: list[Actor] = []
        self._joined: dict[int, _Joined] = {}
        self._timers = Timers()

    @abstractmethod
    def go_on(self) -> None:
        """Let whoever is next go on; called by whoever has just changed something."""

    @abstractmethod
    def _has_returned(self, actor: Actor | None) -> None:
        """Hear, under the lock, that *actor* takes its next step."""

    # -- actors

    @property
    def here(self) -> Actor | None:
        """The actor that the calling thread is; None if it is none, or away."""
        actor = self.actors.get(_thread.get_ident())
        return None if actor is None or actor.away else actor

    def enter(self, name: str, *, expected: bool = False, order: int = 0) -> Actor:
        """Let the calling thread be an actor, or go deeper if it is one.

        Args:
            name: For people.
            expected: Whether it was counted by `expect` before.
            order: See `Actor`.
        """
        ident = _thread.get_ident()
        actor = self.actors.get(ident)
        if actor is not None:
            actor.depth += 1
            if expected:
                with self._lock:
                    self._expected -= 1
            return actor
        actor = Actor(ident, name, 0 if self.one_at_a_time else order)
        with self._lock:
            self.beats += 1
            self._expected -= expected
            if ident in self._joined:
                self._count_joined(self._joined[ident], counted=False)
            self.actors[ident] = actor
            self.known.add(ident)
            wait = self.one_at_a_time and self._running > 0
            if wait:
                self._ready.append(actor)
            else:
                self._running += 1
        if wait:
            self._await_turn(actor)
        return actor

    def leave(self, actor: Actor, *, expected: bool = False) -> None:
        """Undo one `enter` of the calling thread.

        Args:
            actor: The calling thread's.
            expected: Whether to count it by `expect` again.
        """
        actor.depth -= 1
        with self._lock:
            self.beats += 1
            self._expected += expected
            self._has_returned(actor)
            if not actor.depth:
                del self.actors[actor.ident]
                self._running -= 1
                if actor.ident in self._joined:
                    self._count_joined(self._joined[actor.ident], counted=True)
        self.go_on()

    @contextmanager
    def working(self, name: str) -> Iterator[Actor]:
        """Let the calling thread be an actor inside."""
        actor = self.enter(name)
        try:
            yield actor
        finally:
            self.leave(actor)

    @contextmanager
    def away(self, *, counted: bool = False) -> Iterator[None]:
        """Let others go on while the calling thread waits for them for real.

        Args:
            counted: Whether time stands still meanwhile.
        """
        actor = self.here
        if actor is None:
            yield
            return
        with self._lock:
            self._running -= 1
            self._expected += counted
            self._has_returned(actor)
            actor.away = True
        self.go_on()
        try:
            yield
        finally:
            with self._lock:
                self._expected -= counted
                actor.away = False
                wait = self.one_at_a_time and self._running > 0
                if wait:
                    actor.use_gate()
                    self._ready.append(actor)
                else:
                    self._running += 1
            if wait:
                self._await_turn(actor)

    @contextmanager
    def real(self) -> Iterator[None]:
        """Let the calling thread wait for real for what takes no time."""
        actor = self.here
        if actor is None:
            yield
            return
        actor.away = True
        try:
            yield
        finally:
            actor.away = False

    def expect(self, count: int = 1) -> None:
        """Count work that was handed to a thread and is about to begin; below 0 to take back."""
        with self._lock:
            self._expected += count
        if count < 0:
            self.go_on()

    # -- threads that others wait for the end of

    @contextmanager
    def joining(self, ident: int) -> Iterator[None]:
        """Let a thread that ends be counted, inside, while it is no actor."""
        with self._lock:
            joined = self._joined.get(ident)
            if joined is None:
                joined = self._joined[ident] = _Joined()
                self._count_joined(joined, counted=ident not in self.actors)
            joined.joiners += 1
        try:
            yield
        finally:
            with self._lock:
                joined.joiners -= 1
                if not joined.joiners and self._joined.pop(ident, None) is not None:
                    self._count_joined(joined, counted=False)
            self.go_on()

    def has_ended(self, ident: int) -> None:
        """Hear, on a thread that has told those who wait for its end, that it ends."""
        with self._lock:
            self.known.discard(ident)
            joined = self._joined.pop(ident, None)
            if joined is not None:
                self._count_joined(joined, counted=False)
        self.go_on()

    def _count_joined(self, joined: _Joined, *, counted: bool) -> None:
        self._expected += counted - joined.counted
        joined.counted = counted

    # -- parking and waking

    def park(
        self, actor: Actor, until: int | None, waiter: Waiter | None = None, wants: str = ""
    ) -> None:
        """Block the calling thread until it is woken, or until nanosecond *until*."""
        actor.use_gate()
        if not self.try_park(actor, until, waiter, wants):
            return
        self.go_on()
        self._await_turn(actor)

    def try_park(
        self,
        actor: Actor,
        until: int | None,
        waiter: Waiter | None,
        wants: str,
        signalled: Callable[[], bool] | None = None,
    ) -> bool:
        """Count the calling thread as parked; False if it has been woken already.

        The caller then calls `go_on` and blocks until it is kicked.
        """
        with self._lock:
            if waiter is not None and waiter.notified:
                return False
            if signalled is not None and signalled():
                return False
            self.beats += 1
            self._has_returned(actor)
            actor.parked = True
            actor.waiter = waiter
            actor.wants = wants
            if until is not None:
                actor.timer = self._push(until, None, actor)
            self._running -= 1
            return True

    def notify(self, waiter: Waiter, actor: Actor) -> None:
        """Wake *actor*, which is or will be parked with *waiter*.

        Raises:
            RuntimeError: If it was notified before.
        """
        with self._lock:
            if waiter.notified:
                raise RuntimeError("release unlocked lock")
            waiter.notified = True
            if actor.parked and actor.waiter is waiter:
                self._wake(actor)

    def wake(self, actor: Actor | None, otherwise: Callable[[], object] | None = None) -> None:
        """Wake an actor if it is parked by its own right, or else call *otherwise*."""
        with self._lock:
            if actor is not None and actor.parked and actor.waiter is None:
                self._wake(actor)
            elif otherwise is not None:
                otherwise()

    def fail(self, actor: Actor, error: BaseException) -> None:
        """Wake a parked actor with an error that it raises."""
        with self._lock:
            if actor.parked:
                actor.error = error
                self._wake(actor)

    def _wake(self, actor: Actor) -> None:
        self.beats += 1
        actor.parked = False
        timer, actor.timer = actor.timer, None
        if timer is not None:
            timer.cancel()
        if self.one_at_a_time and self._running:
            self._ready.append(actor)
        else:
            self._running += 1
            actor.kick()

    def _await_turn(self, actor: Actor) -> None:
        while not actor.wait_for_kick(self.step_of(actor)):
            self.look_around(actor)
        raise_error(actor)

    def step_of(self, actor: Actor) -> float:
        """Return for how many real seconds to wait before looking around."""
        return self.patience if actor.parked else LOOK_EVERY

    def look_around(self, actor: Actor) -> None:
        """See, on an actor that has waited for real, whether anything moves at all."""
        if not actor.parked:
            self._push_in(actor)
            return
        error = self.on_quiet(actor)
        if error is not None:
            self.fail(actor, error)

    def _push_in(self, actor: Actor) -> None:
        """Let a ready actor go on beside those that block, if they all do."""
        with self._lock:
            if not self._ready or self._ready[0] is not actor:
                return
            others = [
                one
                for one in self.actors.values()
                if not (one.parked or one.away or one in self._ready)
            ]
            if not self._blocked(actor, others):
                return
            del self._ready[0]
            self._running += 1
            actor.kick()
        self.on_push_in(others)

    def _blocked(self, actor: Actor, others: list[Actor]) -> bool:
        """Whether *others* have blocked since *actor*, which is ready, last looked around."""
        seen = (self.beats, [activity(one.native_id) for one in others])
        before, times = actor.looked
        times = times + 1 if seen == before else 0
        actor.looked = (seen, times)
        # Where nobody is seen a thread is about to begin, or a timer is being fired.
        return times * LOOK_EVERY >= (LOOK_EVERY if others else self.patience)

    def _push(
        self,
        when: int,
        fn: Callable[[], object] | None,
        actor: Actor | None,
        order: int | None = None,
    ) -> Timer:
        if order is None:
            # Threads that run beside each other set their timers in no certain order.
            setter = self.actors.get(_thread.get_ident())
            order = 0 if setter is None else setter.order
        return self._timers.push(max(when, self.now), fn, actor, order)


class _Joined:
    """A thread that others wait for the end of.

    Between its last work for the test and its end it is no actor, and yet to wake somebody.
    """

    __slots__ = ("counted", "joiners")

    def __init__(self) -> None:
        self.counted = False
        self.joiners = 0
