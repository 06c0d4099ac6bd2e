"""Queues from before a run that a thread of a library serves, as aiosqlite has for a connection.

Such a thread waits in C, where nobody can call it away. So during a run a stand-in of the queue is
held wherever the queue was, and puts each item with another function into the real one: the thread
is an actor from when that is called until it has told the result.

Relies on: an item having one function, and the asyncio future of its result, which the thread
    tells in any case. Other items are put as they are.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pytest_asyncframe._explore.locks.walk import ENTRY, NAME, SLOT, Exchange, Kind, slots_of
from pytest_asyncframe._seen.reach import attributes_of
from pytest_asyncframe._turns.actors import Arrival, TestEndedError
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._loop import VirtualLoop
from pytest_asyncframe.clock._patched.queues import REAL_QUEUE, ModelQueue, name_in, present
from pytest_asyncframe.clock._patched.threads import is_server, known_to

_QUEUES = (REAL_QUEUE, ModelQueue)


class ServedQueue(queue.SimpleQueue):  # type: ignore[type-arg]  # of anything
    """Stands for a queue that a thread serves.

    Args:
        real: The queue.
        thread: The thread.
    """

    def __new__(cls, *_: object) -> ServedQueue:
        """Return a new stand-in; the class of real ones takes no argument."""
        made: ServedQueue = super().__new__(cls)
        return made

    def __init__(self, real: queue.SimpleQueue[Any], thread: threading.Thread) -> None:
        self._real = real
        self._thread = thread
        # The first one is that which the thread calls next, or now.
        self._calls: deque[_Call] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; see `queue.SimpleQueue.put`."""
        sequencer = present()
        # Code that runs when garbage is collected may end a connection in the middle of anything.
        is_free = sequencer is not None and not sequencer.is_interrupted
        is_served = is_free and self._thread.is_alive()
        call = _call_in(item, sequencer, self._end) if is_served else None
        if sequencer is None or call is None:
            self._real.put(item)
            return
        self._calls.append(call)
        if len(self._calls) == 1:
            call.expect()
        self._real.put(type(item)(call.run if one is call.fn else one for one in item))
        sequencer.has_freed()

    def _end(self) -> None:
        self._calls.popleft()
        if self._calls:
            self._calls[0].expect()

    def put_nowait(self, item: Any) -> None:
        """Put an item; see `queue.SimpleQueue.put_nowait`."""
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Remove and return an item; see `queue.SimpleQueue.get`."""
        return self._real.get(block, timeout)

    def get_nowait(self) -> Any:
        """Remove and return an item; see `queue.SimpleQueue.get_nowait`."""
        return self._real.get_nowait()

    def empty(self) -> bool:
        """Whether there is no item; see `queue.SimpleQueue.empty`."""
        return self._real.empty()

    def qsize(self) -> int:
        """Return the number of items; see `queue.SimpleQueue.qsize`."""
        return self._real.qsize()


class _Call:
    """A function in an item, which the thread calls as an actor.

    Args:
        fn: The function.
        name: What the actor is called.
        loop: The loop that is told the result.
        end: Called on the actor once the function has ended.
    """

    def __init__(
        self, fn: Callable[..., Any], name: str, loop: VirtualLoop, end: Callable[[], object]
    ) -> None:
        self.fn = fn
        self._name = name
        self._loop = loop
        self._sequencer: Sequencer = loop.clock.sequencer
        self._end = end
        self._arrival: Arrival | None = None
        loop.owed.add(self)

    def expect(self) -> None:
        """Announce the thread, which does nothing else before."""
        self._arrival = self._sequencer.expect(self._name)

    def run(self, *args: Any, **options: Any) -> Any:
        """Call the function on the thread."""
        try:
            actor = self._sequencer.enter(self._arrival)
        except TestEndedError:
            # The thread serves others after the test.
            self._has_ended()
            return self.fn(*args, **options)
        try:
            return self.fn(*args, **options)
        finally:
            self._has_ended()
            # A loop that is closed is told nothing.
            leave = self._sequencer.leave_after_wake
            (self._sequencer.leave if self._loop.is_closed() else leave)(actor)

    def _has_ended(self) -> None:
        self._loop.owed.discard(self)
        self._end()


def _call_in(item: Any, sequencer: Sequencer | None, end: Callable[[], object]) -> _Call | None:
    """Return the function of an item whose result a loop of the run awaits; None if there is none.

    Args:
        item: Any item.
        sequencer: That of the run; None between runs.
        end: See `_Call`.
    """
    if type(item) not in (tuple, list):
        return None
    functions = [one for one in item if callable(one)]
    loops = [one.get_loop() for one in item if asyncio.isfuture(one)]
    if len(functions) != 1 or len(loops) != 1 or not isinstance(loops[0], VirtualLoop):
        return None
    loop = loops[0]
    if loop.clock.sequencer is not sequencer:
        return None
    return _Call(functions[0], name_in(item), loop, end)


class ServedQueues:
    """The queues that threads of libraries serve at present, each found once."""

    def __init__(self) -> None:
        self._found: list[queue.SimpleQueue[Any]] = []

    def exchanges(self) -> list[Exchange]:
        """Return where the queues are held that were not there last time."""
        known = {id(one) for one in self._found}
        served = [(thread, one) for thread, one in _served() if id(one) not in known]
        new = {id(one): one for _, one in served}
        if not new:
            return []
        self._found += new.values()
        # Before there are stand-ins, which hold them too.
        owners = [one for one in gc.get_referrers(*new.values()) if one is not new]
        stand_ins = {id(one): ServedQueue(one, thread) for thread, one in served}
        return [
            Exchange(kind, holder, key, new[one], stand_ins[one])
            for owner in owners
            for one, kind, holder, key in _held_by(owner, new)
        ]


def _served() -> Iterator[tuple[threading.Thread, queue.SimpleQueue[Any]]]:
    """Yield the queues that one thread alone serves: which of several takes an item is chance."""
    known: list[tuple[threading.Thread, Any]] = [
        (thread, one)
        for thread in threading.enumerate()
        if not is_server(thread)
        for one in known_to(thread)
        if type(one) in _QUEUES
    ]
    times = Counter(id(one) for _, one in known)
    yield from (pair for pair in known if times[id(pair[1])] == 1)


def _held_by(owner: Any, wanted: Iterable[int]) -> Iterator[tuple[int, Kind, Any, Any]]:
    """Yield the ids of the wanted values that an object has, and how it holds each of them."""
    names, kind = (owner, ENTRY) if type(owner) is dict else (attributes_of(owner), NAME)
    for key, value in list(names.items()):
        if id(value) in wanted:
            yield id(value), kind, names, key
    for slot in slots_of(type(owner)):
        value = getattr(owner, slot.__name__, None)
        if id(value) in wanted:
            yield id(value), SLOT, owner, slot
