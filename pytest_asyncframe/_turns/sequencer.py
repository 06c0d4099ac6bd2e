"""What happens next in a test: who gets a turn, what starts, when virtual time moves.

Guarantees:
    Time moves only while no actor runs and no announced thread is yet to start.
    Timers fire one at a time, in the order of their times; equal ones in the order in which
    they were set, or of the tasks that set them where threads run side by side. What a timer
    starts is idle again before the next one fires.
    With a chooser it decides wherever several actors, queued calls and timers of one moment
    may come next, and timers call their functions on a thread of their own, an actor.
Relies on:
    `turns` for which actors run.
    `outside` for what else may happen: then time moves only after a silence.
Lock order:
    See `turns`. The lock is not held while a timer fires.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from pytest_asyncframe._turns.actors import LAST, PATIENT, Actor, Arrival, Timer, nothing
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe._turns.endings import Endings
from pytest_asyncframe._turns.hearing import ENDED

_MOST_MOVES = 1_000_000
"""How often time may move by itself without progress; takes some ten seconds."""


_Job: TypeAlias = tuple[Arrival, Callable[[], object]]


class Sequencer(Endings):
    """The actors of one test, its virtual time and its queue.

    Args:
        moves: Whether time moves by itself when nobody runs.
        starts: Whether queued calls start by themselves.
        hold: Whether they wait until nobody runs; else they start as soon as there is room.
        one_at_a_time: Whether only one actor runs at a time.
        chooser: Decides what comes next, with *one_at_a_time* only; None for what is first.

    Attributes:
        allowed: Nanosecond up to which time moves though `moves` is false; None for not at all.
        on_move: Called after time has moved, on any thread.
        on_stall: Called at a deadlock; may return an error for `first`.
        on_runaway: Called when `moved` reaches `most_moves`; may return an error for `first`.
        moved: How often time has moved by itself; whoever sees progress sets it to 0.
        most_moves: Limit of `moved`, from 1 on.
        takes_threads: Whether threads that the test or its app starts are actors too.
        has_looped: Whether an event loop has run on a thread of an actor.
    """

    def __init__(
        self,
        *,
        moves: bool = False,
        starts: bool = True,
        hold: bool = True,
        one_at_a_time: bool = False,
        chooser: Chooser | None = None,
    ) -> None:
        super().__init__(one_at_a_time=one_at_a_time, starts=starts, chooser=chooser)
        self.moves = moves
        self.hold = hold
        self.allowed: int | None = None
        self.on_move: Callable[[], object] | None = None
        self.on_stall: Callable[[], BaseException | None] = nothing
        self.on_runaway: Callable[[], BaseException | None] = nothing
        self.moved: int = 0
        self.most_moves: int = _MOST_MOVES
        self.takes_threads: bool = False
        self.has_looped: bool = False
        # Only a chooser needs them, and they refer back.
        self._timer_threads = None if chooser is None else TimerThreads(self)
        self._stalled_at = -1
        # The nanosecond to which `advance` moves time just now.
        self._target: int | None = None

    # -- dispatching

    def dispatch(self, *, in_silence: bool = False) -> None:
        """Wake the next actor, start the next queued call, or move time to the next timer.

        Args:
            in_silence: Whether nothing happens outside. What begins now may change that.
        """
        while (step := self._next_step(in_silence)) is not None:
            step()
            in_silence = False

    def _next_step(self, in_silence: bool) -> Callable[[], object] | None:
        """Decide what comes next; return what is to be called without the lock, or None."""
        # The order of these tests is the order of priority.
        with self._lock:
            if self._admitter is not None:
                # The admitting thread dispatches again; two at once would mix up the order.
                return None
            startable = self._startable()
            if startable and not self.hold:
                return self._admission(startable[0])
            if self._roster.running or self._roster.coming:
                return None
            chosen = self._choose_next(startable)
            if chosen is not None:
                return self._begin(chosen)
            if self._roster.elsewhere:
                return None
            if self._watchers:
                watcher, listening = self._watchers[-1]
                if not (listening and self._is_held(in_silence)):
                    self._watchers.pop()
                    self._roster.wake(watcher, in_turn=self.one_at_a_time)
                return None
            return self._next_moment(in_silence)

    def _next_moment(self, in_silence: bool) -> Callable[[], object] | None:
        """Move time to the next timer, or report that there is none."""
        if self.moved >= self.most_moves:
            self.moved = 0
            return self._report_to_first(self.on_runaway)
        # Asked once: what is outside may end in between, and a deadlock would be told.
        held = self._is_held(in_silence)
        timer = self._next_timer(None, held=held)
        if timer is None:
            if held or not self.actors:
                return None
            if self._stalled_at == self._roster.beats and not in_silence:
                # Unless a thread that could have woken an actor then is idle by now.
                return None
            if self.first is None or not self.first.is_stopped:
                # Nobody can raise it, for example while a pool shuts down after the test.
                return None
            # Once for each change: what raises nothing now is not asked again until then.
            self._stalled_at = self._roster.beats
            return self._report_to_first(self.on_stall)
        moved = timer.when > self.now
        if moved:
            self.moved += 1
            self._pass_to(timer.when)
        actor = timer.actor
        if actor is not None and (not moved or self.on_move is None):
            self._roster.wake(actor, in_turn=self.one_at_a_time)
            # One that waited to be free is ready now, but nobody has given it a turn.
            return nothing
        # The wall clock is moved, by `on_move`, before anybody can read it.
        return self._firing(timer)

    def _firing(self, timer: Timer) -> Callable[[], object]:
        """Take a turn for a timer; return what fires it, to be called unlocked."""
        actor, fn = timer.actor, timer.fn
        threads = self._timer_threads
        if threads is not None and fn is not None:
            arrival = self._roster.announce(timer.identity, with_turn=True)
            timer.cancel()
            return lambda: threads.call(arrival, lambda: self._call_for(timer, fn))
        timer.cancel()
        self._roster.running += 1
        if actor is not None:
            return lambda: self._fire(lambda: self._wake_stopped(actor))
        # None if another thread has just cancelled it, which takes no lock.
        return lambda: self._fire(nothing if fn is None else fn)

    def _wake_stopped(self, actor: Actor) -> None:
        with self._lock:
            if actor.is_stopped:
                self._roster.wake(actor, in_turn=self.one_at_a_time)

    def _fire(self, fn: Callable[[], object]) -> None:
        try:
            self._call(fn)
        finally:
            self._release_turn()

    def _call_for(self, timer: Timer, fn: Callable[[], object]) -> None:
        self.listeners.acquired(timer)
        self._call(fn)

    def _call(self, fn: Callable[[], object]) -> None:
        ident = _thread.get_ident()
        # Without the lock: each thread adds and removes only itself. A callback may advance time
        # itself, and so fire other timers.
        outermost = ident not in self.firing
        self.firing.add(ident)
        try:
            if self.on_move is not None:
                self.on_move()
            fn()
        finally:
            if outermost:
                self.firing.discard(ident)

    def _report_to_first(self, explain: Callable[[], BaseException | None]) -> Callable[[], object]:
        """Take a turn; return what wakes `first` with the error, to be called unlocked."""
        self._roster.running += 1
        return lambda: self._fail_first(explain())

    def end(self) -> None:
        """End the threads of the timers, and call nothing of the test any more."""
        super().end()
        if self._timer_threads is not None:
            self._timer_threads.end()
        self.on_stall = self.on_runaway = nothing

    def _fail_first(self, error: BaseException | None) -> None:
        with self._lock:
            self._roster.running -= 1
            if error is not None and self.first is not None:
                self._throw(self.first, error)

    def _forget_wait(self, actor: Actor) -> None:
        """Drop what *actor* waits for, since the handler of a signal lets it run on."""
        super()._forget_wait(actor)
        self.outside.met["a signal whose handler has raised an error"] = None
        self._watchers = [one for one in self._watchers if one[0] is not actor]

    def count_elsewhere(self, more: int) -> None:
        """Add to the number of calls in other processes; below 0 for those that have ended."""
        if more > 0:
            self.outside.met["a call in another process"] = None
        with self._lock:
            self._roster.beats += 1
            self._roster.elsewhere += more
        if more < 0:
            self.dispatch()

    @property
    def elsewhere(self) -> int:
        """How many calls run in other processes."""
        return self._roster.elsewhere

    def yield_turn(self, actor: Actor) -> None:
        """Let another actor run or a queued call start first, if there is one."""
        with self._lock:
            self._on_next_step(actor)
            if not self.one_at_a_time or not (self._roster.ready or self.queue.waiting):
                return
            actor.yields = True
            self._stop_at_point(actor)
        self.dispatch()
        self._await_turn(actor)
        actor.yields = False

    # -- time

    def call_at(
        self, when: int, fn: Callable[[], object], *, background: bool = False, last: bool = False
    ) -> Timer:
        """Call *fn* at nanosecond *when*, or as soon as nobody runs if that has passed.

        Args:
            when: The nanosecond of virtual time.
            fn: The function.
            background: Whether nobody waits for it, so that time does not move for it.
            last: Whether it fires after all other timers of that nanosecond, also those that
                are set later, and after a silence outside.
        """
        # Threads that run side by side set their timers in random order.
        setter = self.actors.get(_thread.get_ident())
        order = 0 if setter is None else setter.order
        with self._lock:
            timer = self._timers.push(max(when, self.now), fn, None, LAST if last else order)
            timer.background, timer.setter = background, setter
        self.listeners.released(timer)
        # Without the lock: whoever runs dispatches when it stops.
        if not self._roster.running:
            self.dispatch()
        return timer

    def _next_timer(self, limit: int | None, *, held: bool) -> Timer | None:
        """Remove and return the next timer; None if time may not move that far.

        Args:
            limit: Nanosecond up to which time may move; None for as far as it moves by itself.
            held: Whether time must not move by itself; see `_is_held`.
        """
        when = self._timers.first
        if when is None:
            return None
        moves = when > self.now or self._timers.first_is_last
        if moves and not self._may_move_to(when, limit, held=held):
            return None
        if self._chooser is not None:
            timers = self._timers.due(when)
            if timers:
                # What is chosen stays in the heap, and is dropped once it has fired.
                chosen = self._choose("start", "", [*timers])
                assert isinstance(chosen, Timer)
                return chosen
        return self._timers.pop()

    def _may_move_to(self, when: int, limit: int | None, *, held: bool) -> bool:
        if limit is not None:
            return when <= limit
        if held:
            return False
        if self.allowed is not None and when <= self.allowed:
            return True
        return self.moves and self._timers.foreground

    def _is_held(self, in_silence: bool) -> bool:
        """Whether something may yet happen outside the clock."""
        return not in_silence and self.outside.may_act(self.known)

    def is_due(self, when: int) -> bool:
        """Whether a timer is due at nanosecond *when* or before."""
        with self._lock:
            first = self._timers.first
            return first is not None and first <= when

    def jump(self, actor: Actor, until: int, signalled: Callable[[], bool]) -> bool:
        """Move time to *until* without parking, if that comes to the same.

        This is for speed: a coroutine that sleeps needs no other thread to move time.

        Args:
            actor: The calling thread's.
            until: The nanosecond at which it would be woken.
            signalled: Returns whether its loop was woken meanwhile. Whoever parks asks for that
                again, so asking does not reset it.

        Returns:
            Whether time has moved; False if the actor must park.
        """
        roster = self._roster
        with self._lock:
            first = self._timers.first
            if (
                roster.running != 1
                or not (self.moves or (self.allowed is not None and until <= self.allowed))
                or roster.coming
                or roster.elsewhere
                or roster.ready
                or self.queue.waiting
                or self._watchers
                or signalled()
                or (first is not None and first <= until)
                or self.moved >= self.most_moves
                or self.outside.may_act(self.known)
            ):
                return False
            self.moved += 1
            self._pass_to(until)
            roster.beats += 1
        if self.on_move is not None:
            self.on_move()
        return True

    def let_pass(self, when: int) -> None:
        """Let time pass until nanosecond *when* on the calling thread, which runs on."""
        with self._lock:
            self._pass_to(when)
            self._roster.beats += 1
        if self.on_move is not None:
            self.on_move()

    @property
    def horizon(self) -> float:
        """The nanosecond up to which the test lets time pass; infinity for no limit."""
        with self._lock:
            bounds = [self._timers.first_last]
            if self._target is not None:
                bounds.append(self._target)
            elif not self.moves:
                bounds.append(self.now if self.allowed is None else self.allowed)
            return min(bounds)

    def timers(self) -> list[Timer]:
        """Return the timers that have not fired, the earliest first."""
        with self._lock:
            return self._timers.live()

    def settle(self, actor: Actor, *, listening: bool = False) -> None:
        """Block the calling thread until nobody else runs. Time stands still meanwhile.

        Args:
            actor: The calling thread's.
            listening: Whether to wait for a silence outside too.
        """
        actor.use_gate()
        with self._lock:
            self.try_park(actor, None, None, "for all others to be idle")
            self._watchers.append((actor, listening))
        self.dispatch()
        self._await_turn(actor)
        self.listeners.acquired(ENDED)

    def let_others(self, actor: Actor, free: Callable[[], bool], wants: str) -> None:
        """Block the calling thread until it is free, or nobody else can go on at this moment.

        Args:
            actor: The calling thread's.
            free: See `block`.
            wants: Its text says what it waits for, in messages.
        """
        with self._lock:
            actor.timer = self._timers.push(self.now, None, actor, PATIENT)
        self.block(actor, free, None, wants)

    def advance(self, actor: Actor, target: int) -> None:
        """Move time to *target*; at each timer, wait until all others are idle again."""
        # On a loop's own thread its sockets cannot be read meanwhile, so nothing can happen.
        listening = actor.loop is None
        before, self._target = self._target, target
        try:
            self.settle(actor, listening=listening)
            while (step := self._step_to(target)) is not None:
                step()
                self.settle(actor, listening=listening)
        finally:
            self._target = before
        with self._lock:
            moved = target > self.now
            self._pass_to(target)
        if moved and self.on_move is not None:
            self.on_move()

    def _step_to(self, target: int) -> Callable[[], object] | None:
        """Move time to the next timer up to *target*; return what fires it, or None."""
        with self._lock:
            timer = self._next_timer(target, held=False)
            if timer is None:
                return None
            self._pass_to(timer.when)
            return self._firing(timer)


class TimerThreads:
    """Threads that are actors while they call something; they start when they are needed.

    There are several only if a timer fires while the function of another one waits, or lets
    others run at a point. The next call of a thread comes after `Turns.leave` for the one before.

    Args:
        sequencer: The actors of the test, the first of which raises what a call has raised.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        # Where the idle ones wait for a job, or for None, which ends them. In real time, since
        # a `SimpleQueue` waits in C.
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._ended = False

    def call(self, arrival: Arrival, fn: Callable[[], object]) -> None:
        """Let a thread call *fn*; *arrival* announces it, with its turn."""
        if self._idle:
            self._idle.pop().put((arrival, fn))
        else:
            _thread.start_new_thread(self._run, ((arrival, fn),))

    def end(self) -> None:
        """End the threads once they are idle."""
        self._ended = True
        while self._idle:
            self._idle.pop().put(None)

    def _run(self, first: _Job) -> None:
        jobs: SimpleQueue[_Job | None] = SimpleQueue()
        job: _Job | None = first
        while job is not None:
            job = jobs.get() if self._do(job, jobs) else None
        self._sequencer.has_ended(_thread.get_ident())

    def _do(self, job: _Job, jobs: SimpleQueue[_Job | None]) -> bool:
        """Do a job as an actor; return whether the thread is to wait for the next one."""
        arrival, fn = job
        sequencer = self._sequencer
        actor = sequencer.enter(arrival, name="timers")
        try:
            fn()
        except BaseException as error:  # the thread has no caller that could raise it
            if sequencer.first is not None:
                sequencer.fail(sequencer.first, error)
        finally:
            stays = not self._ended
            if stays:
                # Before it leaves: another timer may fire as soon as it has.
                self._idle.append(jobs)
            sequencer.leave(actor)
        return stays
