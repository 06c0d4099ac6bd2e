"""The thread that calls the functions of timers, so that these can wait and be interrupted.

Relies on: one job at a time; the next one comes after `Turns.leave` for the one before.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable

from pytest_asyncframe._turns.actors import Arrival
from pytest_asyncframe._turns.turns import Turns

NAME = "timers"
"""The name of the thread's actor, for messages."""


class TimerThread:
    """A thread that is an actor while it calls something; it starts with the first call.

    Args:
        turns: The actors of the test.
        on_error: Called with an error that a call has raised.
    """

    def __init__(self, turns: Turns, on_error: Callable[[BaseException], object]) -> None:
        self._turns = turns
        self._on_error = on_error
        self._started = False
        self._job: tuple[Arrival, Callable[[], object]] | None = None
        self._gate = _thread.allocate_lock()
        self._gate.acquire()

    def call(self, arrival: Arrival, fn: Callable[[], object]) -> None:
        """Let the thread call *fn*; *arrival* announces it, with its turn."""
        self._job = arrival, fn
        if self._started:
            self._gate.release()
        else:
            self._started = True
            _thread.start_new_thread(self._run, ())

    def end(self) -> None:
        """End the thread once it is idle."""
        if self._started:
            self._started = False
            self._job = None
            self._gate.release()

    def _run(self) -> None:
        turns = self._turns
        while (job := self._job) is not None:
            arrival, fn = job
            actor = turns.enter(arrival, name=NAME)
            try:
                fn()
            except BaseException as error:  # the thread has no caller that could raise it
                self._on_error(error)
            finally:
                turns.leave(actor)
            self._gate.acquire()
        turns.has_ended(_thread.get_ident())
