"""All that a program of `programs` may do, found by trying each order; nothing of asyncio is used.

It models what asyncio documents and does: a coroutine runs from one suspension to the next; what
it waits for wakes it by making it ready; a cancellation is raised where it waits, or at its next
suspension. Of all that is ready, and of the timers that are due, any may come next. Time moves when
nothing is left, to the next timer. What threads do is in `threads`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from tests.explore.oracle.programs import END, Note, Operation, Program, is_thread
from tests.explore.oracle.threads import Thread, Threading, point

Body: TypeAlias = Iterator[Any]

_FORGETS = tuple(sys.version_info) >= (3, 13)
"""Whether a task forgets a cancellation that is taken back before it was raised."""

_PASSES_ON = tuple(sys.version_info) >= (3, 13)
"""Whether a waiter of a condition that ends by an error notifies the next one; before, a
notification could be lost (gh-112202).
"""


class Cancelled(BaseException):
    """Raised where a cancelled coroutine waits."""


class TooLong(Exception):  # noqa: N818  # no error
    """Raised where a time limit ends a block."""


class Promise:
    """What a coroutine waits for."""

    def __init__(self) -> None:
        self.state = "open"
        self.waiter: Coroutine | None = None

    def settle(self, state: str) -> bool:
        """Settle it, and wake who waits; False if it was settled before."""
        if self.state != "open":
            return False
        self.state = state
        if self.waiter is not None:
            self.waiter.world.ready.append(self.waiter)
        return True


class Callback:
    """What the loop calls in its turn."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.step = call


