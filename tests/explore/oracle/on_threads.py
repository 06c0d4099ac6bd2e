"""The threads of the programs of `programs`: tasks of the framework that use `threading`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from framework import background_task, current_task
from pytest_asyncframe._turns.actors import TestEndedError
from tests.explore.oracle.programs import Note, Operation
from tests.explore.oracle.threads import PARTIES, ROOM


class Threads:
    """What the threads of one run share.

    Args:
        notes: What has happened.
        call_soon: Lets the loop make an operation.
    """

    def __init__(self, notes: list[Note], call_soon: Callable[[Operation], object]) -> None:
        self._notes = notes
        self._call_soon = call_soon
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.condition = threading.Condition()
        self.event = threading.Event()
        self.semaphore = threading.Semaphore()
        self.queue = queue.Queue[int](ROOM)
        self.barrier = threading.Barrier(PARTIES)

    def sequence(self, here: tuple[int, ...], operations: Sequence[Operation]) -> None:
        """Run operations of an actor, and note the end of each."""
        for number, (kind, *rest) in enumerate(operations):
            place = (*here, number)
            result = getattr(self, f"_do_{kind}")(place, *rest)
            self._notes.append((*place, *(() if result is None else (result,))))

    def _do_thread(self, here: Note) -> None:
        pass

    def _do_report(self, here: Note) -> None:
        task = current_task()
        assert task is not None
        task.report_progress(0.5)

    def _do_sleep(self, here: Note, seconds: int) -> None:
        time.sleep(seconds)  # noqa: TID251  # of virtual time

    def _do_lock(
        self, here: Note, seconds: int | None, operations: Sequence[Operation]
    ) -> str | None:
        if not self.lock.acquire(timeout=-1 if seconds is None else seconds):
            return "late"
        try:
            self.sequence(here, operations)
        finally:
            self.lock.release()
        return None

    def _do_rlock(self, here: Note, operations: Sequence[Operation]) -> None:
        with self.rlock:
            self.sequence(here, operations)

    def _do_await(self, here: Note, seconds: int | None) -> bool:
        with self.condition:
            return self.condition.wait(seconds)

    def _do_notify(self, here: Note, many: int) -> None:
        with self.condition:
            self.condition.notify(many)

    def _do_tset(self, here: Note) -> None:
        self.event.set()

    def _do_tclear(self, here: Note) -> None:
        self.event.clear()

    def _do_twait(self, here: Note, seconds: int | None) -> bool:
        return self.event.wait(seconds)

    def _do_acquire(self, here: Note, seconds: int | None) -> bool:
        return self.semaphore.acquire(timeout=seconds)

    def _do_release(self, here: Note) -> None:
        self.semaphore.release()

    def _do_tput(self, here: Note, seconds: int | None) -> bool:
        try:
            self.queue.put(0, timeout=seconds)
        except queue.Full:
            return False
        return True

    def _do_tget(self, here: Note, seconds: int | None) -> bool:
        try:
            self.queue.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    def _do_meet(self, here: Note, seconds: int | None) -> int | str:
        try:
            return self.barrier.wait(seconds)
        except threading.BrokenBarrierError:
            return "broken"

    def _do_call(self, here: Note, operation: Operation) -> None:
        self._call_soon(operation)


@background_task
def thread(threads: Threads, actor: int, operations: Sequence[Operation]) -> None:
    """Run the operations of an actor."""
    # What still waits when the test ends is left alone.
    with suppress(TestEndedError):
        threads.sequence((actor,), operations)
