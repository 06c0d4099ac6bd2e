"""Threads of a program, and what `threading` and `queue` document of their locks and waits.

A thread is a generator: its code between two ``yield`` is one atomic step. It yields `POINT`
where it could go on, and else what has to be true before it can.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias

from tests.explore.oracle.programs import Note, Operation

Free: TypeAlias = Callable[[], bool]
Steps: TypeAlias = Generator[Free, None, Any]  # Any: what waits and operations return


def point() -> bool:
    """Return True: a thread at a point could go on."""
    return True


class Around(Protocol):
    """The world of a thread: its time, and where there are points."""

    points: frozenset[str]
    now: int

    def note(self, *what: Any) -> None:
        """Note what has happened."""
        ...

    def at(self, seconds: int, fn: Callable[[], object]) -> int:
        """Call a function in some seconds; return what it is known by."""
        ...

    def call_soon(self, operation: Operation) -> None:
        """Let the loop make an operation."""
        ...

    def forget(self, timer: int | None) -> None:
        """Do not call it any more."""
        ...


class Broken(Exception):  # noqa: N818  # as in `threading`
    """Raised at a barrier that somebody has left too early."""


class Lock:
    """A lock, or one that its holder may take again."""

    def __init__(self, world: Around) -> None:
        self.world = world
        self.holder: object = None
        self.times = 0

    def is_free(self) -> bool:
        """Return whether nobody has it."""
        return self.holder is None

    def take(self, who: object, seconds: int | None = None) -> Steps:
        """Take it; return whether that was possible in time."""
        world = self.world
        if "locks" in world.points and (self.is_free() or seconds is not None):
            yield point
        if not self.is_free():
            late = list[bool]()
            timer = None if seconds is None else world.at(seconds, lambda: late.append(True))
            yield lambda: self.is_free() or bool(late)
            world.forget(timer)
            if late:
                return False
        self.holder = who
        return True

    def give(self) -> Steps:
        """Give it back."""
        self.holder = None
        if "locks" in self.world.points:
            yield point


class _Waiter:
    def __init__(self) -> None:
        self.timer: int | None = None
        self.is_told = self.is_late = False

    def be_late(self) -> None:
        self.is_late = True


class Condition:
    """A condition; its waiters are told of one by one."""

    def __init__(self, world: Around, lock: Lock | None = None) -> None:
        self.world = world
        self.lock = lock or Lock(world)
        self.waiters = list[_Waiter]()

    def wait(self, who: object, seconds: int | None = None) -> Steps:
        """Wait for a notification; return whether it came in time."""
        if seconds is not None and seconds <= 0:
            return False
        waiter, world = _Waiter(), self.world
        self.waiters.append(waiter)
        self.lock.holder = None
        waiter.timer = None if seconds is None else world.at(seconds, waiter.be_late)
        yield lambda: waiter.is_told or waiter.is_late
        if not self.lock.is_free():
            yield self.lock.is_free
        self.lock.holder = who
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        return waiter.is_told

    def wait_for(self, who: object, true: Free, seconds: int | None) -> Steps:
        """Wait until something is true; return whether it is."""
        end = None if seconds is None else self.world.now + seconds
        while not true():
            left = None if end is None else end - self.world.now
            if left is not None and left <= 0:
                return False
            yield from self.wait(who, left)
        return True

    def notify(self, many: int) -> None:
        """Tell so many waiters."""
        for waiter in self.waiters[:many]:
            # Once it is late, a notification is lost, as it is in CPython.
            if not waiter.is_late:
                waiter.is_told = True
                self.world.forget(waiter.timer)
        del self.waiters[:many]

    def notify_all(self) -> None:
        """Tell all of them."""
        self.notify(len(self.waiters))


class Threading:
    """What the threads of a run share."""

    def __init__(self, world: Around) -> None:
        self.lock = Lock(world)
        self.rlock = Lock(world)
        self.condition = Condition(world)
        self.event = Condition(world)
        self.is_set = False
        self.semaphore = Condition(world)
        self.value = 1
        mutex = Lock(world)
        self.not_empty, self.not_full = Condition(world, mutex), Condition(world, mutex)
        self.items = 0
        self.barrier = Condition(world)
        self.state = "fills"
        self.count = 0


PARTIES, ROOM = 2, 1
"""How many meet at the barrier, and how many items the queue has room for."""


class Thread:
    """A thread, with what it does next.

    Attributes:
        free: Whether it could make a step.
        began: Whether it has made one.
        is_done: Whether it has ended.
        on_end: Called at its end.
    """

    def __init__(
        self, world: Around, shared: Threading, place: tuple[int, ...], ops: Sequence[Operation]
    ) -> None:
        self.world = world
        self.shared = shared
        self.free: Free = point
        self.began = self.is_done = False
        self.on_end = list[Callable[[], object]]()
        self._steps: Steps = self._sequence(place, ops)

    def step(self) -> None:
        """Run it to where it waits, or to its next point."""
        self.began = True
        try:
            self.free = next(self._steps)
        except StopIteration:
            self.is_done = True
            for fn in self.on_end:
                fn()

    @property
    def stands(self) -> bool:
        """Whether it is at a point."""
        return self.began and not self.is_done and self.free is point

    def _sequence(self, place: tuple[int, ...], ops: Sequence[Operation]) -> Steps:
        for number, (kind, *rest) in enumerate(ops):
            here: Note = (*place, number)
            result = yield from getattr(self, f"_do_{kind}")(here, *rest)
            self.world.note(*here, *(() if result is None else (result,)))

    def _do_thread(self, here: Note) -> Steps:
        yield from ()

    def _do_call(self, here: Note, operation: Operation) -> Steps:
        self.world.call_soon(operation)
        yield from ()

    def _do_report(self, here: Note) -> Steps:
        if "reports" in self.world.points:
            yield point

    def _do_sleep(self, here: Note, seconds: int) -> Steps:
        over = list[bool]()
        self.world.at(seconds, lambda: over.append(True))
        yield lambda: bool(over)

    def _do_lock(self, here: Note, seconds: int | None, ops: Sequence[Operation]) -> Steps:
        lock = self.shared.lock
        if not (yield from lock.take(self, seconds)):
            return "late"
        yield from self._sequence(here, ops)
        yield from lock.give()
        return None

    def _do_rlock(self, here: Note, ops: Sequence[Operation]) -> Steps:
        lock = self.shared.rlock
        if lock.holder is not self:
            yield from lock.take(self)
        lock.times += 1
        yield from self._sequence(here, ops)
        lock.times -= 1
        if not lock.times:
            yield from lock.give()

    def _with(self, condition: Condition, then: Steps) -> Steps:
        yield from condition.lock.take(self)
        result = yield from then
        yield from condition.lock.give()
        return result

    def _do_await(self, here: Note, seconds: int | None) -> Steps:
        return self._with(self.shared.condition, self.shared.condition.wait(self, seconds))

    def _do_notify(self, here: Note, many: int) -> Steps:
        def then() -> Steps:
            self.shared.condition.notify(many)
            yield from ()

        return self._with(self.shared.condition, then())

    def _do_tset(self, here: Note) -> Steps:
        def then() -> Steps:
            self.shared.is_set = True
            self.shared.event.notify_all()
            yield from ()

        return self._with(self.shared.event, then())

    def _do_tclear(self, here: Note) -> Steps:
        def then() -> Steps:
            self.shared.is_set = False
            yield from ()

        return self._with(self.shared.event, then())

    def _do_twait(self, here: Note, seconds: int | None) -> Steps:
        def then() -> Steps:
            return self.shared.is_set or (yield from self.shared.event.wait(self, seconds))

        return self._with(self.shared.event, then())

    def _do_acquire(self, here: Note, seconds: int | None) -> Steps:
        shared = self.shared

        def then() -> Steps:
            got = yield from shared.semaphore.wait_for(self, lambda: shared.value > 0, seconds)
            shared.value -= got
            return got

        return self._with(shared.semaphore, then())

    def _do_release(self, here: Note) -> Steps:
        def then() -> Steps:
            self.shared.value += 1
            self.shared.semaphore.notify(1)
            yield from ()

        return self._with(self.shared.semaphore, then())

    def _do_tput(self, here: Note, seconds: int | None) -> Steps:
        shared = self.shared

        def then() -> Steps:
            got = yield from shared.not_full.wait_for(self, lambda: shared.items < ROOM, seconds)
            if got:
                shared.items += 1
                shared.not_empty.notify(1)
            return got

        return self._with(shared.not_full, then())

    def _do_tget(self, here: Note, seconds: int | None) -> Steps:
        shared = self.shared

        def then() -> Steps:
            got = yield from shared.not_empty.wait_for(self, lambda: shared.items > 0, seconds)
            if got:
                shared.items -= 1
                shared.not_full.notify(1)
            return got

        return self._with(shared.not_empty, then())

    def _do_meet(self, here: Note, seconds: int | None) -> Steps:
        return self._with(self.shared.barrier, self._meet(seconds))

    def _meet(self, seconds: int | None) -> Steps:
        shared, barrier = self.shared, self.shared.barrier
        while shared.state == "drains":
            yield from barrier.wait(self)
        if shared.state == "broken":
            return "broken"
        index = shared.count
        shared.count += 1
        met: object = index
        if shared.count == PARTIES:
            shared.state = "drains"
            barrier.notify_all()
        else:
            left_alone = yield from barrier.wait_for(self, lambda: shared.state != "fills", seconds)
            if not left_alone:
                shared.state = "broken"
                barrier.notify_all()
            if shared.state == "broken":
                met = "broken"
        shared.count -= 1
        if not shared.count and shared.state == "drains":
            shared.state = "fills"
            barrier.notify_all()
        return met