class Coroutine:
    """A coroutine with its cancellation, as asyncio's tasks have it."""

    def __init__(self, world: World, number: int, operations: Sequence[Operation]) -> None:
        self.world = world
        self.number = number
        self.promise: Promise | None = None
        self.to_cancel = False
        self.cancels = 0
        self.is_done = False
        self.body: Any = self.run(operations)

    def cancel(self) -> None:
        """Ask it to end."""
        if self.is_done:
            return
        self.cancels += 1
        if self.promise is None or not self.promise.settle("cancelled"):
            self.to_cancel = True

    def step(self) -> None:
        """Run it to its next suspension, or to a point, where threads may come first."""
        promise, self.promise = self.promise, None
        cancelled = False
        if self.world.paused is not self:
            cancelled = self.to_cancel or (promise is not None and promise.state == "cancelled")
            self.to_cancel = False
        self.world.paused = None
        try:
            found = self.body.throw(Cancelled()) if cancelled else next(self.body)
        except (StopIteration, Cancelled):
            self.is_done = True
            return
        if found is None:
            self.world.ready.append(self)
            return
        if found is point:
            self.world.paused = self
            return
        found.waiter = self.promise = None
        found.waiter, self.promise = self, found
        if found.state != "open":
            self.world.ready.append(self)
        if self.to_cancel and found.settle("cancelled"):
            self.to_cancel = False

    # -- operations

    def run(self, operations: Sequence[Operation]) -> Body:
        """Run the whole."""
        yield from self.sequence((self.number,), operations)

    def sequence(self, place: tuple[int, ...], operations: Sequence[Operation]) -> Body:
        """Run operations, and note the end of each."""
        for number, (kind, *rest) in enumerate(operations):
            here = (*place, number)
            try:
                yield from getattr(self, f"_do_{kind}")(here, *rest)
            except TooLong:
                self.world.note(*here, "timeout")
            except Cancelled:
                self.world.note(*here, "cancelled")
                raise
            else:
                self.world.note(*here)

    def _do_pass(self, here: tuple[int, ...]) -> Body:
        yield None

    def _do_sleep(self, here: tuple[int, ...], seconds: int) -> Body:
        promise = Promise()
        timer = self.world.on_loop(seconds, lambda: promise.settle("done"))
        try:
            yield promise
        finally:
            self.world.timers.pop(timer, None)

    def _do_set(self, here: tuple[int, ...], event: int) -> Body:
        self.world.is_set = True
        for promise in self.world.waiting:
            promise.settle("done")
        yield from ()

    def _do_clear(self, here: tuple[int, ...], event: int) -> Body:
        self.world.is_set = False
        yield from ()

    def _do_wait(self, here: tuple[int, ...], event: int) -> Body:
        if self.world.is_set:
            return
        promise = Promise()
        self.world.waiting.append(promise)
        try:
            yield promise
        finally:
            self.world.waiting.remove(promise)

    def _do_put(self, here: tuple[int, ...], queue: int) -> Body:
        self.world.items += 1
        self.world.wake(self.world.getters)
        yield from ()

    def _do_get(self, here: tuple[int, ...], queue: int) -> Body:
        world = self.world
        while not world.items:
            promise = Promise()
            world.getters.append(promise)
            try:
                yield promise
            except Cancelled:
                was_woken = promise.state == "done"
                promise.settle("cancelled")
                if promise in world.getters:
                    world.getters.remove(promise)
                if was_woken and self.world.items:
                    world.wake(world.getters)
                raise
        world.items -= 1

    def _do_cancel(self, here: tuple[int, ...], other: int) -> Body:
        self.world.coroutines[other].cancel()
        yield from ()

    def _do_lock(self, here: tuple[int, ...], lock: int, operations: Sequence[Operation]) -> Body:
        yield from self._take()
        try:
            yield from self.sequence(here, operations)
        finally:
            self._give()

    def _take(self) -> Body:
        world = self.world
        if not world.is_locked and all(one.state == "cancelled" for one in world.locking):
            world.is_locked = True
            return
        promise = Promise()
        world.locking.append(promise)
        try:
            yield promise
        except Cancelled:
            world.locking.remove(promise)
            # It may have been woken for nothing.
            if not world.is_locked:
                world.wake_first_locking()
            raise
        world.locking.remove(promise)
        world.is_locked = True

    def _do_timeout(
        self, here: tuple[int, ...], seconds: int, operations: Sequence[Operation]
    ) -> Body:
        expired = list[bool]()
        before = self.cancels

        def expire() -> None:
            expired.append(True)
            self.cancel()

        timer = self.world.on_loop(seconds, expire)
        try:
            yield from self.sequence(here, operations)
        except Cancelled:
            self.world.timers.pop(timer, None)
            if expired:
                self.cancels -= 1
                if self.cancels <= before:
                    raise TooLong from None
            raise
        self.world.timers.pop(timer, None)
        if expired:
            # The end of the block takes the request back, but not always what it will raise.
            self.cancels -= 1
            if not self.cancels and _FORGETS:
                self.to_cancel = False

    def _do_await(self, here: tuple[int, ...]) -> Body:
        yield from self._take()
        try:
            yield from self._await()
        finally:
            self._give()

    def _await(self) -> Body:
        self._give()
        promise = Promise()
        self.world.conditions.append(promise)
        cancelled = False
        try:
            yield promise
        except Cancelled:
            cancelled = True
        self.world.conditions.remove(promise)
        while True:
            try:
                yield from self._take()
                break
            except Cancelled:
                cancelled = True
        if cancelled:
            if _PASSES_ON:
                self.world.notify(1)
            raise Cancelled

    def _give(self) -> None:
        self.world.is_locked = False
        self.world.wake_first_locking()

    def _do_notify(self, here: tuple[int, ...], many: int) -> Body:
        yield from self._take()
        self.world.notify(many)
        self._give()

    def _do_limit(self, here: tuple[int, ...], operations: Sequence[Operation]) -> Body:
        world = self.world
        if not world.value or any(one.state != "cancelled" for one in world.limited):
            promise = Promise()
            world.limited.append(promise)
            try:
                yield promise
            except Cancelled:
                world.limited.remove(promise)
                if promise.state == "done":
                    world.value += 1
                    world.wake_limited()
                raise
            world.limited.remove(promise)
            if world.value:
                world.wake_limited()
        else:
            world.value -= 1
        try:
            yield from self.sequence(here, operations)
        finally:
            world.value += 1
            world.wake_limited()

    def _do_tset(self, here: tuple[int, ...]) -> Body:
        self.world.shared.is_set = True
        self.world.shared.event.notify_all()
        yield from ()

    def _do_tclear(self, here: tuple[int, ...]) -> Body:
        self.world.shared.is_set = False
        yield from ()

    def _do_result(self, here: tuple[int, ...], other: int) -> Body:
        if "calls" in self.world.points:
            yield point
        thread = self.world.threads[other]
        if not thread.is_done:
            yield from self._end_of(thread)

    def _do_to_thread(self, here: tuple[int, ...], operations: Sequence[Operation]) -> Body:
        world = self.world
        thread = Thread(world, world.shared, here, operations)
        world.extra.append(thread)
        if "calls" in world.points:
            yield point
        yield from self._end_of(thread)

    def _end_of(self, thread: Thread) -> Body:
        promise = Promise()

        def tell() -> None:
            self.world.ready.append(Callback(lambda: promise.settle("done")))

        if thread.is_done:
            tell()
        else:
            thread.on_end.append(tell)
        yield promise

    def _do_shield(self, here: tuple[int, ...], operations: Sequence[Operation]) -> Body:
        try:
            yield from self.sequence(here, operations)
        except Cancelled:
            self.world.note(*here, "shielded")


