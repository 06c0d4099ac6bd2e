"""What may come next in a test, and where the running actor lets others run instead.

Guarantees:
    A choice is made when all threads that were announced are there, among the same options
    in the same order in each run of a test that makes the same choices.
    At a point the turn is handed over under the lock: there is no moment in which nobody
    runs, so that a thread that nobody expects cannot come in between.
Relies on:
    `turns` for which actors are ready, `task_queue` for what is queued.
Lock order:
    See `turns`. With the lock held, `room` and the chooser are called, which take no lock; a
    queued call is started without it.
"""

from __future__ import annotations

import _thread
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from framework.testing import Queued
from pytest_asyncframe._turns.actors import Actor, Arrival, State, Timer, nothing
from pytest_asyncframe._turns.choices import FAULT, Chooser, Pending
from pytest_asyncframe._turns.hearing import HeardTurns

Candidate: TypeAlias = Actor | Queued | Timer
"""What may come next: a ready actor, a queued task or call, or a timer that is due."""


class Points(HeardTurns):
    """The actors of one test, and what may come next.

    Args:
        one_at_a_time: Whether only one actor runs at a time.
        starts: Whether queued calls start by themselves.
        chooser: Decides what comes next, with *one_at_a_time* only; None for what is first.

    Attributes:
        room: Returns how many queued calls could start now, 0 or less for none.
        pause: Called without the lock on an actor that has reached a point, or between two steps
            of its loop; None for no call. It may block for a moment.
        before_point: Called without the lock on an actor that has reached a point, with the
            kind of point and what it is about to do; None for no call.
        on_moment: Called without the lock on an actor that has reached a point, before others may
            come; None for no call. It may let time pass, and returns whether it has.
        on_start: Called without the lock on an actor that has started a thread, or a call on one,
            with what it has called; None for no call.
    """

    def __init__(self, *, one_at_a_time: bool, starts: bool, chooser: Chooser | None) -> None:
        super().__init__(one_at_a_time=one_at_a_time)
        self.starts = starts
        self.room: Callable[[], int] = lambda: 0
        self.pause: Callable[[], object] | None = None
        self.before_point: Callable[[str, str], object] | None = None
        self.on_moment: Callable[[Actor], bool] | None = None
        self.on_start: Callable[[str], object] | None = None
        # Identifiers of the threads inside `undivided`; each adds and removes only itself.
        self._undivided: set[int] = set()
        self._chooser = chooser
        # The actor that stands at a point until all announced threads are there.
        self._at_point: Actor | None = None
        # The thread that is starting a queued call just now.
        self._admitter: int | None = None
        self._admitted: dict[Queued, Arrival] = {}

    def end(self) -> None:
        """Stop calling functions of the test."""
        super().end()
        self.pause = self.before_point = self.on_moment = self.on_start = None

    @abstractmethod
    def _firing(self, timer: Timer) -> Callable[[], object]:
        """Take a turn for a timer; return what fires it, to be called unlocked."""

    # -- the queue

    def enqueue(self, queued: Queued, *, after_return: bool = False) -> None:
        """Queue a task or call, which may start at once.

        Args:
            queued: The task or call.
            after_return: Whether it must not start before the submitting call has returned.
                The next step of the calling actor shows that it has. Without points, nothing
                starts before the calling loop's step has ended.
        """
        actor = self.here
        roster = self._roster
        self.listeners.released(queued)
        with self._lock:
            roster.beats += 1
            self._on_next_step(actor)
            identity = roster.new_identity(queued.name)
            if actor is not None and actor.loop is not None and self._chooser is None:
                # Nothing starts before the loop's step has ended.
                after_return = False
            self.queue.add(queued, identity, actor if after_return else None)
        self.dispatch()

    def remove(self, queued: Queued) -> None:
        """Take a task or call off the queue without starting it."""
        with self._lock:
            self.queue.remove(queued)

    def admit(self, queued: Queued) -> bool:
        """Start a queued task or call; False if it is no longer queued."""
        with self._lock:
            if queued not in self.queue.waiting:
                return False
            step = self._admission(queued)
        step()
        self.dispatch()
        return True

    def _startable(self) -> list[Queued]:
        """Return the queued tasks and calls that may start; coroutines need no free thread."""
        if not self.starts or not self.queue.waiting:
            return []
        return self.queue.startable(has_room=self.room() > 0)

    @property
    def has_startable(self) -> bool:
        """Whether a queued task or call could start if the running actors stopped."""
        with self._lock:
            return bool(self._startable())

    def next_queued(self) -> Queued | None:
        """Return the queued task or call that a pool would start next; None for none."""
        with self._lock:
            return next(iter(self.queue.in_order()), None)

    def _admission(self, queued: Queued) -> Callable[[], object]:
        """Take a task or call off the queue; return what starts it, to be called unlocked."""
        identity = self.queue.start(queued)
        self._admitter = _thread.get_ident()
        # The turn belongs to its thread, or to this one until it has woken the loop.
        if queued.kind == "thread":
            self._admitted[queued] = self._roster.announce(identity, with_turn=True)
        else:
            self._roster.running += 1
        return lambda: self._admit(queued)

    def arrival_of(self, queued: Queued) -> Arrival | None:
        """Return, once, the announcement of the thread that runs *queued*."""
        # Without the lock: it was set before that thread could start, and is taken once.
        return self._admitted.pop(queued, None)

    def _admit(self, queued: Queued) -> None:
        self.listeners.acts_for(queued)
        try:
            queued.admit()
        finally:
            self.listeners.acts_for(None)
            self._admitter = None
            if queued.kind == "loop":
                self._release_turn()

    def _release_turn(self) -> None:
        """Give back the turn that this thread has taken to call something."""
        with self._lock:
            # What was called may have given this thread's own loop something to do. It is
            # parked in its `select`, which nobody else would end.
            actor = self.actors.get(_thread.get_ident())
            if actor is not None and actor.state is State.PARKED and actor.has_work():
                self._roster.wake(actor, in_turn=self.one_at_a_time)
            self._roster.running -= 1

    # -- beside what blocks outside the clock

    def overtake(
        self, actor: Actor, have_blocked: Callable[[list[Actor]], bool]
    ) -> list[Actor] | None:
        """Let a ready actor run beside running ones; return these, None if it has to wait."""
        with self._lock:
            if self._roster.first_ready is not actor:
                return None
            others = self._at_work
            if not have_blocked(others):
                return None
            self._roster.give_turn(actor)
        return others

    @property
    def _at_work(self) -> list[Actor]:
        """The actors that run, as far as is known; lock held."""
        return [one for one in self.actors.values() if one.state is State.RUNNING and not one.away]

    def start_beside(self, have_blocked: Callable[[list[Actor]], bool]) -> list[Actor] | None:
        """Start a queued call beside running actors; return these, None if it has to wait."""
        with self._lock:
            startable = self._startable()
            others = self._at_work
            is_held = self._admitter is not None or self._roster.coming
            if is_held or not (startable and others) or not have_blocked(others):
                return None
            step = self._admission(startable[0])
        step()
        self.dispatch()
        return others

    # -- points

    def point(self, kind: str, what: str, *, returned: bool = True, if_late: bool = False) -> None:
        """Let others run here, if the chooser says so; the calling actor goes on later.

        Does nothing without a chooser, and on a thread that is no actor.

        Args:
            kind: See `Chooser.choose`.
            what: What the calling actor is about to do.
            returned: Whether every call of it that has submitted a task has returned.
            if_late: Whether to let others run only if time has passed here.
        """
        actor = self.here
        if actor is None or self._chooser is None or not self.one_at_a_time:
            return
        if actor.ident in self._undivided:
            return
        if not if_late:
            self._before(kind, what)
        has_passed = self.on_moment is not None and self.on_moment(actor)
        if if_late and not has_passed:
            return
        with self._lock:
            if returned:
                self._on_next_step(actor)
            actor.was_seen = True
            if self._is_alone:
                return
            step = self._hand_over(actor, kind, what)
        while step is not None:
            step()
            self.dispatch()
            self._await_turn(actor)
            step = self._choose_again(actor, kind, what) if step is _until_all_came else None

    def _choose_again(self, actor: Actor, kind: str, what: str) -> Callable[[], object] | None:
        """Decide who runs on, as `_hand_over`, after *actor* has waited for threads to come."""
        with self._lock:
            if self._at_point is actor:
                # It went on beside those that came, since they block outside the clock.
                self._at_point = None
            return self._hand_over(actor, kind, what)

    def _before(self, kind: str, what: str) -> None:
        if self.pause is not None:
            self.pause()
        if self.before_point is not None:
            self.before_point(kind, what)

    def has_started(self, what: str) -> None:
        """Called after the calling thread has started another one, or a call on one."""
        if self.on_start is not None:
            self.on_start(what)

    @property
    def _is_alone(self) -> bool:
        """Whether nothing may come next but the actor that runs; lock held."""
        roster = self._roster
        due = self._timers.is_due(self.now)
        return not (roster.ready or self.queue.waiting or roster.coming or due)

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Let nobody else run at the points that this thread reaches inside the block.

        Whoever waits for something lets others run all the same.
        """
        ident = _thread.get_ident()
        self._undivided.add(ident)
        try:
            yield
        finally:
            self._undivided.discard(ident)

    @property
    def is_undivided(self) -> bool:
        """Whether this thread is inside `undivided`."""
        return _thread.get_ident() in self._undivided

    def has_freed(self) -> None:
        """Called after the calling thread has done something that may let others go on."""
        actor = self.here
        if actor is not None:
            actor.was_seen = True
        elif not self.is_interrupted:
            # Only actors see to it that the next one runs.
            self.dispatch()

    def _hand_over(self, actor: Actor, kind: str, what: str) -> Callable[[], object] | None:
        """Decide who runs on; return what is to be called unlocked, None to go on at once."""
        roster = self._roster
        if self._admitter == actor.ident or (self._admitter is None and roster.running != 1):
            # It is starting a call, or something runs beside it that blocks outside the clock.
            return None
        if roster.coming or self._admitter is not None:
            # Nobody may run until they are there, since they are options too, and until the
            # call is started: a thread may come to its first point before that.
            self._at_point = actor
            self._stop_at_point(actor)
            return _until_all_came
        others = self._others(self._startable(), but=actor)
        chosen = self._choose(kind, what, [actor, *others], preempts=True)
        if chosen is actor:
            return None
        # Handed over under the lock, so that there is no moment in which nobody runs.
        self._stop_at_point(actor)
        return self._begin(chosen) or nothing

    def _stop_at_point(self, actor: Actor) -> None:
        actor.use_gate()
        self._roster.make_ready(actor)
        self._roster.running -= 1

    def _forget_wait(self, actor: Actor) -> None:
        super()._forget_wait(actor)
        if self._at_point is actor:
            self._at_point = None

    def between_steps(self, ran_users_code: Callable[[], bool]) -> None:
        """Let others run between two steps of the calling thread's loop, as a point does.

        Only if the loop has done something since the last time that others may notice: its
        steps are many, and most of them are the plumbing of a request.

        Args:
            ran_users_code: Whether the latest step has run code that others may notice,
                though it has not called the framework and has woken nobody.
        """
        actor = self.here
        if actor is None:
            return
        if self.pause is not None:
            self.pause()
        with self._lock:
            self._on_next_step(actor)
            was_seen, actor.was_seen = actor.was_seen, False
            if self._is_alone and self.on_moment is None:
                return
        if was_seen or ran_users_code():
            self.point("await", "")
            actor.was_seen = False

    def choose_step(self, options: Sequence[str], after: str) -> int:
        """Return the index of the step that a loop makes next.

        Args:
            options: The identities of those that may come next.
            after: Where in the user's code the latest step has stopped; "" if in none.
        """
        with self._lock:
            return (
                0 if self._chooser is None else self._chooser.choose("await", after, options, False)
            )

    @property
    def takes_time(self) -> bool:
        """Whether time may pass though somebody can go on; see `Chooser`."""
        return self._chooser is not None and self._chooser.takes_time

    def pass_time(self, pending: Sequence[Pending], served: Sequence[str]) -> int | None:
        """Return the index of the timeout until which time passes now; see `Chooser`."""
        return None if self._chooser is None else self._chooser.pass_time(pending, served)

    def choose_fault(self, what: str, options: Sequence[str]) -> int:
        """Return the index of what happens to the calling actor, given the identities of faults."""
        with self._lock:
            return 0 if self._chooser is None else self._chooser.choose(FAULT, what, options, True)

    def identity_on_loop(self, name: str) -> str:
        """Return the identity of an asyncio task, when it is about to make its first step.

        Args:
            name: The name of the framework's task that it runs, or of its coroutine.
        """
        with self._lock:
            return self.queue.identity_on_loop(name) or self._roster.new_identity(name)

    # -- choices

    def _begin(self, chosen: Candidate) -> Callable[[], object] | None:
        """Let what was chosen come next; return what is to be called unlocked, or None."""
        if isinstance(chosen, Queued):
            return self._admission(chosen)
        if isinstance(chosen, Timer):
            return self._firing(chosen)
        self._roster.give_turn(chosen)
        return None

    def _choose_next(self, startable: list[Queued]) -> Candidate | None:
        """Return what comes next at this moment; None if there is nothing."""
        at_point, self._at_point = self._at_point, None
        if at_point is not None:
            # It chooses itself, as at any point: choosers ask which thread calls them.
            return at_point
        if not (startable or self._roster.ready):
            return None
        candidates = self._others(startable)
        return self._choose("start", "", candidates) if candidates else None

    def _others(self, startable: list[Queued], but: Actor | None = None) -> list[Candidate]:
        """Return what may come next at this moment, except *but*, the default first."""
        ready = [actor for actor in self._roster.ready if actor is not but and actor.can_go_on]
        found: list[Candidate] = [actor for actor in ready if not actor.yields]
        found += startable
        found += [actor for actor in ready if actor.yields]
        # Otherwise a timer waits until nobody else can go on.
        if self._chooser is not None and (found or but is not None):
            found += self._timers.due(self.now)
        return found

    def _choose(
        self, kind: str, what: str, candidates: list[Candidate], *, preempts: bool = False
    ) -> Candidate:
        # A single candidate is not drawn: whether it had to queue is chance, and a draw more
        # or less would change all that follow from the same seed.
        if self._chooser is None or len(candidates) < 2:
            return candidates[0]
        options = [
            self.queue.identity_of(one) if isinstance(one, Queued) else one.identity
            for one in candidates
        ]
        return candidates[self._chooser.choose(kind, what, options, preempts)]


def _until_all_came() -> None:
    """Wait at a point until all announced threads are there, and choose then."""
