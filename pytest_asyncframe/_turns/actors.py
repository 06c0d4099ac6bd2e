"""The threads that work for a test and what wakes them: actors, waiters, timers.

Relies on: the other modules of this folder, which alone change them, with the lock held.
"""

from __future__ import annotations

import _thread
import asyncio
import enum
import heapq
import itertools
import math
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import thread as _pools
from dataclasses import dataclass
from threading import Thread
from typing import NoReturn

from pytest_asyncframe._turns.activity import Glance


class TestEndedError(BaseException):
    """Raised in threads that wait on the clock of a test that has ended."""

    __test__ = False  # or pytest collects it as a class of tests

    def __init__(self) -> None:
        super().__init__("the test has ended")


class ProcessDeadError(BaseException):
    """Ends a thread of a dead process that runs nobody's code, and so need not stand still."""


_MOST_REFUSALS = 100
"""Waits in a row that an actor may leave behind after its test, as in nested blocks."""


class State(enum.Enum):
    """What an actor does."""

    RUNNING = "runs"
    PARKED = "waits to be woken"
    READY = "was woken or has just started, and waits for its turn"


class Actor:
    """A thread that works for the test.

    Attributes:
        ident: The thread's identifier.
        native_id: The system's identifier of the thread.
        name: Name for messages.
        identity: Its name where several may come next, the same in every run of the test.
        order: Order among timers for one moment, by the actor that set them; the same for
            all where one actor runs at a time.
        depth: Number of `enter` calls not yet undone: a task inside a task, a loop.
        state: What it does now.
        away: Whether it waits in real time just now, unseen by the sequencer.
        wants: Its text says what it waits for, in messages.
        loop: The event loop that it runs; None if it runs none.
        waiter: What must be notified to wake it; None if it waits for no condition.
        listens: Whether it is parked in its event loop, which wakes it when it gets work.
        number: Its position among the ready actors, lowest first.
        reserved: The number that it gets when it is woken; None for the next free one.
        timer: The timer that wakes it; None if there is none.
        kick: Lets it run. Called on any thread, with no lock held but the sequencer's.
        yields: Whether it is ready but lets all others run first.
        free: Whether it can go on, though it is ready; None if nothing keeps it. Called with
            the sequencer's lock held.
        in_time: Whether `free` was true before the time was over that it had.
        was_seen: Whether it has done something that others may notice since its loop last
            let them run.
        has_work: Returns whether callbacks on its own thread gave its loop something to do
            while it was parked.
        error: Raised when it runs again; None for nothing.
        refusals: How many of its waits were refused.
        is_gone: Whether its process was killed, so that it never goes on.
        stop: Called on its thread once it is gone and at rest; does not return.
        looked: What it saw at its last check while it was ready, and how many checks in a
            row had seen the same before.
        heard: What it saw at its last check while it was parked: `Turns.beats`, the seconds
            of silence so far, and the test's own threads.
    """

    def __init__(self, ident: int, name: str, order: int, identity: str) -> None:
        # Called on the thread itself.
        self.ident: int = ident
        self.native_id: int = _thread.get_native_id()
        self.name: str = name
        self.identity: str = identity
        self.order: int = order
        self.depth: int = 1
        self.number: int = 0
        self.reserved: int | None = None
        self.state: State = State.RUNNING
        self.away: bool = False
        self.free: Callable[[], bool] | None = None
        self.in_time: bool = True
        self.was_seen: bool = True
        self.listens: bool = False
        self.yields: bool = False
        self.wants: object = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiter: Waiter | None = None
        self.timer: Timer | None = None
        self.has_work: Callable[[], bool] = _never
        self.error: BaseException | None = None
        self.refusals: int = 0
        self.is_gone: bool = False
        self.stop: Callable[[], NoReturn] = halt
        self.looked: tuple[object, int] = (None, 0)
        self.heard: tuple[int, float, Mapping[Thread, Glance]] = (-1, 0.0, {})
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self.kick: Callable[[], object] = self._gate.release

    def wait_for_kick(self, seconds: float) -> bool:
        """Block until `kick` is called; False after *seconds* of real time."""
        return self._gate.acquire(True, seconds)

    @property
    def can_go_on(self) -> bool:
        """Whether a ready actor could run if it got a turn; lock held."""
        return self.free is None or self.free()

    @property
    def is_stopped(self) -> bool:
        """Whether it is parked, or waits until it is free."""
        return self.state is State.PARKED or self.free is not None

    @property
    def is_at_rest(self) -> bool:
        """Whether it waits in its event loop, or between two jobs, and in the middle of nothing."""
        return self.yields or self.has_work is not _never

    def drop_timer(self) -> None:
        """Cancel the timer that would wake it, if any."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def raise_error(self) -> None:
        """Raise the error that it was woken with, if any."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def refuse_wait(self) -> None:
        """Raise `TestEndedError` in place of a wait; called on the thread itself.

        Does nothing for one that catches it again and again: it waits for ever, since it would
        take a processor from the tests that follow.
        """
        self.refusals += 1
        if self.refusals <= _MOST_REFUSALS:
            self.drop_timer()
            raise TestEndedError

    def use_gate(self) -> None:
        """Let `kick` end `wait_for_kick`, and not the `select` of a loop."""
        self.has_work = _never
        self.kick = self._gate.release


