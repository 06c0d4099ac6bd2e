"""Watches one run: who reads and writes what, and what comes before what.

A statement is read before it runs, and is over when its function comes to the next one, or has
ended. What it does is done somewhere in between: it counts as early where others come after it,
and as late where it comes after others. So a lock that it takes, and a result that it waits for,
order it either way.

Relies on: one actor running at a time.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from pytest_asyncframe._explore.races.clocks import NONE, Clock, Order, Times, joined
from pytest_asyncframe._explore.races.effects import WEAK, Item, Part
from pytest_asyncframe._explore.races.numbers import Numbers
from pytest_asyncframe._explore.races.reading import Access, reading_of
from pytest_asyncframe._explore.schedule import Point
from pytest_asyncframe._explore.telling.statements import statement_at
from pytest_asyncframe._locations import outwards
from pytest_asyncframe._seen.reach import attributes_of
from pytest_asyncframe._turns.actors import Actor, Arrival
from pytest_asyncframe._turns.hearing import ENDED
from pytest_asyncframe._turns.sequencer import Sequencer

_MOST_DONE = 200
"""How many accesses of one task to the same are kept: a loop may have any number."""

_MOST_PLACES = 20_000
"""How many names and containers are looked at in a run."""

_MOST_FRAMES = 12
"""How many functions of the user's code a stack shows."""

_SUSPENDED = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


Stack: TypeAlias = tuple[tuple[str, int, str], ...]
"""Functions of the user's code, innermost first: the file, the line, the name."""

Place: TypeAlias = tuple[int, str]
"""An object by its number, and the name of its attribute; "" for a container."""


@dataclass(slots=True, eq=False)
class Done:
    """An access that was made.

    Attributes:
        place: What was read or written.
        part: Which part of it; None for a name.
        writes: Whether it was written.
        path: What to call it.
        checks: See `Access`.
        twice: See `Access`.
        decides: See `Access`.
        who: The identity of the actor.
        number: How many accesses there were before.
        actor: The number of the actor.
        unit: What ran: the actor, or one of the tasks of its event loop.
        time: When it began, by the actor's own clock.
        seen: What came before it, by values that were read too.
        stack: The functions of the user's code, innermost first.
        kept: What came before its end.
    """

    # Without the object itself, which would live longer then.
    place: Place
    part: Part
    writes: bool
    path: str
    checks: bool
    twice: bool
    decides: bool
    who: str
    number: int
    actor: int
    unit: tuple[int, int]
    time: int
    seen: Times
    stack: Stack
    kept: Times = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Begun:
    """A statement that has begun.

    Attributes:
        file: The file.
        first: Its first line.
        pauses: Whether its function may be suspended, so that it is over only when that goes on.
        meets: The numbers of the subjects at which it may meet other threads.
        done: Its accesses.
    """

    file: str
    first: int
    pauses: bool
    meets: list[int]
    done: list[Done]


