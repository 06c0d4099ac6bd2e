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
    another one run beside it, which `Watchdog` decides.
    No actor gets a turn while an announced thread has not started. Ready actors run in the
    order in which they were woken or announced, whatever the operating system does.
Relies on:
    `activity` for what threads do.
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
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pytest_asyncframe._turns.activity import activity
from pytest_asyncframe._turns.actors import (
    Actor,
    Arrival,
    State,
    Timers,
    Waiter,
    halt,
    nothing,
)
from pytest_asyncframe._turns.lock import InnermostLock
from pytest_asyncframe._turns.outside import Outside, Verdict
from pytest_asyncframe._turns.roster import Roster
from pytest_asyncframe._turns.task_queue import TaskQueue

POLL_INTERVAL = 0.05
"""Real seconds after which a ready actor checks whether the running ones block."""


class Turns(ABC):
    """The actors of one test, and which of them run.

    Args:
        one_at_a_time: Whether only one actor runs at a time.

    Attributes:
        queue: The queued tasks and calls.
        now: Nanoseconds of virtual time since the test began.
        on_enter: Called on each thread that becomes an actor, at its first turn.
        outside: What may happen outside the clock; then time moves only after a silence.
        watchdog: What an actor asks while it waits in real time.
        actors: The actors, by thread identifier.
        known: Identifiers of the threads that have been actors and have not ended.
        first: The actor of the test itself, which raises the errors of a deadlock.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.queue: TaskQueue = TaskQueue()
        self._on_next_step = self.queue.release
        self.now: int = 0
        self.on_enter: Callable[[], object] = nothing
        self.outside: Outside = Outside()
        self.watchdog: Watchdog = Watchdog(self, self.outside)
        self.forget()
        self._timers = Timers()

    def forget(self) -> None:
        """Drop all actors, as in a forked child, which has none of their threads."""
        self.first: Actor | None = None
        self.actors: dict[int, Actor] = {}
        self.known: set[int] = set()
        # A new lock: the old one may be held by a thread that the child does not have.
        self._lock = InnermostLock()
        self._roster = Roster()
        # Left, but counted as running until they have woken a loop; by thread identifier.
        self._owing: dict[int, Actor] = {}

    def _pass_to(self, when: int) -> None:
        """Move time forward to *when*; with the lock held."""
        self.now = max(self.now, when)

    def end(self) -> None:
        """Stop calling functions of the test.

        Without the references a test is freed at once, and by no garbage collection.
        """
        self.on_enter = nothing
        self.watchdog.end()

    @abstractmethod
    def dispatch(self, *, in_silence: bool = False) -> None:
        """Wake the next actor if nobody runs; called after every change.

        Args:
            in_silence: Whether nothing happens outside; see `Watchdog`.
        """

    # -- actors

    @property
    def here(self) -> Actor | None:
        """The actor of the calling thread; None if it has none or is away."""
        # Without the lock, since it is read at every wait: only a thread itself adds or removes
        # its entry, and changes its `away`.
        actor = self.actors.get(_thread.get_ident())
        return None if actor is None or actor.away else actor

    @property
    def is_interrupted(self) -> bool:
        """Whether the calling thread runs code of others in the middle of a change here."""
        return self._lock.interrupts()

    def expect(self, name: str) -> Arrival:
        """Announce a thread that was given work and is about to start.

        Args:
            name: What it will run; its identity is made of it.
        """
        with self._lock:
            return self._roster.announce(self._roster.new_identity(name), with_turn=False)

    def give_up(self, arrival: Arrival | None) -> None:
        """Stop expecting a thread. Does nothing if it has started, or for None."""
        if arrival is not None and arrival.is_open:
            with self._lock:
                self._roster.close(arrival)
            self.dispatch()

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
        roster = self._roster
        with self._lock:
            roster.beats += 1
            came = arrival if roster.close(arrival) else None
            roster.begins(ident)
            self.actors[ident] = actor
            self.known.add(ident)
            has_turn = self._enters_at_once(came)
            if has_turn:
                roster.running += 1
            else:
                roster.make_ready(actor, None if came is None else came.number)
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
            return self._roster.new_identity(name or "thread")

    def _enters_at_once(self, came: Arrival | None) -> bool:
        if not self.one_at_a_time or (came is not None and came.has_turn):
            return True
        # An announced thread always queues: the announcements give the order.
        return came is None and self._roster.is_free

    def leave(self, actor: Actor) -> None:
        """Undo one `enter` of the calling thread."""
        actor.depth -= 1
        with self._lock:
            self._on_next_step(actor)
            if not actor.depth:
                self._take_off(actor)
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

    def _take_off(self, actor: Actor) -> None:
        del self.actors[actor.ident]
        self._roster.stops(actor.ident)

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
            self._roster.running -= 1
            self._on_next_step(actor)
            actor.away = True
        self.dispatch()
        try:
            yield
        finally:
            with self._lock:
                actor.away = False
                has_turn = not self.one_at_a_time or self._roster.is_free
                if has_turn:
                    self._roster.running += 1
                else:
                    actor.use_gate()
                    self._roster.make_ready(actor)
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

    @property
    def beats(self) -> int:
        """A counter that changes whenever anything happens."""
        return self._roster.beats

    @contextmanager
    def joining(self, ident: int, actor: Actor) -> Iterator[None]:
        """Let *actor* wait inside the block for a thread to end.

        Once the thread has left, it is counted as coming until it has woken its joiners.
        """
        with self._lock:
            self._roster.join(ident, actor, works=ident in self.actors)
        try:
            yield
        finally:
            with self._lock:
                self._roster.stop_joining(ident, actor)
            self.dispatch()

    def has_ended(self, ident: int) -> None:
        """Record that the calling thread has ended, after its joiners were told."""
        with self._lock:
            self.known.discard(ident)
            owing = self._owing.pop(ident, None)
            if owing is not None:
                # It never woke its loop, which may be closed.
                self._take_off(owing)
            self._roster.has_ended(ident)
        self.dispatch()

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
            self._stop(actor, until, wants)
            actor.state = State.PARKED
            actor.waiter = waiter
            actor.listens = signalled is not None
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
            self._stop(actor, until, wants)
            actor.free, actor.in_time = free, True
            self._roster.make_ready(actor)
        self.dispatch()
        self._await_turn(actor)
        return actor.in_time

    def _stop(self, actor: Actor, until: int | None, wants: object) -> None:
        """Count the calling thread as running no more; it is woken at *until* at the latest."""
        self._roster.beats += 1
        self._on_next_step(actor)
        actor.wants = wants
        if until is not None:
            actor.timer = self._timers.push(max(until, self.now), None, actor, actor.order)
        self._roster.running -= 1

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
            if actor.state is State.PARKED and actor.waiter is waiter:
                self._roster.wake(actor, in_turn=self.one_at_a_time)

    def wake(self, actor: Actor | None, otherwise: Callable[[], object] | None = None) -> None:
        """Wake an actor that is parked in its event loop; else call *otherwise*."""
        if self.is_interrupted:
            self._lock.come_back(partial(self.wake, actor, otherwise))
            return
        # Both under one lock: a loop that is just parking must not miss the flag that is set.
        with self._lock:
            if actor is not None and actor.state is State.PARKED and actor.listens:
                self._roster.wake(actor, in_turn=self.one_at_a_time)
            elif otherwise is not None:
                otherwise()
            self._has_woken_others()
            owing = self._owing.pop(_thread.get_ident(), None) if self._owing else None
            if owing is not None:
                self._take_off(owing)
        if owing is not None:
            self.dispatch()

    def _has_woken_others(self) -> None:
        ident = _thread.get_ident()
        # Who wakes others does not merely poll: time waits for it again.
        self.outside.pollers.discard(ident)
        actor = self.actors.get(ident)
        if actor is not None:
            actor.was_seen = True
        elif ident not in self.known:
            self.outside.meet(ident)

    def fail(self, actor: Actor, error: BaseException) -> None:
        """Wake a parked actor, which then raises *error*."""
        with self._lock:
            self._throw(actor, error)
        self.dispatch()

    def _throw(self, actor: Actor, error: BaseException) -> None:
        if actor.is_stopped:
            actor.error = error
            self._roster.wake(actor, in_turn=self.one_at_a_time)

    def _await_turn(self, actor: Actor) -> None:
        try:
            while not actor.wait_for_kick(step := self.watchdog.interval(actor)):
                self.watchdog.check(actor, step)
        except BaseException:  # raised by the handler of a signal
            self._run_unbidden(actor)
            raise
        actor.raise_error()

    def _run_unbidden(self, actor: Actor) -> None:
        """Let the calling thread run beside others, though its turn may not have come."""
        with self._lock:
            if actor.state is State.RUNNING:
                actor.wait_for_kick(0)
            else:
                self._forget_wait(actor)

    def _forget_wait(self, actor: Actor) -> None:
        """Called with the lock held when *actor* runs on without what it waits for."""
        actor.drop_timer()
        self._roster.take_turn(actor)

    @abstractmethod
    def overtake(
        self, actor: Actor, have_blocked: Callable[[list[Actor]], bool]
    ) -> list[Actor] | None:
        """Let a ready actor run beside the running ones; see `Watchdog`."""

    @abstractmethod
    def start_beside(self, have_blocked: Callable[[list[Actor]], bool]) -> list[Actor] | None:
        """Start a queued call beside the running actors; see `Watchdog`."""


class Watchdog:
    """What an actor that waits in real time checks: whether others block, and what is outside.

    So time moves on after a silence outside the clock, and a test that does nothing any more is
    reported. Each actor calls `check` once `interval` has passed, without the lock.

    Args:
        turns: The actors.
        outside: What may happen outside the clock.

    Attributes:
        patience: Real seconds after which a parked actor checks for progress, above 0.
        debugged: Whether a debugger holds an actor up, which then counts as running.
        on_quiet: Called on a stopped actor when nothing has happened for `patience`. May
            return an error, which that actor raises.
        on_overtake: Called on an actor that runs beside others because these block outside
            the clock, with those others.
        on_give_up: Called with the test's own threads that time no longer waits for.
    """

    def __init__(self, turns: Turns, outside: Outside) -> None:
        # Weakly, so that no cycle keeps a test until a garbage collection.
        self._turns: Turns = weakref.proxy(turns)
        self._outside = outside
        self.patience: float = 5.0
        self.debugged: bool = False
        self.end()

    def end(self) -> None:
        """Stop calling functions of the test."""
        self.on_quiet: Callable[[Actor], BaseException | None] = nothing
        self.on_overtake: Callable[[list[Actor]], object] = nothing
        self.on_give_up: Callable[[list[threading.Thread]], object] = nothing

    def interval(self, actor: Actor) -> float:
        """Return how many real seconds an actor waits before it calls `check`."""
        if actor.state is not State.PARKED:
            return POLL_INTERVAL
        if self._outside.there:
            return min(self.patience, self._outside.step)
        # A thread may start after the last actor has parked, and nobody dispatches then.
        return min(self.patience, POLL_INTERVAL) if actor is self._turns.first else self.patience

    def check(self, actor: Actor, waited: float) -> None:
        """Check, on an actor that has waited in real time, whether anything happens at all.

        Args:
            actor: The calling thread's.
            waited: Real seconds that it has waited: the `interval` before the wait, which may
                be another one by now.
        """
        if actor.is_gone:
            (actor.stop if actor.is_at_rest else halt)()
        is_parked = actor.state is State.PARKED
        # Also one that waits until it is free: it may be alone, and its time must come.
        is_stopped = actor.is_stopped
        listens = is_stopped and self._listen(actor, waited)
        if self.debugged:
            return

        def have_blocked(others: list[Actor]) -> bool:
            return self._have_blocked(actor, others, waited)

        if is_parked:
            others = self._turns.start_beside(have_blocked)
        else:
            others = self._turns.overtake(actor, have_blocked)
        if others is not None:
            self.on_overtake(others)
        if others is not None or listens or not is_stopped:
            return
        error = self.on_quiet(actor)
        if error is not None:
            self._turns.fail(actor, error)

    def _have_blocked(self, actor: Actor, others: list[Actor], waited: float) -> bool:
        """Whether *others* have blocked while *actor* has checked."""
        seen = (self._turns.beats, [activity(one.native_id) for one in others])
        before, times = actor.looked
        times = times + 1 if seen == before else 0
        actor.looked = (seen, times)
        # Nobody to check means that a thread is about to start, or a timer is firing.
        return times * waited >= (POLL_INTERVAL if others else self.patience)

    def _listen(self, actor: Actor, waited: float) -> bool:
        """Let time move after a silence outside; False once `patience` has passed silently."""
        turns, outside = self._turns, self._outside
        beats, silent, before = actor.heard
        now = outside.look()
        verdict = outside.judge(before, now)
        if beats != turns.beats or verdict is Verdict.BUSY:
            silent = 0.0
        elif verdict is not Verdict.STARVED:
            # A thread that got no processor is not silent: it had no chance to do anything.
            silent += waited
        actor.heard = (turns.beats, silent, now)
        if outside.is_over(verdict, silent):
            if verdict is Verdict.RESTLESS:
                self.on_give_up(outside.give_up(before, now))
            outside.let_rest(now)
            turns.dispatch(in_silence=True)
        if silent < self.patience:
            return True
        actor.heard = (turns.beats, 0.0, now)
        return False
