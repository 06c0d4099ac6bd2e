"""Which threads of a test may run: actors, their turns, parking and waking.

An actor is a thread that works for the test: the test's own, an event loop's, or one of a
pool. It is in one of three states:

- running;
- parked, in the `select` of an event loop, in a sleep or in a wait;
- ready: it has been woken or has just started, and waits for its turn. It gets none while it
  is not free to go on, as at a lock that another actor holds.

Guarantees:
    An actor is counted as running before it is woken, so the test never looks idle while
    an actor is on its way.
    With *one_at_a_time* one actor runs at a time. Only if it blocks outside the clock does
    another one run beside it; then `on_overtake` is called.
    No actor gets a turn while an announced thread has not started. Ready actors run in the
    order in which they were woken or announced, whatever the operating system does.
Relies on:
    Every wait goes through this module. An actor that waits elsewhere counts as running.
    `dispatch` of the subclass decides what runs next. It is called, without the lock, after
    every change that may leave nobody running.
Lock order:
    `_lock` is the innermost lock. What is called with it held takes no lock: `Actor.kick`,
    `Actor.has_work`, `Actor.free`, and the flags of a loop's selector. It is a raw lock, since
    the plugin replaces the waits of `threading` by ones that come back here. What the garbage
    collector runs on the thread that holds it, in the middle of anything, wakes a loop later.
"""

from __future__ import annotations

import _thread
import bisect
import itertools
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pytest_asyncframe._turns.activity import activity
from pytest_asyncframe._turns.actors import (
    Actor,
    Arrival,
    Joined,
    Timer,
    Waiter,
    nothing,
    raise_error,
)
from pytest_asyncframe._turns.timers import Timers

POLL_INTERVAL = 0.05
"""Real seconds after which a ready actor checks whether the running ones block."""


class _InnermostLock(_thread.RLock):  # type: ignore[misc]  # final for type checkers alone
    """A raw lock whose holder may be interrupted by what the garbage collector runs.

    That is code of anybody, such as the end of an async generator, which wakes its loop. It can
    neither wait for the lock nor change what is half changed, so that it has to `come_back`.
    """

    def __init__(self) -> None:
        self._late: deque[Callable[[], object]] = deque()

    def interrupts(self) -> bool:
        """Return whether the calling thread holds it."""
        return self._is_owned()  # type: ignore[attr-defined,no-any-return]  # as Condition uses it

    def come_back(self, call: Callable[[], object]) -> None:
        """Call something once the calling thread, which holds it, has released it."""
        self._late.append(call)

    def __exit__(self, *error: object) -> None:
        self.release()
        # What interrupts may take it too, and what it leaves is not free yet.
        while self._late and not self.interrupts():
            try:
                late = self._late.popleft()
            except IndexError:  # another thread has released it as well
                return
            late()


