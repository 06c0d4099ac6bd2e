"""Who may go on now, and when virtual time moves.

An actor is a thread that works for the test: the test's own, a loop's, one of a pool. It
runs, or it is parked: in a loop's `select`, in a sleep, in a wait. Time moves only while
nobody runs and nobody is expected to begin.

Guarantees: whoever wakes an actor has counted it as running before it can run, so there is
no moment in which everybody seems to stand still although somebody was woken; timers fire
one at a time, in the order of their time, equal ones in the order of their making (or of the
tasks that made them, where threads run side by side), and what one has set going comes to
rest before the next; with *one_at_a_time* at most one actor runs at any moment, unless that
one blocks where nobody sees it.
Relies on: everything that waits doing so through here; what does not keeps its actor
running, so that time stands still for it.
Lock order: `_lock` is innermost, is a raw lock (what `threading` has may be replaced), and
no other code runs under it. It is not held while a timer fires or something is admitted.
"""

from __future__ import annotations

import _thread
import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from framework.testing import Queued
from pytest_asyncframe._actors import Actor, Timer, Waiter, raise_error

BLOCKED_AFTER = 0.05
"""Real seconds after which an actor that has not moved no longer keeps others waiting."""


class Sequencer:
    """The actors of one test, its virtual time, and what waits to begin.

    Args:
        moves: Whether time moves by itself when nobody runs.
        starts: Whether what is queued begins by itself.
        hold: Whether it waits until nobody runs; else it begins as soon as there is room.
        one_at_a_time: Whether only one actor runs at any moment.
        choose: Returns which of so many possibilities comes next; the first if None.

    Attributes:
        now: Nanoseconds of virtual time since the test began.
        room: Returns how many queued calls could begin now, 0 or less for none.
        beats: Counts up whenever anything changes; tells whether something moves.
        allowed: Up to which nanosecond time moves by itself even if it does not; None if not.
        on_move: Called after time has moved, on any thread.
        on_stall: Called when nobody can go on; may return an error for `first`.
        on_quiet: Called on a parked actor when nothing has moved for `patience`.
        patience: Real seconds after which an actor that waits looks around, above 0.
        loops: The event loop of each actor that runs one, by the thread's identifier.
        first: The actor that is told of a stall: the test's own.
    """

    def __init__(
        self,
        *,
        moves: bool = False,
        starts: bool = True,
        hold: bool = True,
        one_at_a_time: bool = False,
        choose: Callable[[int], int] | None = None,
    ) -> None:
        self.moves = moves
        self.starts = starts
        self.hold = hold
        self.one_at_a_time = one_at_a_time
        self.now = 0
        self.beats = 0
        self.allowed: int | None = None
        self.room: Callable[[], int] = lambda: 0
        self.on_move: Callable[[], object] | None = None
        self.on_stall: Callable[[], BaseException | None] = lambda: None
        self.on_quiet: Callable[[Actor], BaseException | None] = lambda _: None
        self.patience = 5.0
        self.first: Actor | None = None
        self.actors: dict[int, Actor] = {}
        self.loops: dict[int, Any] = {}
        self.queue: list[Queued] = []
        self._choose = choose
        self._lock = _thread.allocate_lock()
        self._deferred: list[tuple[Actor, Queued]] = []
        self._admitting = False
        self._running = 0
        self._expected = 0
        self._ready: list[Actor] = []
        self._watchers: list[Actor] = []
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._sequence = itertools.count()
        self._stalled_at = -1

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
            self.actors[ident] = actor
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
        return self.patience if actor.parked else BLOCKED_AFTER

    def look_around(self, actor: Actor) -> None:
        """See, on an actor that has waited for real, whether anything moves at all."""
        if not actor.parked:
            self._push_in(actor)
            return
        error = self.on_quiet(actor)
        if error is not None:
            self.fail(actor, error)

    def _push_in(self, actor: Actor) -> None:
        """Let a ready actor go on beside one that does not move."""
        with self._lock:
            if self._ready and self._ready[0] is actor:
                del self._ready[0]
                self._running += 1
                actor.kick()

    def yield_turn(self, actor: Actor) -> None:
        """Let another actor go first, if one could."""
        with self._lock:
            if not self.one_at_a_time or (not self._ready and not self.queue):
                return
            actor.use_gate()
            self._ready.append(actor)
            self._running -= 1
        self.go_on()
        self._await_turn(actor)

    # -- what waits to begin

    def enqueue(self, queued: Queued, *, after_return: bool = False) -> None:
        """Take in something that is to begin later, or at once.

        Args:
            queued: What is to begin.
            after_return: Whether it must not begin before the call that has led here has
                returned: the calling actor's next step shows that it has.
        """
        actor = self.here
        with self._lock:
            self.beats += 1
            self._has_returned(actor)
            self.queue.append(queued)
            if after_return and actor is not None:
                self._deferred.append((actor, queued))
        self.go_on()

    def _has_returned(self, actor: Actor | None) -> None:
        """Let begin what had to wait until a call of *actor* has returned."""
        if self._deferred:
            self._deferred = [one for one in self._deferred if one[0] is not actor]

    def remove(self, queued: Queued) -> None:
        """Forget something that will not begin through here."""
        with self._lock:
            if queued in self.queue:
                self.queue.remove(queued)

    def admit(self, queued: Queued) -> bool:
        """Let something begin; False if it was not waiting any more."""
        with self._lock:
            if queued not in self.queue:
                return False
            step = self._admission(queued)
        step()
        self.go_on()
        return True

    def _startable(self) -> list[Queued]:
        if not self.starts or not self.queue:
            return []
        room = self.room() > 0
        deferred = [queued for _, queued in self._deferred]
        return [one for one in self.queue if (room or one.kind == "loop") and one not in deferred]

    def _admission(self, queued: Queued) -> Callable[[], object]:
        """Take something off the queue, and return what lets it begin."""
        self.queue.remove(queued)
        self._admitting = True
        # Nobody else is counted until its thread has begun or its loop has been woken.
        self._expected += queued.kind == "thread"
        self._running += queued.kind == "loop"
        return lambda: self._admit(queued)

    def _admit(self, queued: Queued) -> None:
        try:
            queued.admit()
        finally:
            self._admitting = False
            if queued.kind == "loop":
                self._stop_running()

    # -- going on

    def go_on(self) -> None:
        """Let whoever is next go on; called by whoever has just changed something."""
        while (step := self._next_step()) is not None:
            step()

    def _next_step(self) -> Callable[[], object] | None:
        """Decide what comes next; return what is to be called without the lock, or None."""
        with self._lock:
            if self._admitting:
                # Whoever admits goes on itself; two at once would change the order.
                return None
            startable = self._startable()
            if startable and not self.hold:
                return self._admission(startable[0])
            if self._running or self._expected:
                return None
            count = len(self._ready) + len(startable)
            if count:
                at = self._choose(count) if self._choose is not None and count > 1 else 0
                if at < len(self._ready):
                    actor = self._ready.pop(at)
                    self._running += 1
                    actor.kick()
                    return None
                return self._admission(startable[at - len(self._ready)])
            if self._watchers:
                self._wake(self._watchers.pop())
                return None
            return self._next_moment()

    def _next_moment(self) -> Callable[[], object] | None:
        timer = self._next_timer(None)
        if timer is None:
            if not self.actors or self._stalled_at == self.beats:
                return None
            self._stalled_at = self.beats
            self._running += 1
            return self._stall
        moved = timer.when > self.now
        if moved:
            self.now = timer.when
        actor, fn = timer.actor, timer.fn
        timer.fn = timer.actor = None
        if actor is not None:
            if not moved or self.on_move is None:
                self._wake(actor)
                return None
            self._running += 1
            return lambda: self._fire(lambda: self.wake_at(actor))
        self._running += 1
        assert fn is not None
        return lambda: self._fire(fn)

    def wake_at(self, actor: Actor) -> None:
        """Wake an actor whose time has come."""
        with self._lock:
            if actor.parked:
                self._wake(actor)

    def _fire(self, fn: Callable[[], object]) -> None:
        try:
            if self.on_move is not None:
                self.on_move()
            fn()
        finally:
            self._stop_running()

    def _stop_running(self) -> None:
        """Undo what kept time from moving while something was called on this thread."""
        with self._lock:
            actor = self.actors.get(_thread.get_ident())
            if actor is not None and actor.parked and actor.stirred():
                self._wake(actor)
            self._running -= 1

    def _stall(self) -> None:
        error = self.on_stall()
        with self._lock:
            self._running -= 1
            first = self.first
            if error is not None and first is not None and first.parked:
                first.error = error
                self._wake(first)

    # -- time

    def call_at(self, when: int, fn: Callable[[], object], background: bool) -> Timer:
        """Set a timer for nanosecond *when*, or for as soon as nobody runs."""
        with self._lock:
            timer = self._push(when, fn, None)
            timer.background = background
        if not self._running:
            self.go_on()
        return timer

    def _push(self, when: int, fn: Callable[[], object] | None, actor: Actor | None) -> Timer:
        timer = Timer(max(when, self.now), fn, actor)
        # Threads that run beside each other set their timers in no certain order.
        setter = self.actors.get(_thread.get_ident())
        order = 0 if setter is None else setter.order
        heapq.heappush(self._heap, (timer.when, order, next(self._sequence), timer))
        return timer

    def _next_timer(self, limit: int | None) -> Timer | None:
        """Take the next timer off the heap: up to *limit*, or as far as time moves itself."""
        heap = self._heap
        while heap and not heap[0][3].live:
            heapq.heappop(heap)
        if not heap:
            return None
        when = heap[0][0]
        if when > self.now:
            if limit is not None:
                if when > limit:
                    return None
            elif self.allowed is not None and when <= self.allowed:
                pass
            elif not self.moves or not self._somebody_waits():
                return None
        return heapq.heappop(heap)[3]

    def _somebody_waits(self) -> bool:
        return any(timer.live and not timer.background for _, _, _, timer in self._heap)

    def jump(self, actor: Actor, until: int, signalled: Callable[[], bool]) -> bool:
        """Move time for the only actor there is; False if it must park like others."""
        with self._lock:
            heap = self._heap
            if (
                self._running != 1
                or not (self.moves or (self.allowed is not None and until <= self.allowed))
                or self._expected
                or self._ready
                or self.queue
                or self._watchers
                or signalled()
                or (heap and heap[0][0] <= until)
            ):
                return False
            self.now = until
            self.beats += 1
        if self.on_move is not None:
            self.on_move()
        return True

    def timers(self) -> list[Timer]:
        """Return the timers that have not fired, the earliest first."""
        with self._lock:
            return [timer for _, _, _, timer in sorted(self._heap) if timer.live]

    def settle(self, actor: Actor) -> None:
        """Block the calling thread until nobody else runs; time stands still meanwhile."""
        with self._lock:
            self._has_returned(actor)
            actor.parked = True
            actor.waiter = None
            actor.wants = "everybody else to come to rest"
            actor.use_gate()
            self._watchers.append(actor)
            self._running -= 1
        self.go_on()
        self._await_turn(actor)

    def advance(self, actor: Actor, target: int) -> None:
        """Move time to *target* on the calling thread; others come to rest at each moment."""
        self.settle(actor)
        while (step := self._step_to(target)) is not None:
            step()
            self.settle(actor)
        with self._lock:
            moved = target > self.now
            self.now = max(self.now, target)
        if moved and self.on_move is not None:
            self.on_move()

    def _step_to(self, target: int) -> Callable[[], object] | None:
        """Take what falls due next, not after *target*; the caller runs meanwhile."""
        with self._lock:
            timer = self._next_timer(target)
            if timer is None:
                return None
            self.now = max(self.now, timer.when)
            actor, fn = timer.actor, timer.fn
            timer.fn = timer.actor = None
            self._running += 1
        if fn is not None:
            return lambda: self._fire(fn)
        assert actor is not None
        return lambda: self._fire(lambda: self.wake_at(actor))