@dataclass(slots=True, eq=False)
class Arrival:
    """The announcement of a thread that was given work and is about to start.

    Attributes:
        number: Its position among the ready actors; see `Actor.number`.
        has_turn: Whether it was given a turn already.
        identity: See `Actor.identity`.
        life: How many processes of the test had been killed before.
        is_open: Whether the thread is still expected.
    """

    number: int
    has_turn: bool
    identity: str
    life: int = 0
    is_open: bool = True


class Waiter:
    """Takes the place of a lock in a condition's list of waiters.

    The notifier counts the waiting thread as running before it continues itself.

    Attributes:
        notified: Whether a notifier has taken it off the list.
        late: Whether something else has ended the wait before. Such a notification is lost, as
            that of a real lock whose timeout has just passed.
    """

    __slots__ = ("_actor", "_notify", "late", "notified")

    def __init__(self, notify: Callable[[Waiter, Actor], object], actor: Actor) -> None:
        self._notify = notify
        self._actor = actor
        self.notified: bool = False
        self.late: bool = False

    def release(self) -> None:
        """Wake the waiting thread; called by ``Condition.notify``."""
        self._notify(self, self._actor)


@dataclass(slots=True, eq=False)
class Timer:
    """A timer on virtual time; see `framework.protocols.TimerHandle`.

    Attributes:
        when: The nanosecond at which it fires.
        fn: The function that it calls; None if it wakes an actor.
        actor: The actor that it wakes; None if it calls a function.
        setter: The actor that has set it; None for a thread that is none.
        background: Whether nobody waits for it, so that time does not move for it.
        location: Where the user's code set it; "" if other code did.
        number: How many timers of the test were set before it.
    """

    when: int
    fn: Callable[[], object] | None
    actor: Actor | None
    number: int
    setter: Actor | None = None
    background: bool = False
    location: str = ""

    @property
    def live(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return self.fn is not None or self.actor is not None

    @property
    def identity(self) -> str:
        """Its name among what may come next; see `Actor.identity`."""
        return f"timer#{self.number}" if self.actor is None else f"{self.actor.identity} (time)"

    def cancel(self) -> None:
        """Cancel it; does nothing once it has fired. Any thread."""
        self.fn = self.actor = None


LAST = sys.maxsize
"""The order of a timer that fires after all others of its moment."""

PATIENT = LAST - 1
"""The order of a timer that fires once nobody else can go on at its moment; it is no choice."""


class Timers:
    """Timers in the order of their times; equal ones by *order*, then as they were set.

    Nothing here takes a lock or calls other code.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._sequence = itertools.count()

    def push(
        self, when: int, fn: Callable[[], object] | None, actor: Actor | None, order: int
    ) -> Timer:
        """Set a timer and return it; see `Timer` for the arguments."""
        number = next(self._sequence)
        timer = Timer(when, fn, actor, number)
        heapq.heappush(self._heap, (when, order, number, timer))
        return timer

    @property
    def first(self) -> int | None:
        """The nanosecond of the earliest timer; None if there is none."""
        heap = self._heap
        while heap and not heap[0][3].live:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    @property
    def first_is_last(self) -> bool:
        """Whether the timer of `first` fires after all others of its moment."""
        return self._heap[0][1] == LAST

    def is_due(self, now: int) -> bool:
        """Whether a timer is set up to nanosecond *now*, fired or not."""
        return bool(self._heap) and self._heap[0][0] <= now

    def due(self, now: int) -> list[Timer]:
        """Return the timers that may fire first at nanosecond *now*, but none that lets others.

        These are all of the earliest moment that has come.
        """
        first = self.first
        if first is None or first > now:
            return []
        found = sorted(one for one in self._heap if one[0] <= first and one[1] < PATIENT)
        return [timer for _, _, _, timer in found if timer.live]

    def pop(self) -> Timer:
        """Remove and return the timer of `first`, which must have been read before."""
        return heapq.heappop(self._heap)[3]

    @property
    def first_last(self) -> float:
        """The nanosecond of the earliest timer that fires last at its moment; else infinity."""
        found = (when for when, order, _, timer in self._heap if order == LAST and timer.live)
        return min(found, default=math.inf)

    @property
    def foreground(self) -> bool:
        """Whether there is a timer that somebody waits for."""
        return any(timer.live and not timer.background for _, _, _, timer in self._heap)

    def live(self) -> list[Timer]:
        """Return the timers that have not fired, earliest first."""
        return [timer for _, _, _, timer in sorted(self._heap) if timer.live]


def hide(ident: int | None) -> None:
    """Let nobody wait for a thread that never ends: not the next tests, nor the interpreter.

    Args:
        ident: Its identifier; that of a thread that is not listed is passed over.
    """
    thread = threading._active.pop(ident, None)  # type: ignore[attr-defined]
    if thread is not None:
        _pools._threads_queues.pop(thread, None)  # type: ignore[attr-defined]


def halt() -> NoReturn:
    """Stop the calling thread for ever, in the middle of what it does."""
    hide(_thread.get_ident())
    lock = _thread.allocate_lock()
    while True:
        lock.acquire()


def leave_dead() -> NoReturn:
    """End the calling thread, which runs nobody's code.

    Raises:
        ProcessDeadError: Always.
    """
    raise ProcessDeadError


def _never() -> bool:
    return False


def nothing(*_: object) -> None:
    """Do nothing: the default of callbacks."""