class World:
    """One run of a program, with a choice for each moment at which several things may come next.

    Args:
        program: The program.
        choices: Which of what may come next is taken, one after another, and then the first.
        points: Where threads could go on, but others may come: "reports", "locks"; and where
            coroutines could, "calls".
        most: How often a thread that could go on may be passed over; None for any number.
    """

    def __init__(
        self,
        program: Program,
        choices: Sequence[int],
        points: frozenset[str] = frozenset(),
        most: int | None = None,
    ) -> None:
        self._choices = choices
        self.points = points
        self._left = most
        self.taken = list[tuple[int, int]]()
        self.notes = list[Note]()
        self.now = 0
        self.timers = dict[int, tuple[int, Callable[[], object]]]()
        self._numbers = 0
        self._of_loop = set[int]()
        # Whether the loop has just called something, so that no thread may come next.
        self._amid = False
        self.is_set = False
        self.waiting = list[Promise]()
        self.items = 0
        self.getters = list[Promise]()
        self.is_locked = False
        self.locking = list[Promise]()
        self.conditions = list[Promise]()
        self.value = 1
        self.limited = list[Promise]()
        self.shared = Threading(self)
        self.extra = list[Thread]()
        self.threads = dict[int, Thread]()
        self.coroutines = dict[int, Coroutine]()
        for number, operations in enumerate(program):
            if is_thread(operations):
                self.threads[number] = Thread(self, self.shared, (number,), operations)
            else:
                self.coroutines[number] = Coroutine(self, number, operations)
        self.paused: Coroutine | None = None
        self.ready = list[Coroutine | Callback](self.coroutines.values())

    def note(self, *what: Any) -> None:
        """Note what has happened."""
        self.notes.append(what)

    def at(self, seconds: int, fn: Callable[[], object]) -> int:
        """Call a function in some seconds; return what it is known by."""
        self._numbers += 1
        self.timers[self._numbers] = (self.now + seconds, fn)
        return self._numbers

    def on_loop(self, seconds: int, fn: Callable[[], object]) -> int:
        """Let the loop call a function in some seconds; see `at`."""
        timer = self.at(seconds, fn)
        self._of_loop.add(timer)
        return timer

    def forget(self, timer: int | None) -> None:
        """Do not call what `at` has returned any more."""
        if timer is not None:
            self.timers.pop(timer, None)

    def call_soon(self, operation: Operation) -> None:
        """Let the loop make an operation that does not wait."""
        kind, *rest = operation
        done = getattr(self.coroutines[0], f"_do_{kind}")((), *rest)
        self.ready.append(Callback(lambda: next(done, None)))

    def wake(self, promises: list[Promise]) -> None:
        """Wake the first that still waits."""
        while promises:
            if promises.pop(0).settle("done"):
                return

    def wake_first_locking(self) -> None:
        """Wake the first that waits for the lock, which takes it when it runs."""
        if self.locking:
            self.locking[0].settle("done")

    def wake_limited(self) -> None:
        """Give the semaphore to the first that still waits for it."""
        for promise in self.limited:
            if promise.settle("done"):
                self.value -= 1
                return

    def notify(self, many: int) -> None:
        """Wake so many that still wait for the condition."""
        for promise in self.conditions:
            if many and promise.settle("done"):
                many -= 1

    def run(self) -> tuple[Note, ...]:
        """Run it to the end; return what has happened."""
        current: Thread | None = None
        while True:
            options = self._options()
            if not options:
                self.now = min((when for when, _ in self.timers.values()), default=END)
                if self.now >= END:
                    return tuple(self.notes)
                continue
            if current is not None and current.stands:
                options.remove(current)
                options.insert(0, current)
                if self._left == 0:
                    del options[1:]
            if self._amid and self.ready:
                options = [one for one in options if self._is_of_loop(one)]
            chosen = options[self._choose(len(options))]
            self._amid = self._is_of_loop(chosen) and not isinstance(chosen, Coroutine)
            if current is not None and current.stands and chosen is not current:
                self._left = None if self._left is None else self._left - 1
            if isinstance(chosen, int):
                _, fn = self.timers.pop(chosen)
                fn()
                current = None
            else:
                if not isinstance(chosen, Thread) and chosen is not self.paused:
                    self.ready.remove(chosen)
                chosen.step()
                current = chosen if isinstance(chosen, Thread) else None

    def _is_of_loop(self, one: Coroutine | Callback | Thread | int) -> bool:
        return one in self._of_loop if isinstance(one, int) else not isinstance(one, Thread)

    def _options(self) -> list[Coroutine | Callback | Thread | int]:
        """Return all that may come next: of the loop, threads, and timers that are due."""
        found = list[Coroutine | Callback | Thread | int]()
        if self.paused is not None:
            found.append(self.paused)
        for one in self.ready if self.paused is None else ():
            found.append(one)
            # A coroutine may be late, but no callback is: nothing passes one.
            if not isinstance(one, Coroutine):
                break
        found += [
            one for one in (*self.threads.values(), *self.extra) if not one.is_done and one.free()
        ]
        found += [
            one
            for one, (when, _) in self.timers.items()
            if when <= self.now and (self.paused is None or one not in self._of_loop)
        ]
        return found

    def _choose(self, options: int) -> int:
        if options == 1:
            return 0
        number = len(self.taken)
        chosen = self._choices[number] if number < len(self._choices) else 0
        self.taken.append((chosen, options))
        return chosen


def outcomes(
    program: Program,
    most: int,
    points: frozenset[str] = frozenset(),
    preemptions: int | None = None,
) -> set[tuple[Note, ...]] | None:
    """Return all that a program may do; None if that takes more than so many runs."""
    return enumerated(lambda choices: World(program, choices, points, preemptions), most)


def enumerated(make: Callable[[list[int]], World], most: int) -> set[tuple[Note, ...]] | None:
    """Return what all runs of a world do, one for each way to choose; None for more than *most*."""
    found = set[tuple[Note, ...]]()
    choices = list[int]()
    for _ in range(most):
        world = make(choices)
        found.add(world.run())
        taken = world.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return found
        choices = [chosen for chosen, _ in taken]
        choices[-1] += 1
    return None