class Watch:
    """Keeps the accesses of one run, and hears what orders them.

    Args:
        file_of: Returns the file of a function as it is shown; "" if its lines do not count.

    Attributes:
        places: The accesses to each name or container, in their order, by its number and name.
    """

    def __init__(self, file_of: Callable[[CodeType], str]) -> None:
        self._file_of = file_of
        self.places: dict[Place, list[Done]] = {}
        self._numbers = Numbers()
        self._sequencer: Sequencer | None = None
        self._order: Order | None = None
        self._begun: WeakKeyDictionary[Actor, dict[int, _Begun]] = WeakKeyDictionary()
        self._written: dict[Place, Times] = {}
        self._counts: dict[tuple[Place, tuple[int, int]], int] = {}
        self._weak: list[Any] = []
        self._done = itertools.count()

    @contextmanager
    def watching(self, sequencer: Sequencer, point: Point) -> Iterator[Point]:
        """Watch the run inside the block.

        Args:
            sequencer: The actors of the test.
            point: Called at each line.

        Yields:
            What is to be called instead.
        """
        self._sequencer, self._order = sequencer, Order(sequencer)
        sequencer.listeners.append(self)

        def arrive(level: str, what: str) -> None:
            actor = sequencer.here
            if actor is not None and not sequencer.is_undivided:
                self._arrived(actor, _at_line(sys._getframe(1)))
            point(level, what)

        try:
            yield arrive
        finally:
            for actor in list(self._begun):
                self._end_all(actor)
            if self in sequencer.listeners:
                sequencer.listeners.remove(self)
            self._sequencer = self._order = None
            self._weak.clear()

    # -- statements

    def _arrived(self, actor: Actor, frame: FrameType) -> None:
        """Note that a line is about to run."""
        begun = self._begun.setdefault(actor, {})
        file = frame.f_code.co_filename
        first, _ = statement_at(file, frame.f_lineno)
        before = begun.get(id(frame))
        if before is not None and (before.file, before.first) == (file, first):
            # Another of its lines, or it comes again.
            return
        order = self._order
        assert order is not None
        clock = order.of(actor)
        frames = list(outwards(frame))
        if begun:
            there = set(map(id, frames[1:]))
            for key in [one for one, it in begun.items() if not (it.pauses or one in there)]:
                self._end(clock, begun.pop(key))
            if id(frame) in begun:
                self._end(clock, begun.pop(id(frame)))
        reading = reading_of(frame)
        if not (reading.accesses or reading.meets or reading.asks):
            return
        stack = tuple(self._stack(frames))
        unit = clock.number, self._task_on(actor)
        if reading.asks:
            order.acquired(ENDED)
        done = [
            one
            for access in reading.accesses
            for one in self._begin(access, actor, clock, unit, stack)
        ]
        meets = [order.number_of(subject) for subject in reading.meets]
        for number in meets:
            order.tell(number, clock)
        if any(one.writes for one in done):
            clock.time += 1
        if reading.asks:
            meets.append(order.number_of(ENDED))
        pauses = bool(frame.f_code.co_flags & _SUSPENDED)
        begun[id(frame)] = _Begun(file, first, pauses, meets, done)

    def _task_on(self, actor: Actor) -> int:
        """Return the number of the task that runs on an actor's event loop; 0 for none."""
        if actor.loop is None:
            return 0
        task = sys.modules["asyncio"].current_task(actor.loop)
        return 0 if task is None else self._numbers.of(task)

    def _stack(self, frames: list[FrameType]) -> Iterator[tuple[str, int, str]]:
        shown = 0
        for frame in frames:
            code = frame.f_code
            if (shown < _MOST_FRAMES) and self._file_of(code):
                shown += 1
                yield code.co_filename, frame.f_lineno, code.co_name

    def _begin(
        self,
        access: Access,
        actor: Actor,
        clock: Clock,
        unit: tuple[int, int],
        stack: Stack,
    ) -> Iterator[Done]:
        """Keep an access; yield it, and what it does to weak dictionaries."""
        for one in (access, *self._dropped(access)):
            place = self._numbers.of(one.owner), one.name
            if place not in self.places and len(self.places) >= _MOST_PLACES:
                continue
            count = self._counts[place, unit] = self._counts.get((place, unit), 0) + 1
            what = place, one.part, one.writes, one.path, one.checks, one.twice, one.decides
            who = actor.identity, next(self._done), clock.number, unit
            done = Done(*what, *who, clock.time, clock.seen, stack)
            if count <= _MOST_DONE:
                self.places.setdefault(place, []).append(done)
            self._publish(done, clock)
            yield done

    def _publish(self, done: Done, clock: Clock) -> None:
        """Let an actor see what others have written, and others see what it writes."""
        written = self._written.get(done.place, NONE)
        clock.seen = joined(clock.seen, written)
        if done.writes:
            self._written[done.place] = {**clock.seen, clock.number: clock.time}

    def _dropped(self, access: Access) -> Iterator[Access]:
        """Yield what goes from weak dictionaries if an access drops the last reference to it."""
        if type(access.owner) in WEAK and not any(one is access.owner for one in self._weak):
            self._weak.append(access.owner)
        if not (self._weak and access.writes):
            return
        for value in _values_of(access):
            for weak in self._weak:
                for key, reference in list(weak.data.items()):
                    if reference() is value:
                        path = f"a weak dictionary, at {key!r},"
                        yield Access(weak, "", Item(key), writes=True, path=path)

    def _end(self, clock: Clock, begun: _Begun) -> None:
        """Note that a statement is over."""
        order = self._order
        assert order is not None
        for number in begun.meets:
            order.hear(number, clock)
            order.tell(number, clock)
        for one in begun.done:
            one.kept = clock.kept
            if one.writes:
                self._publish(one, clock)
        if any(one.writes for one in begun.done):
            clock.time += 1

    def _end_all(self, actor: Actor) -> None:
        if self._order is None:
            return
        clock = self._order.of(actor)
        for begun in self._begun.pop(actor, {}).values():
            self._end(clock, begun)

    # -- what orders them

    def released(self, subject: object) -> None:
        """Pass it on; see `Listener`."""
        if self._order is not None:
            self._order.released(subject)

    def acquired(self, subject: object) -> None:
        """Pass it on; see `Listener`."""
        if self._order is not None:
            self._order.acquired(subject)

    def woke(self, actor: Actor) -> None:
        """Pass it on; see `Listener`."""
        if self._order is not None:
            self._order.woke(actor)

    def entered(self, actor: Actor, arrival: Arrival | None) -> None:
        """Pass it on; see `Listener`."""
        if self._order is not None:
            self._order.entered(actor, arrival)

    def left(self, actor: Actor) -> None:
        """End what an actor has begun, and pass it on; see `Listener`."""
        if self._order is not None:
            self._end_all(actor)
            self._order.left(actor)

    def acts_for(self, subject: object | None) -> None:
        """Pass it on; see `Listener`."""
        if self._order is not None:
            self._order.acts_for(subject)


def _at_line(frame: FrameType) -> FrameType:
    """Return the frame that stands at a line, and has called what follows lines."""
    while str(frame.f_globals.get("__name__")).startswith(_OWN) and frame.f_back is not None:
        frame = frame.f_back
    return frame


_OWN = f"{__name__.partition('.')[0]}."


def _values_of(access: Access) -> list[Any]:
    """Return what a name or a part of a container holds, before it is written."""
    owner: Any = access.owner
    if access.part is None:
        kept = owner if type(owner) is dict else attributes_of(owner)
        return [kept[access.name]] if access.name in kept else []
    if type(owner) is not dict:
        return []
    if isinstance(access.part, Item):
        return [owner[access.part.key]] if access.part.key in owner else []
    return [*owner.values()]
