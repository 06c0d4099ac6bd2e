"""A thread that does one job after the other, as an actor of a test."""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import ParamSpec

from pytest_asyncframe._turns.actors import Arrival, ProcessDeadError, leave_dead
from pytest_asyncframe._turns.sequencer import Sequencer

P = ParamSpec("P")


class Strand:
    """Does jobs in the order in which they come; its thread starts with the first of them.

    Time stands still until they are done. Others that can go on have a turn before each of them.

    Args:
        sequencer: The actors of the test.
        name: What the thread is called.
    """

    def __init__(self, sequencer: Sequencer, name: str) -> None:
        self._sequencer = sequencer
        self._name = name
        # Guards the jobs, and whether the thread is at work. A raw one, since it is no wait of the
        # test's.
        self._lock = _thread.allocate_lock()
        self._jobs: deque[Callable[[], object]] = deque()
        self._works = self._has_begun = False
        # Where it waits in real time, since a `SimpleQueue` waits in C; None ends it.
        self._calls: SimpleQueue[Arrival | None] = SimpleQueue()

    def post(self, job: Callable[[], object]) -> None:
        """Do a job after those before it; never blocks, on any thread."""
        with self._lock:
            self._jobs.append(job)
            if self._works:
                return
            self._works = True
        # One for all jobs until it rests: it could not answer a second one meanwhile.
        self._calls.put(self._sequencer.expect(self._name))
        if not self._has_begun:
            self._has_begun = True
            _thread.start_new_thread(unlisted(self._run, self._name), ())

    def end(self) -> None:
        """End the thread once the jobs are done."""
        self._calls.put(None)

    def _run(self) -> None:
        # What it does is no user's code, and there is nothing to be left in the middle of.
        with suppress(ProcessDeadError):
            while (arrival := self._calls.get()) is not None:
                self._work(arrival)
            self._sequencer.has_ended(_thread.get_ident())

    def _work(self, arrival: Arrival) -> None:
        sequencer = self._sequencer
        actor = sequencer.enter(arrival, name=self._name)
        actor.stop = leave_dead
        while (job := self._next()) is not None:
            job()
            sequencer.yield_turn(actor)
        sequencer.leave(actor)

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            self._works = bool(self._jobs)
            return self._jobs.popleft() if self._works else None


def unlisted(run: Callable[P, object], name: str) -> Callable[P, None]:
    """Return what a raw thread runs, which `threading` lists until it ends.

    It lists a raw thread from the moment at which that asks for itself, as `logging` does. Until
    Python 3.12 it does so for ever. Then time waits at each step for a thread that is no more.

    Args:
        run: What the thread does.
        name: What timelines and logs call the thread; `threading` would call it ``Dummy-1``.
    """

    def run_and_leave(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            threading.current_thread().name = name
            run(*args, **kwargs)
        finally:
            threading._active.pop(_thread.get_ident(), None)  # type: ignore[attr-defined]

    return run_and_leave
