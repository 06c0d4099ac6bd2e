"""Queues of a run that is controlled: actors wait for their items as for anything else.

A `queue.SimpleQueue` waits in C, where nobody sees it. So those that are made during such a run,
by the user's code and by installed packages, are of a class of this project's. A `queue.Queue`
waits for a condition, as any actor does on the clock. A thread of a library that serves a queue
of either kind is an actor only while it works; see `pytest_asyncframe._turns.servers`.

Guarantees: on threads that are no actors, and between runs, they wait as the real ones do.
Relies on: `queue.Queue.put` notifying ``not_empty``, and ``put_nowait`` calling `put`.
"""

from __future__ import annotations

import functools
import os
import queue
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from pytest_asyncframe._turns.actors import Actor
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe._turns.servers import FreeServers, Server, Ticket, server_here
from pytest_asyncframe.clock._clock import nanoseconds
from pytest_asyncframe.clock._patched.call_names import name_of_call

REAL_QUEUE: type[queue.SimpleQueue[Any]] = queue.SimpleQueue
"""Not looked up later, since the name is replaced."""

_FREE = "_asyncframe_free"
"""The attribute of a `queue.Queue` that holds its `FreeServers`."""


class _Current:
    """The run at present.

    Attributes:
        sequencer: That of the run; None between runs.
        models: Returns whether a frame that makes a queue gets one of this project's.
    """

    sequencer: Sequencer | None = None
    models: Callable[[FrameType], bool] = staticmethod(lambda _: False)


_current = _Current()
"""One for the process, since queues outlive runs and tests."""


def _forget_run() -> None:
    _current.sequencer = None


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows cannot fork
    os.register_at_fork(after_in_child=_forget_run)


def present() -> Sequencer | None:
    """Return the sequencer of the run at present; None between runs."""
    return _current.sequencer


class _Kind(type):
    """The type of `ModelQueue`, which stands for the real class during a run."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is ModelQueue and not _current.models(sys._getframe(1)):
            return REAL_QUEUE(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is ModelQueue:
            return isinstance(instance, REAL_QUEUE)
        return super().__instancecheck__(instance)


class ModelQueue(queue.SimpleQueue, metaclass=_Kind):  # type: ignore[type-arg]  # of anything
    """A `queue.SimpleQueue` whose items actors wait for on the clock."""

    def __init__(self) -> None:
        self._free = FreeServers()
        self._names: deque[str] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; see `queue.SimpleQueue.put`."""
        sequencer = _current.sequencer
        name = name_in(item)
        self._names.append(name)
        put = functools.partial(super().put, item)
        if sequencer is not None:
            sequencer.listeners.released(self)
        self._free.serve(sequencer, lambda: name, put)
        if sequencer is not None:
            sequencer.has_freed()

    def put_nowait(self, item: Any) -> None:
        """Put an item; see `queue.SimpleQueue.put_nowait`."""
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Remove and return an item; see `queue.SimpleQueue.get`."""
        server = _server_that_gets(block, timeout)
        if server is not None:
            return self._free.next_item(
                server, present, self.empty, Ticket.wait, self.get_nowait, self._next_name
            )
        sequencer = _current.sequencer
        actor = None if sequencer is None else sequencer.here
        waits = block and (timeout is None or timeout > 0)
        if sequencer is None or actor is None or not waits:
            return self._take(block, timeout)
        return self._take_when_there(sequencer, actor, timeout)

    def get_nowait(self) -> Any:
        """Remove and return an item; see `queue.SimpleQueue.get_nowait`."""
        return self._take(False, None)

    def _take(self, block: bool, timeout: float | None) -> Any:
        item = super().get(block, timeout)
        if self._names:
            self._names.popleft()
        if _current.sequencer is not None:
            _current.sequencer.listeners.acquired(self)
        return item

    def _take_when_there(self, sequencer: Sequencer, actor: Actor, timeout: float | None) -> Any:
        """Return an item on an actor, which waits for it on the clock."""
        until = None if timeout is None else sequencer.now + nanoseconds(timeout)
        while True:
            try:
                return self.get_nowait()
            except queue.Empty:
                is_there = sequencer.block(actor, self._has_item, until, "for an item of a queue")
                if not is_there:
                    raise

    def _has_item(self) -> bool:
        return not self.empty()

    def _next_name(self) -> str:
        return self._names[0] if self._names else _SOME


_SOME = "served"
"""What a thread that serves a queue is called where its item is no function."""


def name_in(item: object) -> str:
    """Return the name of the function in an item, alone or beside where its result goes."""
    for one in item if isinstance(item, tuple | list) else (item,):
        if callable(one):
            return name_of_call(one)
    return _SOME


def _server_that_gets(block: bool, timeout: float | None) -> Server | None:
    """Return the calling thread if it is a server that waits for an item without a time limit."""
    server = server_here()
    if server is None or not block:
        return None
    if timeout is None:
        return server
    # It wakes now and then for ever, whatever comes.
    server.give_up()
    return None


@contextmanager
def controlled(sequencer: Sequencer) -> Iterator[None]:
    """Let the actors of *sequencer* wait for queues, and serve them, inside the block."""
    before, _current.sequencer = _current.sequencer, sequencer
    try:
        yield
    finally:
        _current.sequencer = before


@contextmanager
def stand_ins(models: Callable[[FrameType], bool]) -> Iterator[None]:
    """Let the queues that are made inside the block be of this project's class, if they shall.

    Args:
        models: See `_Current`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_current, "models", models)
        patch.setattr(queue, "SimpleQueue", ModelQueue)
        patch.setattr(queue.Queue, "get", _get(queue.Queue.get))
        patch.setattr(queue.Queue, "put", _put(queue.Queue.put))
        yield


def _get(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:
        server = _server_that_gets(block, timeout)
        if server is None:
            return real(self, block, timeout)
        free: FreeServers = vars(self).setdefault(_FREE, FreeServers())

        def wait(ticket: Ticket) -> None:
            # Between runs nobody is told of an item.
            with self.not_empty:
                self.not_empty.wait_for(
                    lambda: ticket.is_called or (_current.sequencer is None and self._qsize())
                )

        return free.next_item(
            server,
            present,
            self.empty,
            wait,
            lambda: real(self, block=False),
            lambda: name_in(next(iter(self.queue), None)),
        )

    return get


def _put(real: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(real)
    def sync_inner(self: Any, item: Any, *args: Any, **options: Any) -> None:
        free: FreeServers | None = vars(self).get(_FREE)
        if free is None or self.full():
            real(self, item, *args, **options)
            return
        put = functools.partial(real, self, item, *args, **options)
        if free.serve(_current.sequencer, lambda: name_in(item), put):
            # Its own notification may wake another server.
            with self.not_empty:
                self.not_empty.notify_all()

    return sync_inner
