"""Threads that a test starts: their start, their end, who waits for that, and what is left.

Relies on: a thread's `run` being looked up when it begins.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from pytest_asyncframe._sequencer import Sequencer

Start = Callable[[threading.Thread], None]
Join = Callable[..., None]

_ENDED = "_asyncframe_ended"
"""The attribute of a thread in which its `_End` is."""

_STARTED = "_asyncframe_started"
"""The attribute of a thread that says where it was started."""

_CALLERS = ("asyncframe-hook", "asyncframe-callbacks", "asyncframe-stop")
"""Names of threads on which the framework calls what may take its time."""


def start_on(sequencer: Sequencer, real: Start) -> Start:
    """Return `Thread.start` for threads whose end actors may wait for."""

    @functools.wraps(real)
    def start(self: threading.Thread) -> None:
        # Inside of a pool's submit the starter is away.
        if threading.get_ident() not in sequencer.actors or hasattr(self, _ENDED):
            real(self)
            return
        counted = self.name in _CALLERS
        _tell_end(sequencer, self, counted=counted, pooled=sequencer.here is None)
        if counted:
            sequencer.expect()
        try:
            # It waits until the new thread has begun, which needs no virtual time.
            with sequencer.real():
                real(self)
        except BaseException:
            if counted:
                sequencer.expect(-1)
            raise

    return start


class _End:
    """The end of a thread.

    Attributes:
        came: Set on the thread when it has nothing more to do.
        pooled: Whether it is a pool's, which works on the clock whenever it works.
    """

    def __init__(self, *, pooled: bool) -> None:
        self.came = threading.Event()
        self.pooled = pooled


def _tell_end(sequencer: Sequencer, thread: Any, *, counted: bool, pooled: bool) -> None:
    # Any: it gets attributes
    run = thread.run
    end = _End(pooled=pooled)
    setattr(thread, _ENDED, end)

    def run_and_tell() -> None:
        actor = sequencer.enter(thread.name, expected=True) if counted else None
        try:
            run()
        finally:
            del thread.run
            end.came.set()
            if actor is not None:
                sequencer.leave(actor)
            sequencer.has_ended(threading.get_ident())

    thread.run = run_and_tell


def join_on(sequencer: Sequencer, real: Join) -> Join:
    """Return `Thread.join`, which waits on the clock for threads that have worked on it."""

    @functools.wraps(real)
    def join(self: threading.Thread, timeout: float | None = None) -> None:
        end, ident = getattr(self, _ENDED, None), self.ident
        if (
            end is None
            or ident is None
            or not (end.pooled or ident in sequencer.known)
            or sequencer.here is None
            or self is threading.current_thread()
        ):
            real(self, timeout)
            return
        with sequencer.joining(ident):
            gone = end.came.wait(None if timeout is None else max(timeout, 0))
        if gone:
            real(self)

    return join
