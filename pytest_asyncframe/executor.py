"""DeterministicExecutor: a thread pool that runs only what a test tells it to.

Relies on: `sequencer` for when queued calls start and when nobody runs any more.
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
    """A thread pool whose queued calls start when a sequencer says so.

    Args:
        sequencer: Decides when queued calls start.
        max_workers: Number of threads, from 1 on; None for the default of Python's pools.
        options: Further parameters of `framework.ThreadPoolExecutorEnhanced`.
    """

    def __init__(
        self, sequencer: Sequencer, max_workers: int | None = None, **options: Any
    ) -> None:
        workers = _standard_workers() if max_workers is None else max_workers
        # With one thread, a call comes after the one before.
        control = _SequencerControl(sequencer, in_order=workers == 1)
        super().__init__(control, workers, **options)
        self._sequencer = sequencer
        # Neither refers to the pool, which shuts down when nobody refers to it any more.
        sequencer.room = self.room
        control.emptying = self.emptying


@functools.cache  # counting the processors takes a system call
def _standard_workers() -> int:
    return ThreadPoolExecutor()._max_workers


class DeterministicExecutor(SequencedExecutor):
    """A `concurrent.futures.ThreadPoolExecutor` that runs only what a test tells it to.

    Tasks and calls run on real threads. `run_next`, `run` and `drain` block until they have
    ended, or wait for something that only the test can do. Errors are stored in the task or
    future and never raised here. Call these methods from any thread except the pool's own.
    On the thread of an event loop, its coroutines continue only after the call.
    """

    def __init__(
        self, sequencer: Sequencer | None = None, max_workers: int | None = None, **options: Any
    ) -> None:
        super().__init__(
            Sequencer(starts=False) if sequencer is None else sequencer, max_workers, **options
        )
        self._ids: dict[Queued, str] = {}
        self._numbers = itertools.count(1)

    @property
    def pending(self) -> tuple[str, ...]:
        """The ids of the queued tasks and calls, oldest first.

        Tasks have their own ids. Calls submitted to the pool directly are named ``call-1``,
        ``call-2`` and so on.
        """
        return tuple(self._id(queued) for queued in tuple(self._sequencer.queue.waiting))

    def run_next(self) -> str | None:
        """Run the oldest queued task or call; return its id, or None if nothing is queued.

        Tasks with another priority than normal come before or after others, as in a pool.

        Raises:
            RuntimeError: If all *max_workers* threads are busy.
        """
        while (queued := self._sequencer.next_queued()) is not None:
            if self._run(queued):
                return self._id(queued)
        return None

    def run(self, task_id: str) -> None:
        """Run one queued task or call.

        Raises:
            LookupError: If nothing with this id is queued.
            RuntimeError: If all *max_workers* threads are busy.
        """
        for queued in tuple(self._sequencer.queue.waiting):
            if self._id(queued) == task_id and self._run(queued):
                return
        queued_ids = ", ".join(self.pending) or "nothing"
        raise LookupError(f"nothing is queued with the id {task_id!r}; queued: {queued_ids}")

    def drain(self) -> list[str]:
        """Run everything that is queued, and what that submits; return the ids in order.

        Raises:
            RuntimeError: If all *max_workers* threads are busy.
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
                "pool are busy; let them finish first, for example by advancing the clock"
            )
        sequencer = self._sequencer
        with sequencer.working() as actor:
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


class _SequencerControl:
    """Lets a sequencer decide when a pool's calls start; see `framework.testing.Control`."""

    emptying: Callable[[], bool]

    def __init__(self, sequencer: Sequencer, *, in_order: bool) -> None:
        self._sequencer = sequencer
        self._in_order = in_order
        self._orders: dict[Queued, int] = {}
        self._numbers = itertools.count(1)

    def queued(self, queued: Queued) -> None:
        """Queue a task or call with the sequencer."""
        self._orders[queued] = next(self._numbers)
        sequencer = self._sequencer
        # A timer that queues a delayed task may fire on a parked thread, which called nothing.
        called = queued.record is not None and threading.get_ident() not in sequencer.firing
        sequencer.enqueue(queued, after_return=called)

    def begin(self, queued: Queued) -> None:
        """Make the pool's thread an actor."""
        sequencer = self._sequencer
        sequencer.enter(sequencer.arrival_of(queued), order=self._orders.pop(queued, 0))
        sequencer.listeners.acquired(queued)
        if self._in_order:
            sequencer.listeners.acquired(self)

    def end(self, queued: Queued) -> None:
        """End the actor of the pool's thread."""
        actor = self._sequencer.here
        assert actor is not None
        if self._in_order:
            self._sequencer.listeners.released(self)
        self._sequencer.leave(actor)

    def withdrawn(self, queued: Queued) -> None:
        """Take a task or call that will not run off the queue."""
        self._orders.pop(queued, None)
        if queued.admitted:
            self._sequencer.give_up(self._sequencer.arrival_of(queued))
        else:
            self._sequencer.remove(queued)

    def freed(self) -> None:
        """Start what waited for room."""
        if self.emptying():
            self._sequencer.starts = True
        self._sequencer.dispatch()

    def outside(self) -> AbstractContextManager[object]:
        """Let the pool's threads run while the calling thread waits for them to end."""
        return self._sequencer.away()
