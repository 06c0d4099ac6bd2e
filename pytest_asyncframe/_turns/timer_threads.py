"""The threads that call the functions of timers, so that these can wait and be interrupted.

Relies on: the next call of a thread coming after `Turns.leave` for the one before.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import TypeAlias

from pytest_asyncframe._turns.actors import Arrival
from pytest_asyncframe._turns.turns import Turns

NAME = "timers"
"""The name of the actors of these threads, for messages."""


class TimerThreads:
    """Threads that are actors while they call something; they start when they are needed.

    There are several only if a timer fires while the function of another one waits, or lets
    others run at a point.

    Args:
        turns: The actors of the test.
        on_error: Called with an error that a call has raised.
    """

    def __init__(self, turns: Turns, on_error: Callable[[BaseException], object]) -> None:
        self._turns = turns
        self._on_error = on_error
        self._idle: list[_TimerThread] = []
        self._ended = False

    def call(self, arrival: Arrival, fn: Callable[[], object]) -> None:
        """Let a thread call *fn*; *arrival* announces it, with its turn."""
        if self._idle:
            self._idle.pop().give((arrival, fn))
        else:
            _TimerThread(self._run_job, self._turns).start((arrival, fn))

    def end(self) -> None:
        """End the threads once they are idle."""
        self._ended = True
        while self._idle:
            self._idle.pop().give(None)

    def _run_job(self, thread: _TimerThread, job: _Job) -> bool:
        """Run a job as an actor; return whether the thread is to wait for the next one."""
        arrival, fn = job
        turns = self._turns
        actor = turns.enter(arrival, name=NAME)
        try:
            fn()
        except BaseException as error:  # the thread has no caller that could raise it
            self._on_error(error)
        finally:
            stays = not self._ended
            if stays:
                # Before it leaves: another timer may fire as soon as it has.
                self._idle.append(thread)
            turns.leave(actor)
        return stays


_Job: TypeAlias = tuple[Arrival, Callable[[], object]]


class _TimerThread:
    """One thread, and the job that it is given next."""

    def __init__(self, run: Callable[[_TimerThread, _Job], bool], turns: Turns) -> None:
        self._run_job = run
        self._turns = turns
        self._job: _Job | None = None
        self._gate = _thread.allocate_lock()
        self._gate.acquire()

    def start(self, job: _Job) -> None:
        """Start the thread with its first job."""
        self._job = job
        _thread.start_new_thread(self._run, ())

    def give(self, job: _Job | None) -> None:
        """Give it the next job while it is idle; None ends it."""
        self._job = job
        self._gate.release()

    def _run(self) -> None:
        while (job := self._job) is not None and self._run_job(self, job):
            self._gate.acquire()
        self._turns.has_ended(_thread.get_ident())
