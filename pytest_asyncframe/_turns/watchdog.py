"""What an actor that waits in real time checks: whether others block, and what is outside.

Guarantees: time moves on after a silence outside the clock, and a test that does nothing any
    more is reported.
Relies on: each actor calling `check` once `interval` has passed, without the lock of `Turns`.
    `activity` for what threads do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import Thread
from typing import Protocol

from pytest_asyncframe._turns.activity import activity
from pytest_asyncframe._turns.actors import Actor, State, nothing
from pytest_asyncframe._turns.outside import Outside, Verdict

POLL_INTERVAL = 0.05
"""Real seconds after which a ready actor checks whether the running ones block."""


class Watched(Protocol):
    """What a watchdog may ask and tell; see `Sequencer`."""

    @property
    def beats(self) -> int: ...
    @property
    def first(self) -> Actor | None: ...

    def fail(self, actor: Actor, error: BaseException) -> None:
        """Wake a stopped actor, which then raises *error*."""
        ...

    def overtake(
        self, actor: Actor, have_blocked: Callable[[list[Actor]], bool]
    ) -> list[Actor] | None:
        """Let a ready actor run beside others if these block; return them, None if it waits on."""
        ...

    def dispatch_in_silence(self) -> None:
        """Decide what comes next, given that nothing happens outside."""
        ...


class Watchdog:
    """Looks after the actors of one test.

    Args:
        turns: The actors.
        outside: What may happen outside the clock.

    Attributes:
        patience: Real seconds after which a parked actor checks for progress, above 0.
        debugged: Whether a debugger holds an actor up, which then counts as running.
        on_quiet: Called on a parked actor when nothing has happened for `patience`. May
            return an error, which that actor raises.
        on_overtake: Called on an actor that runs beside others because these block outside
            the clock, with those others.
        on_give_up: Called with the test's own threads that time no longer waits for.
    """

    def __init__(self, turns: Watched, outside: Outside) -> None:
        # Weakly, so that no cycle keeps a test until a garbage collection.
        self._turns: Watched = weakref.proxy(turns)
        self._outside = outside
        self.patience: float = 5.0
        self.debugged: bool = False
        self.end()

    def end(self) -> None:
        """Stop calling functions of the test."""
        self.on_quiet: Callable[[Actor], BaseException | None] = nothing
        self.on_overtake: Callable[[list[Actor]], object] = nothing
        self.on_give_up: Callable[[list[Thread]], object] = nothing

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
        is_parked = actor.state is State.PARKED
        if (is_parked and self._listen(actor, waited)) or self.debugged:
            return
        if not is_parked:
            others = self._turns.overtake(actor, lambda others: self._have_blocked(actor, others))
            if others is not None:
                self.on_overtake(others)
            return
        error = self.on_quiet(actor)
        if error is not None:
            self._turns.fail(actor, error)

    def _have_blocked(self, actor: Actor, others: list[Actor]) -> bool:
        """Whether *others* have blocked since *actor*, which is ready, last checked."""
        seen = (self._turns.beats, [activity(one.native_id) for one in others])
        before, times = actor.looked
        times = times + 1 if seen == before else 0
        actor.looked = (seen, times)
        # Nobody to check means that a thread is about to start, or a timer is firing.
        return times * POLL_INTERVAL >= (POLL_INTERVAL if others else self.patience)

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
            turns.dispatch_in_silence()
        if silent < self.patience:
            return True
        actor.heard = (turns.beats, 0.0, now)
        return False
