"""Who may run: the actors of one test, their turns, parking and waking.

An actor is a thread that works for the test: the test's own, a loop's, one of a pool. It
runs, or it is parked: in a loop's `select`, in a sleep, in a wait; or it is ready, which
means that it has been woken, or has come, and waits for its turn.

Guarantees: whoever wakes an actor has counted it as running before it can run, so there is
no moment in which everybody seems to stand still although somebody was woken; with
*one_at_a_time* at most one actor runs at any moment, unless that one blocks where nobody
sees it, of which `on_overtake` tells; nobody gets a turn while one that was announced has
not come, and those that are ready are in the order in which they were woken or announced,
so that the system's order of threads does not matter.
Relies on: everything that waits doing so through here; what does not keeps its actor
running. `dispatch`, of the sequencer that is built on this, to decide what comes next.
Lock order: `_lock` is innermost, is a raw lock (what `threading` has may be replaced), and
no other code runs under it.
"""

from __future__ import annotations

import _thread
import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_asyncframe._turns.activity import activity
from pytest_asyncframe._turns.actors import Actor, Arrival, Timer, Waiter, raise_error
from pytest_asyncframe._turns.timers import Timers

POLL_INTERVAL = 0.05
"""Real seconds after which an actor that is ready looks whether those that run block."""


