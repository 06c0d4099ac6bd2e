"""Those who work for a test, and what wakes them: actors, waiters, timers.

Relies on: `sequencer`, which alone changes them, under its lock.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Mapping
from threading import Thread

from pytest_asyncframe._turns.activity import Glance


class TestEndedError(BaseException):
    """Raised where a thread waits on the clock of a test that has ended."""

    __test__ = False  # pytest would take it for a class of tests


class Actor:
    """A thread that works for the test.

    Attributes:
        ident: The thread's identifier.
        native_id: The system's identifier of it.
        name: For people.
        order: Which of several timers for one moment comes first, by who set them; the
            same for all where only one actor runs at a time.
        depth: How many things it is in the middle of: a task inside a task, a loop.
        parked: Whether it waits to be woken.
        wants: What it is parked for, for people.
        waiter: What must be notified to wake it; None if it waits in no condition.
        listens: Whether it is parked in its event loop, where a signal to that wakes it.
        number: Its place among those that are ready, the lowest first.
        reserved: The number that it will have when it is woken; None for the next one then.
        timer: What wakes it in time; None if nothing does.
        kick: Called when it may go on, on any thread, under no lock but the sequencer's.
        yields: Whether it is ready, but lets all others go first.
        away: Whether it waits for real just now, where nobody sees it.
        has_work: Returns whether it has got something to do while it was parked, from what
            was called on its own thread meanwhile.
        error: What it is to raise when it goes on; None for nothing.
        looked: What it saw when it last looked around while it was ready, and how many times
            before that it had seen the same.
        heard: What it heard from outside when it last looked around while it was parked:
            `Turns.beats`, for how many seconds nothing had come, and what threads did.
    """

    __slots__ = (
        "away",
        "depth",
        "error",
        "heard",
        "ident",
        "kick",
        "listens",
        "looked",
        "name",
        "native_id",
        "number",
        "order",
        "parked",
        "reserved",
        "has_work",
        "timer",
        "waiter",
        "wants",
        "yields",
        "_gate",
    )

    def __init__(self, ident: int, name: str, order: int) -> None:
        # Made by the thread itself.
        self.ident: int = ident
        self.native_id: int = _thread.get_native_id()
        self.name: str = name
        self.order: int = order
        self.depth: int = 1
        self.number: int = 0
        self.reserved: int | None = None
        self.away: bool = False
        self.parked: bool = False
        self.listens: bool = False
        self.yields: bool = False
        self.wants: str = ""
        self.waiter: Waiter | None = None
        self.timer: Timer | None = None
        self.has_work: Callable[[], bool] = _never
        self.error: BaseException | None = None
        self.looked: tuple[object, int] = (None, 0)
        self.heard: tuple[int, float, Mapping[Thread, Glance]] = (-1, 0.0, {})
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self.kick: Callable[[], object] = self._gate.release

    def wait_for_kick(self, seconds: float) -> bool:
        """Block until kicked; False if *seconds* of real time have passed before."""
        return self._gate.acquire(True, seconds)

    def use_gate(self) -> None:
        """Be kicked by the gate that `wait_for_kick` waits at."""
        self.has_work = _never
        self.kick = self._gate.release


class Arrival:
    """A thread that is about to begin, announced by who has handed work to it.

    Attributes:
        number: Its place among those that are ready; see `Actor.number`.
        has_turn: Whether a turn was given to it with the announcement.
        is_open: Whether it has neither come nor been given up.
    """

    __slots__ = ("has_turn", "is_open", "number")

    def __init__(self, number: int, has_turn: bool) -> None:
        self.number: int = number
        self.has_turn: bool = has_turn
        self.is_open: bool = True


class Waiter:
    """Stands in a condition's list of waiters: the notifier hands over, then goes on."""

    __slots__ = ("_actor", "_notify", "notified")

    def __init__(self, notify: Callable[[Waiter, Actor], object], actor: Actor) -> None:
        self._notify = notify
        self._actor = actor
        self.notified: bool = False

    def release(self) -> None:
        """Wake the waiting thread, as ``Condition.notify`` does with its waiters' locks."""
        self._notify(self, self._actor)


class Timer:
    """Something that falls due; see `framework.protocols.TimerHandle`.

    Attributes:
        when: The nanosecond for which it is set.
        fn: What is called then; None if an actor is woken.
        actor: Who is woken then; None if something is called.
        background: Whether nobody waits for it.
        place: Where it was set, if the user's own code has set it; else "".
    """

    __slots__ = ("actor", "background", "fn", "place", "when")

    def __init__(
        self,
        when: int,
        fn: Callable[[], object] | None,
        actor: Actor | None,
        background: bool = False,
    ) -> None:
        self.when: int = when
        self.fn = fn
        self.actor = actor
        self.background: bool = background
        self.place: str = ""

    @property
    def live(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return self.fn is not None or self.actor is not None

    def cancel(self) -> None:
        """Keep it from firing; harmless once it has fired. Any thread."""
        self.fn = self.actor = None


def _never() -> bool:
    return False


def raise_error(actor: Actor) -> None:
    """Raise what an actor was woken with, if that was an error."""
    error, actor.error = actor.error, None
    if error is not None:
        raise error
