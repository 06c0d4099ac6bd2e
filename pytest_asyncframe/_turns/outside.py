"""What may yet come from where the clock does not see: files of loops, a test's own threads.

Relies on: `activity` to tell what a thread does.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Mapping

from pytest_asyncframe._turns.activity import BEGINNING, Glance, glance

FILE_SILENCE = 0.5
"""Real seconds without any bytes after which time moves on though a loop watches a file."""

THREAD_PAUSE = 0.005
"""Real seconds after which time moves on if no thread of the test's own has run meanwhile."""

RESTLESS = 1.0
"""Real seconds after which time moves on though a thread of the test's own wakes now and then."""

COMPUTES = 1_000_000
"""Nanoseconds from which on a thread computes that has a processor for so long at once."""

Glances = Mapping[threading.Thread, Glance]


class Verdict(enum.Enum):
    """What threads have done between two glances, by the busiest of them."""

    QUIET = "none has run"
    RESTLESS = "some have run a little, or sleep in C: they poll, or work in small steps"
    STARVED = "some have had no processor, though they would run"
    BUSY = "some compute, write to a disk, or have only begun"


class Outside:
    """What a test waits for in real time.

    Args:
        pollers: The identifiers of threads that have been restless for long without
            waking anybody: time does not wait for them until they do.

    Attributes:
        files: How many files, and processes, the test's loops watch.
        there: Whether there is anything; read often.
    """

    def __init__(self, pollers: set[int]) -> None:
        self.files: int = 0
        self.there: bool = False
        self._pollers = pollers
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def count_files(self, more: int) -> None:
        """Count files that a loop watches from now on; below 0 for no longer."""
        with self._lock:
            self.files += more
            self._look()

    def add_thread(self, thread: threading.Thread) -> None:
        """Note a thread of the test's own that has been started."""
        with self._lock:
            self._threads.add(thread)
            self._look()

    def remove_thread(self, thread: threading.Thread) -> None:
        """Note that a thread has ended."""
        with self._lock:
            self._threads.discard(thread)
            self._pollers.discard(thread.ident or 0)
            self._look()

    def _look(self) -> None:
        self.there = bool(self.files or self._threads)

    @property
    def step(self) -> float:
        """For how many real seconds to listen before looking whether something came."""
        return THREAD_PAUSE if self._threads else FILE_SILENCE

    def look(self) -> Glances:
        """Return what each thread does now."""
        with self._lock:
            return {thread: glance(thread.native_id) for thread in self._threads}

    def judge(self, before: Glances, now: Glances) -> Verdict:
        """Return what the threads have done between two looks."""
        found = Verdict.QUIET
        for thread, seen in now.items():
            verdict = _judged(before.get(thread, BEGINNING), seen)
            if thread.ident in self._pollers:
                if verdict is not Verdict.BUSY:
                    continue
                self._pollers.discard(thread.ident)
            if _RANKS[verdict] > _RANKS[found]:
                found = verdict
        return found

    def is_over(self, verdict: Verdict, silent: float) -> bool:
        """Whether time may move on after a look, *silent* seconds after the last sign of life."""
        if verdict is Verdict.QUIET:
            return silent >= FILE_SILENCE or not self.files
        return verdict is Verdict.RESTLESS and silent >= RESTLESS

    def give_up(self, before: Glances, now: Glances) -> list[threading.Thread]:
        """Wait no more for those that have been restless for long, and return them.

        One that sleeps in C waits for what others hold, such as a database's lock: it is
        waited for as long the next time.
        """
        found = [
            thread
            for thread, seen in now.items()
            if not seen.naps
            and thread.ident not in self._pollers
            and _judged(before.get(thread, BEGINNING), seen) is Verdict.RESTLESS
        ]
        self._pollers.update(thread.ident for thread in found if thread.ident)
        return found


_RANKS = {verdict: rank for rank, verdict in enumerate(Verdict)}


def _judged(before: Glance, now: Glance) -> Verdict:
    if before is BEGINNING or now is BEGINNING or now.on_disk:
        return Verdict.BUSY
    ran = now.ran - before.ran
    if ran >= COMPUTES * max(1, now.turns - before.turns):
        return Verdict.BUSY
    if not ran and now.at_work and before.at_work:
        return Verdict.STARVED
    return Verdict.RESTLESS if ran or now.at_work or now.naps else Verdict.QUIET
