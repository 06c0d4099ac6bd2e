"""The threads that call the functions of timers, so that these can wait and be interrupted.

Relies on: the next call of a thread coming after `Turns.leave` for the one before.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from pytest_asyncframe._turns.actors import Arrival
from pytest_asyncframe._turns.turns import Turns

_Job: TypeAlias = tuple[Arrival, Callable[[], object]]


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
        # Where the idle ones wait for a job, or for None, which ends them. In real time, since
        # a `SimpleQueue` waits in C.
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._ended = False

    def call(self, arrival: Arrival, fn: Callable[[], object]) -> None:
        """Let a thread call *fn*; *arrival* announces it, with its turn."""
        if self._idle:
            self._idle.pop().put((arrival, fn))
        else:
            _thread.start_new_thread(self._run, ((arrival, fn),))

    def end(self) -> None:
        """End the threads once they are idle."""
        self._ended = True
        while self._idle:
            self._idle.pop().put(None)

    def _run(self, first: _Job) -> None:
        jobs: SimpleQueue[_Job | None] = SimpleQueue()
        job: _Job | None = first
        while job is not None:
            job = jobs.get() if self._do(job, jobs) else None
        self._turns.has_ended(_thread.get_ident())

    def _do(self, job: _Job, jobs: SimpleQueue[_Job | None]) -> bool:
        """Do a job as an actor; return whether the thread is to wait for the next one."""
        arrival, fn = job
        actor = self._turns.enter(arrival, name="timers")
        try:
            fn()
        except BaseException as error:  # the thread has no caller that could raise it
            self._on_error(error)
        finally:
            stays = not self._ended
            if stays:
                # Before it leaves: another timer may fire as soon as it has.
                self._idle.append(jobs)
            self._turns.leave(actor)
        return stays
