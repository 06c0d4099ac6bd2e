"""Threads of libraries that serve a queue: each is an actor while it works, and only then.

Guarantees:
    The server that has been free for longest is announced before an item is put into its queue.
    So nobody else gets a turn before it is there, and it does not matter how fast it wakes.
    It takes its item in its own turn. If somebody else was faster, it is free again.
Relies on:
    One actor runs at a time. While a test runs, items are put through `FreeServers.serve`.
Lock order:
    The lock of `FreeServers`, then the sequencer's. Nobody waits with either of them.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import TypeAlias, TypeVar

from pytest_asyncframe._turns.actors import Actor, Arrival
from pytest_asyncframe._turns.sequencer import Sequencer

Item = TypeVar("Item")

Find: TypeAlias = Callable[[], Sequencer | None]
"""Returns the sequencer of the test that runs now; None between tests."""


class Server:
    """A thread that was made an actor since it may serve a queue.

    Attributes:
        is_new: Whether it has not waited for anything yet.
    """

    def __init__(self) -> None:
        self.is_new: bool = True
        self._work: tuple[Sequencer, Actor] | None = None

    def begin(self, sequencer: Sequencer, arrival: Arrival | None) -> None:
        """Make the calling thread an actor; *arrival* announces it there."""
        _here.server = self
        self._work = sequencer, sequencer.enter(arrival)
        # All its work is done on one thread, though each time it is another actor.
        sequencer.listeners.acquired(self)

    def end(self) -> None:
        """Let the calling thread be an actor no more; does nothing if it is none."""
        work, self._work = self._work, None
        if work is not None:
            sequencer, actor = work
            sequencer.listeners.released(self)
            sequencer.leave(actor)

    def give_up(self) -> None:
        """Let the calling thread work outside the clock from now on."""
        _here.server = None
        if self._work is not None:
            sequencer, _ = self._work
            sequencer.outside.add_thread(threading.current_thread())
        self.end()


class _Here(threading.local):
    server: Server | None = None


_here = _Here()


def server_here() -> Server | None:
    """Return the calling thread if it is a server; else None."""
    return _here.server


def waits_outside() -> bool:
    """Whether the calling thread is about to wait outside the clock, though it is an actor.

    That is one that waits for something else than a queue first. Some libraries have threads
    that wake now and then for ever, and the time of a test must not move for these.
    """
    server = _here.server
    if server is None or not server.is_new:
        return False
    server.give_up()
    return True


class Ticket:
    """A server that is free, which waits in real time.

    Attributes:
        announced: Where it was announced for an item, and as what; None for nowhere.
        is_called: Whether there is an item for it.
    """

    def __init__(self) -> None:
        self.announced: tuple[Sequencer, Arrival] | None = None
        self.is_called: bool = False
        self._bell = _thread.allocate_lock()
        self._bell.acquire()

    def call(self, announced: tuple[Sequencer, Arrival] | None) -> None:
        """Let it come; called once."""
        self.announced, self.is_called = announced, True
        self._bell.release()

    def wait(self) -> None:
        """Wait until it is called."""
        self._bell.acquire()


class FreeServers:
    """The servers of one queue that wait for an item, in the order in which they became free."""

    def __init__(self) -> None:
        # Code that runs when garbage is collected may interrupt anything, and put an item.
        self._lock = _thread.RLock()
        self._tickets: deque[Ticket] = deque()

    def serve(
        self, sequencer: Sequencer | None, name: Callable[[], str], put: Callable[[], object]
    ) -> bool:
        """Put an item, and call a server for it; return whether one was free.

        Args:
            sequencer: That of the test that runs now; None between tests.
            name: Returns what a server will do with the item.
            put: Puts it.
        """
        was_free = self._call(sequencer, name)
        put()
        # A thread that is no actor may put an item at any time, also just before one is free.
        return was_free or self._call(sequencer, name)

    def _call(self, sequencer: Sequencer | None, name: Callable[[], str]) -> bool:
        with self._lock:
            if not self._tickets:
                return False
            ticket = self._tickets.popleft()
            if sequencer is None or sequencer.is_interrupted:
                ticket.call(None)
            else:
                ticket.call((sequencer, sequencer.expect(name())))
            return True

    def next_item(
        self,
        server: Server,
        find: Find,
        is_empty: Callable[[], bool],
        wait: Callable[[Ticket], object],
        get: Callable[[], Item],
        name: Callable[[], str],
    ) -> Item:
        """Return the next item on the calling thread, which is an actor from then on.

        Args:
            server: The calling thread.
            find: See `Find`.
            is_empty: Returns whether the queue has no item.
            wait: Waits in real time until a ticket is called, or there is an item.
            get: Returns the next item; raises `Empty` if there is none.
            name: Returns what this thread will do with the next item.
        """
        server.is_new = False
        while True:
            sequencer, arrival, ticket = find(), None, None
            with self._lock:
                if is_empty():
                    ticket = Ticket()
                    self._tickets.append(ticket)
                elif sequencer is not None:
                    arrival = sequencer.expect(name())
            server.end()
            if ticket is not None:
                wait(ticket)
                self._give_back(ticket)
                sequencer, arrival = ticket.announced or (find(), None)
            if sequencer is not None:
                server.begin(sequencer, arrival)
            # Its turn may come after the end of the run that has announced it.
            if sequencer is find():
                with suppress(Empty):
                    return get()

    def _give_back(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