class Turns(ABC):
    """The actors of one test, and which of them run.

    Args:
        one_at_a_time: Whether only one actor runs at a time.

    Attributes:
        now: Nanoseconds of virtual time since the test began.
        beats: A counter that changes whenever anything happens.
        on_enter: Called on each thread that becomes an actor, at its first turn.
        on_quiet: Called on a parked actor when nothing has happened for `patience`. May
            return an error, which that actor raises.
        on_overtake: Called on an actor that runs beside others because these block outside
            the clock, with those others.
        debugged: Whether a debugger holds an actor up, which then counts as running.
        patience: Real seconds after which a parked actor checks for progress, above 0.
        actors: The actors, by thread identifier.
        known: Identifiers of the threads that have been actors and have not ended.
        loops: The event loop that each actor runs, if any, by thread identifier.
        first: The actor of the test itself, which raises the errors of a deadlock.
        elsewhere: Number of calls that run in other processes. Time stands still meanwhile.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.now: int = 0
        self.beats: int = 0
        self.on_enter: Callable[[], object] = nothing
        self.on_quiet: Callable[[Actor], BaseException | None] = nothing
        self.on_overtake: Callable[[list[Actor]], object] = nothing
        self.debugged: bool = False
        self.patience: float = 5.0
        self.forget()
        self._pollers: set[int] = set()
        self._numbers = itertools.count(1)
        self._named: Counter[str] = Counter()
        self._timers = Timers()

    def forget(self) -> None:
        """Drop all actors, as in a forked child, which has none of their threads."""
        self.first: Actor | None = None
        self.actors: dict[int, Actor] = {}
        self.known: set[int] = set()
        self.loops: dict[int, Any] = {}
        # A new lock: the old one may be held by a thread that the child does not have.
        self._lock = _InnermostLock()
        self._running = 0
        # Threads that will be running soon: announced, or joined and about
        # to end. No turn is given before they are there.
        self._coming = 0
        self.elsewhere: int = 0
        # In the order of their numbers.
        self._ready: list[Actor] = []
        # Left, but counted as running until they have woken a loop; by thread identifier.
        self._owing: dict[int, Actor] = {}
        self._joined: dict[int, Joined] = {}

    def end(self) -> None:
        """Call nothing of the test any more.

        Without the references a test is freed at once, and by no garbage collection.
        """
        self.on_enter = self.on_quiet = self.on_overtake = nothing

    @abstractmethod
    def dispatch(self) -> None:
        """Wake the next actor if nobody runs; called after every change."""

    @abstractmethod
    def _on_next_step(self, actor: Actor | None) -> None:
        """Called with the lock held when *actor* takes its next step."""

    # -- actors

    @property
    def here(self) -> Actor | None:
        """The actor of the calling thread; None if it has none or is away."""
        # Without the lock, since it is read at every wait: only a thread itself adds or removes
        # its entry, and changes its `away`.
        actor = self.actors.get(_thread.get_ident())
        return None if actor is None or actor.away else actor

    def expect(self, name: str) -> Arrival:
        """Announce a thread that was given work and is about to start.

        Args:
            name: What it will run; its identity is made of it.
        """
        with self._lock:
            return self._announce(self._new_identity(name), with_turn=False)

    def _announce(self, identity: str, *, with_turn: bool) -> Arrival:
        self._running += with_turn
        self._coming += not with_turn
        return Arrival(next(self._numbers), with_turn, identity)

    def _new_identity(self, name: str) -> str:
        """Return a name that no other actor or queued call of the test has; lock held."""
        short = name.rpartition(".")[2]
        named = self._named
        named[short] += 1
        return f"{short}#{named[short]}"

    def give_up(self, arrival: Arrival | None) -> None:
        """Stop expecting a thread. Does nothing if it has started, or for None."""
        if arrival is not None and arrival.is_open:
            with self._lock:
                self._close(arrival)
            self.dispatch()

    def _close(self, arrival: Arrival | None) -> bool:
        """Stop counting an arrival; return whether it was still expected."""
        if arrival is None or not arrival.is_open:
            return False
        arrival.is_open = False
        self._running -= arrival.has_turn
        self._coming -= not arrival.has_turn
        return True

    def enter(
        self, arrival: Arrival | None = None, *, name: str | None = None, order: int = 0
    ) -> Actor:
        """Make the calling thread an actor; count one level deeper if it is one already.

        Args:
            arrival: The announcement of this thread; None if it was not announced.
            name: Name for messages; None for the name of the thread.
            order: See `Actor`.
        """
        ident = _thread.get_ident()
        actor = self.actors.get(ident)
        if actor is not None:
            actor.depth += 1
            self.give_up(arrival)
            return actor
        identity = arrival.identity if arrival is not None else self._identity_of(ident, name)
        name = threading.current_thread().name if name is None else name
        actor = Actor(ident, name, 0 if self.one_at_a_time else order, identity)
        with self._lock:
            self.beats += 1
            came = arrival if self._close(arrival) else None
            if ident in self._joined:
                # It works again, so it is not about to end.
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
        self.on_enter()
        return actor

    def _identity_of(self, ident: int, name: str | None) -> str:
        """Return an identity for a thread that nobody has announced."""
        if self.first is None:
            return "test"
        with self._lock:
            # The names of threads are numbered in the whole process.
            return self._new_identity(name or "thread")

    def _enters_at_once(self, came: Arrival | None) -> bool:
        if not self.one_at_a_time or (came is not None and came.has_turn):
            return True
        # An announced thread always queues: the announcements give the order.
        return came is None and self._is_free

    @property
    def _is_free(self) -> bool:
        """Whether nobody runs, and nobody waits for the next turn."""
        busy = self._running or self._coming
        return not busy and not any(actor.can_go_on for actor in self._ready)

    def leave(self, actor: Actor) -> None:
        """Undo one `enter` of the calling thread."""
        actor.depth -= 1
        with self._lock:
            self._on_next_step(actor)
            if not actor.depth:
                self._remove(actor)
        self.dispatch()

    def leave_after_wake(self, actor: Actor) -> None:
        """Undo one `enter` of the calling thread as soon as it has woken an event loop.

        The thread stays counted until then, so that time does not move in between.
        """
        if actor.depth > 1:
            self.leave(actor)
            return
        with self._lock:
            # Its last call has returned, and nobody will ask again.
            self._on_next_step(actor)
            self._owing[actor.ident] = actor

    def _remove(self, actor: Actor) -> None:
        self.beats += 1
        del self.actors[actor.ident]
        self._running -= 1
        if actor.ident in self._joined:
            self._count_joined(self._joined[actor.ident], counted=True)

    @contextmanager
    def working(self, arrival: Arrival | None = None) -> Iterator[Actor]:
        """Make the calling thread an actor inside the block; see `enter`."""
        actor = self.enter(arrival)
        try:
            yield actor
        finally:
            self.leave(actor)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let others run while the calling thread waits for them in real time."""
        actor = self.here
        if actor is None:
            yield
            return
        with self._lock:
            self._running -= 1
            self._on_next_step(actor)
            actor.away = True
        self.dispatch()
        try:
            yield
        finally:
            self._come_back(actor)

    def _come_back(self, actor: Actor) -> None:
        with self._lock:
            actor.away = False
            has_turn = not self.one_at_a_time or self._is_free
            if has_turn:
                self._running += 1
            else:
                actor.use_gate()
                self._make_ready(actor)
        if not has_turn:
            self.dispatch()
            self._await_turn(actor)

    @contextmanager
    def real(self) -> Iterator[None]:
        """Let this thread block in real time for something that takes no virtual time."""
        actor = self.here
        if actor is None:
            yield
            return
        # Still counted as running, so neither the lock nor a dispatch is needed.
        actor.away = True
        try:
            yield
        finally:
            actor.away = False

    def count_elsewhere(self, more: int) -> None:
        """Add to the number of calls in other processes; below 0 for those that have ended."""
        with self._lock:
            self.beats += 1
            self.elsewhere += more
        if more < 0:
            self.dispatch()

    # -- joined threads

    @contextmanager
    def joining(self, ident: int, actor: Actor) -> Iterator[None]:
        """Let *actor* wait inside the block for a thread to end.

        Once the thread has left, it is counted as coming until it has woken its joiners.
        """
        with self._lock:
            joined = self._joined.get(ident)
            if joined is None:
                joined = self._joined[ident] = Joined()
                # A joined thread that is no actor has done its work and is about to end.
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
        """Record that the calling thread has ended, after its joiners were told."""
        with self._lock:
            self.known.discard(ident)
            owing = self._owing.pop(ident, None)
            if owing is not None:
                # It never woke its loop, which may be closed.
                self._remove(owing)
            joined = self._joined.pop(ident, None)
            if joined is not None:
                self._count_joined(joined, counted=False)
        self.dispatch()

    def _count_joined(self, joined: Joined, *, counted: bool) -> None:
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
        """Block the calling thread until it is woken, at the latest at nanosecond *until*."""
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

        On True the caller calls `dispatch` and blocks until `Actor.kick` is called.
        """
        with self._lock:
            # Under the lock that wakers hold, so that no wake-up falls between test and parking.
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

    def block(
        self, actor: Actor, free: Callable[[], bool], until: int | None, wants: object
    ) -> bool:
        """Block the calling thread until it is free and it is its turn.

        Args:
            actor: The calling thread's.
            free: Whether it may go on; called with the lock held, so it takes none.
            until: The nanosecond of virtual time at which it gives up; None for never.
            wants: Its text says what it waits for, in messages.

        Returns:
            Whether *free* was true in time. Nobody has run since then.
        """
        actor.use_gate()
        with self._lock:
            self.beats += 1
            self._on_next_step(actor)
            actor.free, actor.in_time, actor.wants = free, True, wants
            if until is not None:
                actor.timer = self._push(until, None, actor)
            self._make_ready(actor)
            self._running -= 1
        self.dispatch()
        self._await_turn(actor)
        return actor.in_time

    def notify(self, waiter: Waiter, actor: Actor) -> None:
        """Wake *actor*, which is parked with *waiter* or about to be.

        Raises:
            RuntimeError: If it was notified before.
        """
        with self._lock:
            if waiter.notified:
                raise RuntimeError("release unlocked lock")
            waiter.notified = True
            self._has_woken_others()
            if actor.parked and actor.waiter is waiter:
                self._wake(actor)

    def wake(self, actor: Actor | None, otherwise: Callable[[], object] | None = None) -> None:
        """Wake an actor that is parked in its event loop; else call *otherwise*."""
        if self._lock.interrupts():
            self._lock.come_back(partial(self.wake, actor, otherwise))
            return
        # Both under one lock: a loop that is just parking must not miss the flag that is set.
        with self._lock:
            if actor is not None and actor.parked and actor.listens:
                self._wake(actor)
            elif otherwise is not None:
                otherwise()
            self._has_woken_others()
            owing = self._owing.pop(_thread.get_ident(), None) if self._owing else None
            if owing is not None:
                self._remove(owing)
        if owing is not None:
            self.dispatch()

    def _has_woken_others(self) -> None:
        ident = _thread.get_ident()
        # Who wakes others does not merely poll: time waits for it again.
        self._pollers.discard(ident)
        actor = self.actors.get(ident)
        if actor is not None:
            actor.was_seen = True

    def fail(self, actor: Actor, error: BaseException) -> None:
        """Wake a parked actor, which then raises *error*."""
        with self._lock:
            if actor.is_stopped:
                actor.error = error
                self._wake(actor)
        self.dispatch()

    def _wake(self, actor: Actor) -> None:
        self.beats += 1
        self._drop_timer(actor)
        if not actor.parked:
            # It is ready, and no longer waits to be free.
            actor.free, actor.in_time = None, False
            return
        actor.parked = False
        if self.one_at_a_time and not self._is_free:
            self._make_ready(actor, actor.reserved)
        else:
            self._give_turn(actor)

    def _drop_timer(self, actor: Actor) -> None:
        timer, actor.timer = actor.timer, None
        if timer is not None:
            timer.cancel()

    def _give_turn(self, actor: Actor) -> None:
        if actor.free is not None:
            actor.free = None
            self._drop_timer(actor)
        # Counted before it can run, so that the test never looks idle in between.
        self._running += 1
        actor.kick()

    def _make_ready(self, actor: Actor, number: int | None = None) -> None:
        """Queue *actor* for a turn, in the order of *number*."""
        actor.number = next(self._numbers) if number is None else number
        bisect.insort(self._ready, actor, key=lambda one: one.number)

    def _await_turn(self, actor: Actor) -> None:
        try:
            while not actor.wait_for_kick(step := self.poll_interval(actor)):
                self.check_progress(actor, step)
        except BaseException:  # raised by the handler of a signal
            self._run_unbidden(actor)
            raise
        raise_error(actor)

    def _run_unbidden(self, actor: Actor) -> None:
        """Let the calling thread run beside others, though its turn may not have come."""
        with self._lock:
            if actor.parked or actor in self._ready:
                self._forget_wait(actor)
                self._running += 1
            else:
                actor.wait_for_kick(0)

    def _forget_wait(self, actor: Actor) -> None:
        self._drop_timer(actor)
        actor.parked, actor.free = False, None
        if actor in self._ready:
            self._ready.remove(actor)

    def poll_interval(self, actor: Actor) -> float:
        """Return how many real seconds an actor waits before it checks for progress."""
        return self.patience if actor.parked else POLL_INTERVAL

    def check_progress(self, actor: Actor, waited: float) -> None:
        """Check, on an actor that has waited in real time, whether anything happens at all.

        Args:
            actor: The calling thread's.
            waited: Real seconds that it has waited: the `poll_interval` before the wait,
                which may be another one by now.
        """
        if self.debugged:
            return
        if not actor.parked:
            self._overtake(actor)
            return
        error = self.on_quiet(actor)
        if error is not None:
            self.fail(actor, error)

    def _overtake(self, actor: Actor) -> None:
        """Let a ready actor run beside the running ones if all of these block."""
        with self._lock:
            first = next((one for one in self._ready if one.can_go_on), None)
            if first is not actor:
                return
            others = [
                one
                for one in self.actors.values()
                if not (one.parked or one.away or one in self._ready)
            ]
            if not self._blocked(actor, others):
                return
            self._ready.remove(actor)
            self._give_turn(actor)
        self.on_overtake(others)

    def _blocked(self, actor: Actor, others: list[Actor]) -> bool:
        """Whether *others* have blocked since *actor*, which is ready, last checked."""
        seen = (self.beats, [activity(one.native_id) for one in others])
        before, times = actor.looked
        times = times + 1 if seen == before else 0
        actor.looked = (seen, times)
        # Nobody to check means that a thread is about to start, or a timer is firing.
        return times * POLL_INTERVAL >= (POLL_INTERVAL if others else self.patience)

    def _push(
        self,
        when: int,
        fn: Callable[[], object] | None,
        actor: Actor | None,
        order: int | None = None,
    ) -> Timer:
        if order is None:
            # Threads that run side by side set their timers in random order.
            setter = self.actors.get(_thread.get_ident())
            order = 0 if setter is None else setter.order
        return self._timers.push(max(when, self.now), fn, actor, order)