class Turns(ABC):
    """The actors of one test, and which of them run.

    Args:
        one_at_a_time: Whether only one actor runs at any moment.

    Attributes:
        now: Nanoseconds of virtual time since the test began.
        beats: Counts up whenever anything changes; tells whether something moves.
        on_quiet: Called on a parked actor when nothing has moved for `patience`.
        on_overtake: Called on an actor that goes on beside others, with these: they block,
            outside the clock, though only one is to run at a time.
        patience: Real seconds after which an actor that waits looks around, above 0.
        actors: The actors, by their thread's identifier.
        known: The identifiers of the threads that are or have been actors and have not ended.
        loops: The event loop of each actor that runs one, by the thread's identifier.
        first: The actor that is told of a stall: the test's own.
        elsewhere: How many calls other processes work on: time stands still meanwhile, and
            turns are taken.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.now: int = 0
        self.beats: int = 0
        self.on_quiet: Callable[[Actor], BaseException | None] = lambda _: None
        self.on_overtake: Callable[[list[Actor]], object] = lambda _: None
        self.patience: float = 5.0
        self.forget()
        self._pollers: set[int] = set()
        self._numbers = itertools.count(1)
        self._timers = Timers()

    def forget(self) -> None:
        """Begin with nobody, as in a forked child: none of the actors' threads is there."""
        self.first: Actor | None = None
        self.actors: dict[int, Actor] = {}
        self.known: set[int] = set()
        self.loops: dict[int, Any] = {}
        self._lock = _thread.allocate_lock()
        self._running = 0
        # How many are certain to come soon: those announced, or counted while away, and
        # threads that end. Nobody takes a turn before.
        self._coming = 0
        self.elsewhere: int = 0
        self._ready: list[Actor] = []
        self._returned: list[Actor] = []
        self._owing: dict[int, Actor] = {}
        self._joined: dict[int, _Joined] = {}

    @abstractmethod
    def dispatch(self) -> None:
        """Let whoever is next go on; called by whoever has just changed something."""

    @abstractmethod
    def _on_next_step(self, actor: Actor | None) -> None:
        """Hear, under the lock, that *actor* takes its next step."""

    # -- actors

    @property
    def here(self) -> Actor | None:
        """The actor that the calling thread is; None if it is none, or away."""
        actor = self.actors.get(_thread.get_ident())
        return None if actor is None or actor.away else actor

    def expect(self, *, with_turn: bool = False) -> Arrival:
        """Announce a thread that was handed work and is about to begin.

        Args:
            with_turn: Whether it takes a turn that is given now, before all others.
        """
        with self._lock:
            return self._announce(with_turn=with_turn)

    def _announce(self, *, with_turn: bool) -> Arrival:
        self._running += with_turn
        self._coming += not with_turn
        return Arrival(next(self._numbers), with_turn)

    def give_up(self, arrival: Arrival | None) -> None:
        """Expect a thread no more; harmless if it has come, or for None."""
        if arrival is not None and arrival.is_open:
            with self._lock:
                self._close(arrival)
            self.dispatch()

    def _close(self, arrival: Arrival | None) -> bool:
        """Count an arrival no more; return whether it was still expected."""
        if arrival is None or not arrival.is_open:
            return False
        arrival.is_open = False
        self._running -= arrival.has_turn
        self._coming -= not arrival.has_turn
        return True

    def enter(self, name: str, arrival: Arrival | None = None, *, order: int = 0) -> Actor:
        """Let the calling thread be an actor, or go deeper if it is one.

        Args:
            name: For people.
            arrival: As which it was announced; None if it was not.
            order: See `Actor`.
        """
        ident = _thread.get_ident()
        actor = self.actors.get(ident)
        if actor is not None:
            actor.depth += 1
            self.give_up(arrival)
            return actor
        actor = Actor(ident, name, 0 if self.one_at_a_time else order)
        with self._lock:
            self.beats += 1
            came = arrival if self._close(arrival) else None
            if ident in self._joined:
                self._count_joined(self._joined[ident], counted=False)
            self.actors[ident] = actor
            self.known.add(ident)
            has_turn = self._enters_at_once(came)
            if has_turn:
                self._running += 1
            else:
                self._make_ready(actor, None if came is None else came.number)
        if not has_turn:
            self.dispatch()
            self._await_turn(actor)
        return actor

    def _enters_at_once(self, came: Arrival | None) -> bool:
        if not self.one_at_a_time or (came is not None and came.has_turn):
            return True
        # One that was announced is always chosen among all that were.
        return came is None and self._is_free

    @property
    def _is_free(self) -> bool:
        """Whether nobody has a turn, or could have the next one."""
        return not (self._running or self._coming or self._ready or self._returned)

    def leave(self, actor: Actor) -> None:
        """Undo one `enter` of the calling thread."""
        actor.depth -= 1
        with self._lock:
            self._on_next_step(actor)
            if not actor.depth:
                self._remove(actor)
        self.dispatch()

    def leave_after_wake(self, actor: Actor) -> None:
        """Undo one `enter` of the calling thread once it has woken a loop, which it does next."""
        if actor.depth > 1:
            self.leave(actor)
            return
        with self._lock:
            self._owing[actor.ident] = actor

    def _remove(self, actor: Actor) -> None:
        self.beats += 1
        del self.actors[actor.ident]
        self._running -= 1
        if actor.ident in self._joined:
            self._count_joined(self._joined[actor.ident], counted=True)

    @contextmanager
    def working(self, name: str, arrival: Arrival | None = None) -> Iterator[Actor]:
        """Let the calling thread be an actor inside; see `enter`."""
        actor = self.enter(name, arrival)
        try:
            yield actor
        finally:
            self.leave(actor)

    @contextmanager
    def away(self, *, counted: bool = False) -> Iterator[None]:
        """Let others go on while the calling thread waits for them for real.

        Args:
            counted: Whether it is certain to be back soon: time stands still meanwhile,
                and nobody but those with an `Arrival` takes a turn before.
        """
        actor = self.here
        if actor is None:
            yield
            return
        with self._lock:
            self._running -= 1
            self._coming += counted
            self._on_next_step(actor)
            actor.away = True
        self.dispatch()
        try:
            yield
        finally:
            self._come_back(actor, counted=counted)

    def _come_back(self, actor: Actor, *, counted: bool) -> None:
        with self._lock:
            self._coming -= counted
            actor.away = False
            has_turn = not self.one_at_a_time or self._is_free or (counted and not self._running)
            if has_turn:
                self._running += 1
            elif counted:
                actor.use_gate()
                self._returned.append(actor)
            else:
                actor.use_gate()
                self._make_ready(actor)
        if not has_turn:
            self.dispatch()
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

    def count_elsewhere(self, more: int) -> None:
        """Count work that other processes do; below 0 for work that has ended."""
        with self._lock:
            self.beats += 1
            self.elsewhere += more
        if more < 0:
            self.dispatch()

    # -- threads that others wait for the end of

    @contextmanager
    def joining(self, ident: int, actor: Actor) -> Iterator[None]:
        """Let *actor* wait, inside, for the end of a thread, which is counted once it comes."""
        with self._lock:
            joined = self._joined.get(ident)
            if joined is None:
                joined = self._joined[ident] = _Joined()
                self._count_joined(joined, counted=ident not in self.actors)
            joined.joiners.append(actor)
            actor.reserved = joined.number
        try:
            yield
        finally:
            with self._lock:
                actor.reserved = None
                joined.joiners.remove(actor)
                if not joined.joiners and self._joined.pop(ident, None) is not None:
                    self._count_joined(joined, counted=False)
            self.dispatch()

    def has_ended(self, ident: int) -> None:
        """Hear, on a thread that has told those who wait for its end, that it ends."""
        with self._lock:
            self.known.discard(ident)
            owing = self._owing.pop(ident, None)
            if owing is not None:
                self._remove(owing)
            joined = self._joined.pop(ident, None)
            if joined is not None:
                self._count_joined(joined, counted=False)
        self.dispatch()

    def _count_joined(self, joined: _Joined, *, counted: bool) -> None:
        self._coming += counted - joined.counted
        joined.counted = counted
        joined.number = next(self._numbers) if counted else None
        for actor in joined.joiners:
            if actor.parked:
                actor.reserved = joined.number

    # -- parking and waking

    def park(
        self, actor: Actor, until: int | None, waiter: Waiter | None = None, wants: str = ""
    ) -> None:
        """Block the calling thread until it is woken, or until nanosecond *until*."""
        actor.use_gate()
        if not self.try_park(actor, until, waiter, wants):
            return
        self.dispatch()
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

        The caller then calls `dispatch` and blocks until it is kicked.
        """
        with self._lock:
            if waiter is not None and waiter.notified:
                return False
            if signalled is not None and signalled():
                return False
            self.beats += 1
            self._on_next_step(actor)
            actor.parked = True
            actor.waiter = waiter
            actor.listens = signalled is not None
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
            self._pollers.discard(_thread.get_ident())
            if actor.parked and actor.waiter is waiter:
                self._wake(actor)

    def wake(self, actor: Actor | None, otherwise: Callable[[], object] | None = None) -> None:
        """Wake an actor if it is parked in its event loop, or else call *otherwise*."""
        with self._lock:
            if actor is not None and actor.parked and actor.listens:
                self._wake(actor)
            elif otherwise is not None:
                otherwise()
            self._pollers.discard(_thread.get_ident())
            owing = self._owing.pop(_thread.get_ident(), None) if self._owing else None
            if owing is not None:
                self._remove(owing)
        if owing is not None:
            self.dispatch()

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
        if self.one_at_a_time and not self._is_free:
            self._make_ready(actor, actor.reserved)
        else:
            self._running += 1
            actor.kick()

    def _make_ready(self, actor: Actor, number: int | None = None) -> None:
        """Let *actor* wait for its turn, at its place."""
        actor.number = next(self._numbers) if number is None else number
        bisect.insort(self._ready, actor, key=lambda one: one.number)

    def _await_turn(self, actor: Actor) -> None:
        while not actor.wait_for_kick(step := self.poll_interval(actor)):
            self.check_progress(actor, step)
        raise_error(actor)

    def poll_interval(self, actor: Actor) -> float:
        """Return for how many real seconds to wait before looking around."""
        return self.patience if actor.parked else POLL_INTERVAL

    def check_progress(self, actor: Actor, waited: float) -> None:
        """See, on an actor that has waited for real, whether anything moves at all.

        Args:
            actor: The calling thread's.
            waited: For how many real seconds: the `poll_interval` before the wait, since what is
                there outside, and with it the step, may have changed meanwhile.
        """
        if not actor.parked:
            self._overtake(actor)
            return
        error = self.on_quiet(actor)
        if error is not None:
            self.fail(actor, error)

    def _overtake(self, actor: Actor) -> None:
        """Let a ready actor go on beside those that block, if they all do."""
        with self._lock:
            waiting = [*self._returned, *self._ready]
            if not waiting or waiting[0] is not actor:
                return
            others = [
                one
                for one in self.actors.values()
                if not (one.parked or one.away or one in waiting)
            ]
            if not self._blocked(actor, others):
                return
            del (self._returned or self._ready)[0]
            self._running += 1
            actor.kick()
        self.on_overtake(others)

    def _blocked(self, actor: Actor, others: list[Actor]) -> bool:
        """Whether *others* have blocked since *actor*, which is ready, last looked around."""
        seen = (self.beats, [activity(one.native_id) for one in others])
        before, times = actor.looked
        times = times + 1 if seen == before else 0
        actor.looked = (seen, times)
        # Where nobody is seen a thread is about to begin, or a timer is being fired.
        return times * POLL_INTERVAL >= (POLL_INTERVAL if others else self.patience)

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

    Between its last work for the test and its end it is no actor, and yet to wake somebody:
    those get the place that they would have if it was woken by its last work.
    """

    __slots__ = ("counted", "joiners", "number")

    def __init__(self) -> None:
        self.counted = False
        self.joiners: list[Actor] = []
        self.number: int | None = None
