"""What comes next in a test: whose turn it is, what begins, when virtual time moves.

Guarantees: time moves only while nobody runs and nobody is expected to begin; timers fire
one at a time, in the order of their time, equal ones in the order of their making (or of the
tasks that made them, where threads run side by side), and what one has set going comes to
rest before the next.
Relies on: `turns` for who runs.
Lock order: see `turns`. The lock is not held while a timer fires or something is admitted.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from threading import Thread

from framework.testing import Queued
from pytest_asyncframe._turns.actors import Actor, Arrival, Timer
from pytest_asyncframe._turns.outside import Outside, Verdict
from pytest_asyncframe._turns.timers import LAST
from pytest_asyncframe._turns.turns import POLL_INTERVAL, Turns

_MOST_MOVES = 1_000_000
"""How often time may move by itself without any progress, a matter of ten seconds or so."""


class Sequencer(Turns):
    """The actors of one test, its virtual time, and what waits to begin.

    Args:
        moves: Whether time moves by itself when nobody runs.
        starts: Whether what is queued begins by itself.
        hold: Whether it waits until nobody runs; else it begins as soon as there is room.
        one_at_a_time: Whether only one actor runs at any moment.
        choose: Returns which of so many possibilities comes next; the first if None.

    Attributes:
        room: Returns how many queued calls could begin now, 0 or less for none.
        queue: What waits to begin, the oldest first.
        outside: What may come from outside; then time moves by itself after a silence only.
        allowed: Up to which nanosecond time moves by itself even if it does not; None if not.
        on_move: Called after time has moved, on any thread.
        on_stall: Called when nobody can go on; may return an error for `first`.
        on_runaway: Called when time has moved by itself `most_moves` times, and `moved` was
            never set back to 0; may return an error for `first`.
        on_give_up: Called with threads of the test's own for which time waits no longer.
        moved: How often time has moved by itself.
        most_moves: How often it may do so without any progress, from 1 on.
        firing: The threads that are in the middle of calling what has fallen due.
    """

    now: int
    beats: int

    def __init__(
        self,
        *,
        moves: bool = False,
        starts: bool = True,
        hold: bool = True,
        one_at_a_time: bool = False,
        choose: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(one_at_a_time=one_at_a_time)
        self.moves = moves
        self.starts = starts
        self.hold = hold
        self.allowed: int | None = None
        self.room: Callable[[], int] = lambda: 0
        self.on_move: Callable[[], object] | None = None
        self.on_stall: Callable[[], BaseException | None] = lambda: None
        self.on_runaway: Callable[[], BaseException | None] = lambda: None
        self.moved: int = 0
        self.most_moves: int = _MOST_MOVES
        self.queue: list[Queued] = []
        self.outside: Outside = Outside(self._pollers)
        self.on_give_up: Callable[[list[Thread]], object] = lambda _: None
        self.firing: set[int] = set()
        self._choose = choose
        self._deferred: list[tuple[Actor, Queued]] = []
        self._admitted: dict[Queued, Arrival] = {}
        self._admitting = False
        # Those who wait for all others to come to rest, and whether for what is outside, too.
        self._watchers: list[tuple[Actor, bool]] = []
        self._stalled_at = -1
        self._silence = False

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
            self._on_next_step(actor)
            self.queue.append(queued)
            if after_return and actor is not None:
                self._deferred.append((actor, queued))
        self.dispatch()

    def _on_next_step(self, actor: Actor | None) -> None:
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
        self.dispatch()
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
        # The turn is its thread's, or this one's until its loop has been woken.
        if queued.kind == "thread":
            self._admitted[queued] = self._announce(with_turn=True)
        else:
            self._running += 1
        return lambda: self._admit(queued)

    def arrival_of(self, queued: Queued) -> Arrival | None:
        """Return as which the thread was announced that begins with *queued*, once."""
        return self._admitted.pop(queued, None)

    def _admit(self, queued: Queued) -> None:
        try:
            queued.admit()
        finally:
            self._admitting = False
            if queued.kind == "loop":
                self._release_turn()

    # -- going on

    def dispatch(self) -> None:
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
            if self._running or self._coming:
                return None
            if self._returned:
                self._running += 1
                self._returned.pop(0).kick()
                return None
            woken = [actor for actor in self._ready if not actor.yields]
            yielding = [actor for actor in self._ready if actor.yields]
            nexts: list[Actor | Queued] = [*woken, *startable, *yielding]
            if nexts:
                # One that has no rival is not drawn: whether it waited is chance.
                drawn = self._choose is not None and len(nexts) > 1
                chosen = nexts[self._choose(len(nexts)) if drawn and self._choose else 0]
                if isinstance(chosen, Queued):
                    return self._admission(chosen)
                self._ready.remove(chosen)
                self._running += 1
                chosen.kick()
                return None
            if self.elsewhere:
                return None
            if self._watchers:
                watcher, listening = self._watchers[-1]
                if not (listening and self._held):
                    self._watchers.pop()
                    self._wake(watcher)
                return None
            return self._next_moment()

    def _next_moment(self) -> Callable[[], object] | None:
        if self.moved >= self.most_moves:
            self.moved = 0
            self._running += 1
            return lambda: self._tell_first(self.on_runaway())
        timer = self._next_timer(None)
        if timer is None:
            if self._held or not self.actors or self._stalled_at == self.beats:
                return None
            if self.first is None or not self.first.parked:
                # Nobody to tell, such as when a pool is shut down at the end of a test.
                return None
            self._stalled_at = self.beats
            self._running += 1
            return lambda: self._tell_first(self.on_stall())
        moved = timer.when > self.now
        if moved:
            self.moved += 1
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
        ident = _thread.get_ident()
        # It may advance time itself, and so call what falls due meanwhile.
        outermost = ident not in self.firing
        self.firing.add(ident)
        try:
            if self.on_move is not None:
                self.on_move()
            fn()
        finally:
            if outermost:
                self.firing.discard(ident)
            self._release_turn()

    def _release_turn(self) -> None:
        """Undo what kept time from moving while something was called on this thread."""
        with self._lock:
            actor = self.actors.get(_thread.get_ident())
            if actor is not None and actor.parked and actor.has_work():
                self._wake(actor)
            self._running -= 1

    def _tell_first(self, error: BaseException | None) -> None:
        with self._lock:
            self._running -= 1
            first = self.first
            if error is not None and first is not None and first.parked:
                first.error = error
                self._wake(first)

    def yield_turn(self, actor: Actor) -> None:
        """Let another actor go first, or something begin, if one could."""
        with self._lock:
            self._on_next_step(actor)
            if not self.one_at_a_time or (not self._ready and not self.queue):
                return
            actor.use_gate()
            actor.yields = True
            self._make_ready(actor)
            self._running -= 1
        self.dispatch()
        self._await_turn(actor)
        actor.yields = False

    # -- time

    def call_at(
        self, when: int, fn: Callable[[], object], *, background: bool = False, last: bool = False
    ) -> Timer:
        """Set a timer for nanosecond *when*, or for as soon as nobody runs.

        Args:
            when: When to call *fn*.
            fn: What to call.
            background: Whether nobody waits for it.
            last: Whether all others of that moment fire before it, also those set later, and
                what they have set going outside comes to an end.
        """
        with self._lock:
            timer = self._push(when, fn, None, LAST if last else None)
            timer.background = background
        if not self._running:
            self.dispatch()
        return timer

    def _next_timer(self, limit: int | None) -> Timer | None:
        """Take out the next timer: up to *limit*, or as far as time moves by itself."""
        when = self._timers.first
        if when is None:
            return None
        moves = when > self.now or self._timers.first_is_last
        if moves and not self._may_move_to(when, limit):
            return None
        self._silence = False
        return self._timers.pop()

    def _may_move_to(self, when: int, limit: int | None) -> bool:
        if limit is not None:
            return when <= limit
        if self._held:
            return False
        if self.allowed is not None and when <= self.allowed:
            return True
        return self.moves and self._timers.foreground

    @property
    def _held(self) -> bool:
        """Whether something may yet come from outside."""
        return self.outside.there and not self._silence

    def is_due(self, when: int) -> bool:
        """Whether there is a timer for *when* or before."""
        with self._lock:
            first = self._timers.first
            return first is not None and first <= when

    def poll_interval(self, actor: Actor) -> float:
        """Return for how many real seconds to wait before looking around."""
        step = super().poll_interval(actor)
        if not actor.parked:
            return step
        if self.outside.there:
            return min(step, self.outside.step)
        # Something may have come up outside after the last one has parked.
        return min(step, POLL_INTERVAL) if actor is self.first else step

    def check_progress(self, actor: Actor, waited: float) -> None:
        """See, on an actor that has waited for real, whether anything moves at all."""
        if actor.parked and self._listen_outside(actor, waited):
            return
        super().check_progress(actor, waited)

    def _listen_outside(self, actor: Actor, waited: float) -> bool:
        """Let time move after a silence outside; False if all has been silent for long."""
        outside = self.outside
        beats, silent, before = actor.heard
        now = outside.look()
        verdict = outside.judge(before, now)
        if beats != self.beats or verdict is Verdict.BUSY:
            silent = 0.0
        elif verdict is not Verdict.STARVED:
            silent += waited
        actor.heard = (self.beats, silent, now)
        if outside.is_over(verdict, silent):
            if verdict is Verdict.RESTLESS:
                self.on_give_up(outside.give_up(before, now))
            self._dispatch_in_silence()
        if silent < self.patience:
            return True
        actor.heard = (self.beats, 0.0, now)
        return False

    def _dispatch_in_silence(self) -> None:
        self._silence = True
        # Who could have woken somebody may have come to rest since.
        self._stalled_at = -1
        self.dispatch()
        self._silence = False

    def jump(self, actor: Actor, until: int, signalled: Callable[[], bool]) -> bool:
        """Move time for the only actor there is; False if it must park like others."""
        with self._lock:
            first = self._timers.first
            if (
                self._running != 1
                or not (self.moves or (self.allowed is not None and until <= self.allowed))
                or self._coming
                or self.elsewhere
                or self._ready
                or self.queue
                or self._watchers
                or signalled()
                or (first is not None and first <= until)
                or self.moved >= self.most_moves
                or self.outside.there
            ):
                return False
            self.moved += 1
            self.now = until
            self.beats += 1
        if self.on_move is not None:
            self.on_move()
        return True

    def timers(self) -> list[Timer]:
        """Return the timers that have not fired, the earliest first."""
        with self._lock:
            return self._timers.live()

    def settle(self, actor: Actor, *, listening: bool = False) -> None:
        """Block the calling thread until nobody else runs; time stands still meanwhile.

        Args:
            actor: The calling thread's.
            listening: Whether to wait for what may yet come from outside, too.
        """
        with self._lock:
            self._on_next_step(actor)
            actor.parked = True
            actor.waiter = None
            actor.listens = False
            actor.wants = "everybody else to come to rest"
            actor.use_gate()
            self._watchers.append((actor, listening))
            self._running -= 1
        self.dispatch()
        self._await_turn(actor)

    def advance(self, actor: Actor, target: int) -> None:
        """Move time to *target* on the calling thread; others come to rest at each moment."""
        # A loop's own thread would listen for what only its coroutines could take in.
        listening = actor.ident not in self.loops
        self.settle(actor, listening=listening)
        while (step := self._step_to(target)) is not None:
            step()
            self.settle(actor, listening=listening)
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
