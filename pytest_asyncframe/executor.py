"""DeterministicExecutor: a thread pool that starts nothing by itself.

Relies on: `sequencer` to know what begins when, and when everybody has come to rest.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from framework.testing import ControlledExecutor, Queued
from pytest_asyncframe._turns.sequencer import Sequencer


class SequencedExecutor(ControlledExecutor):
    """A pool whose work begins when a sequencer says so.

    Args:
        sequencer: Decides when what is queued begins.
        max_workers: Threads that work at once, from 1 on; None for the standard's default.
        options: Further parameters of `framework.ThreadPoolExecutorEnhanced`.
    """

    def __init__(
        self, sequencer: Sequencer, max_workers: int | None = None, **options: Any
    ) -> None:
        desk = _Desk(sequencer)
        workers = _standard_workers() if max_workers is None else max_workers
        super().__init__(desk, workers, **options)
        self._sequencer = sequencer
        # Neither keeps the pool: one that nobody holds any more shuts itself down.
        sequencer.room = self.room
        desk.emptying = self.emptying


@functools.cache  # it asks the operating system for its processors
def _standard_workers() -> int:
    return ThreadPoolExecutor()._max_workers


class DeterministicExecutor(SequencedExecutor):
    """A `concurrent.futures.ThreadPoolExecutor` that runs what a test tells it to.

    Work is done on real threads, while the caller of `run_next`, `run` or `drain` waits
    until it has ended, or waits for something that only the test can bring about. Failures
    are kept in the task or future, never raised here. All methods may be called from any
    thread but the pool's own; on an event loop's thread, its coroutines go on only after
    the call.
    """

    _ids: dict[Queued, str]

    def __init__(
        self, sequencer: Sequencer | None = None, max_workers: int | None = None, **options: Any
    ) -> None:
        super().__init__(
            Sequencer(starts=False) if sequencer is None else sequencer, max_workers, **options
        )
        self._ids = {}
        self._numbers = itertools.count(1)

    @property
    def pending(self) -> tuple[str, ...]:
        """The ids of what waits to be run, the oldest first.

        A task has its own id, a call of the bare pool ``call-1``, ``call-2`` and so on.
        """
        return tuple(self._id(queued) for queued in tuple(self._sequencer.queue))

    def run_next(self) -> str | None:
        """Run what has waited longest; return its id, or None if nothing waits.

        Raises:
            RuntimeError: If all *max_workers* threads are in the middle of something.
        """
        while (waiting := tuple(self._sequencer.queue)) != ():
            if self._run(waiting[0]):
                return self._id(waiting[0])
        return None

    def run(self, task_id: str) -> None:
        """Run one thing that waits.

        Raises:
            LookupError: If nothing that waits has this id.
            RuntimeError: If all *max_workers* threads are in the middle of something.
        """
        for queued in tuple(self._sequencer.queue):
            if self._id(queued) == task_id and self._run(queued):
                return
        waiting = ", ".join(self.pending) or "nothing waits"
        raise LookupError(f"nothing that waits has the id {task_id!r}; what waits: {waiting}")

    def drain(self) -> list[str]:
        """Run everything that waits, and what that submits; return the ids in that order.

        Raises:
            RuntimeError: If all *max_workers* threads are in the middle of something.
        """
        ran = []
        while (task_id := self.run_next()) is not None:
            ran.append(task_id)
        return ran

    def _run(self, queued: Queued) -> bool:
        if queued.kind == "thread" and self.room() <= 0:
            threads = self.get_stats()["max_workers"]
            raise RuntimeError(
                f"cannot run {self._id(queued)} ({queued.name}): all {threads} threads of the "
                "pool are in the middle of a task; let them go on first, for example by "
                "advancing the clock"
            )
        sequencer = self._sequencer
        with sequencer.working(threading.current_thread().name) as actor:
            if not sequencer.admit(queued):
                return False
            sequencer.settle(actor)
        return True

    def _id(self, queued: Queued) -> str:
        record = queued.record
        if record is not None:
            return str(record.task_id)
        found = self._ids.get(queued)
        if found is None:
            found = self._ids[queued] = f"call-{next(self._numbers)}"
        return found


class _Desk:
    """Tells a sequencer of what a pool is given; see `framework.testing.Control`."""

    emptying: Callable[[], bool]

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._orders: dict[Queued, int] = {}
        self._numbers = itertools.count(1)

    def queued(self, queued: Queued) -> None:
        """Let it wait until the sequencer admits it."""
        self._orders[queued] = next(self._numbers)
        # A loop's tasks are handed over in its next turn, so after their submission.
        self._sequencer.enqueue(
            queued,
            after_return=queued.record is not None
            and threading.get_ident() not in self._sequencer.loops,
        )

    def begin(self, queued: Queued) -> None:
        """Let the pool's thread be an actor."""
        self._sequencer.enter(
            threading.current_thread().name,
            self._sequencer.arrival_of(queued),
            order=self._orders.pop(queued, 0),
        )

    def end(self, queued: Queued) -> None:  # all that is needed is the thread
        """Let the pool's thread be none any more."""
        actor = self._sequencer.here
        assert actor is not None
        self._sequencer.leave(actor)

    def withdrawn(self, queued: Queued) -> None:
        """Forget it."""
        self._orders.pop(queued, None)
        if queued.admitted:
            self._sequencer.give_up(self._sequencer.arrival_of(queued))
        else:
            self._sequencer.remove(queued)

    def freed(self) -> None:
        """Let go on whoever waited for room."""
        if self.emptying():
            self._sequencer.starts = True
        self._sequencer.dispatch()

    def outside(self) -> AbstractContextManager[object]:
        """Let the pool's threads go on while the calling one waits for their end."""
        return self._sequencer.away()
