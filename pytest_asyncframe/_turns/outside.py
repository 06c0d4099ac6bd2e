"""What may happen outside the clock: sockets and files of loops, and threads.

Threads of the test's own may act at any time. Those that existed before, such as one that an
engine of a wider fixture has started, may do so once they have run during the test: somebody has
given them something to do. That is looked up whenever time would move.

Relies on: `activity` for what a thread does.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection, Iterable, Mapping

from pytest_asyncframe._turns.activity import BEGINNING, GONE, Glance, glance, place

FILE_SILENCE = 0.5
"""Real seconds without data after which time moves on although a loop watches a file."""

THREAD_PAUSE = 0.005
"""Real seconds after which time moves on if none of the test's own threads has run."""

RESTLESS = 1.0
"""Real seconds after which time moves on although a thread of the test's own keeps polling."""

COMPUTES = 1_000_000
"""Nanoseconds on a processor without a break from which a thread counts as computing."""

_POLLS = "_asyncframe_polls"
"""The attribute of a thread from before that has run now and then in a test for nobody."""

_THREAD = "the thread {}, which works outside the clock"

Glances = Mapping[threading.Thread, Glance]


class Verdict(enum.Enum):
    """What threads did between two looks; the busiest one decides."""

    QUIET = "none has run"
    RESTLESS = "some have run for a moment or sleep in C: they poll, or work in small steps"
    STARVED = "some were ready to run but got no processor"
    BUSY = "some compute, wait for a disk, or have just started"


class Outside:
    """What a test waits for in real time.

    Attributes:
        pollers: Identifiers of the threads that have polled for long without waking
            anybody. Time does not wait for them until they wake somebody or compute.
        files: Number of files and processes that the test's loops watch.
        there: Whether there are any files or threads; an attribute, since it is read often.
        met: What the test has met so far that no chooser controls, in order, each once.
        stirred: The threads from before the test that have run since.
    """

    def __init__(self) -> None:
        self.files: int = 0
        self.there: bool = False
        self.met: dict[str, None] = {}
        self.pollers: set[int] = set()
        self.stirred: set[threading.Thread] = set()
        self._threads: set[threading.Thread] = set()
        # What each one did when it last mattered.
        self._before: dict[threading.Thread, Glance] = {}
        # Where each one was before, which says something even where the system does not.
        self._places: dict[threading.Thread, object] = {}
        self._lock = threading.Lock()

    def count_files(self, more: int) -> None:
        """Add to the number of watched files; below 0 for those no longer watched."""
        with self._lock:
            if more > 0:
                self.met["a socket, a file or a process that an event loop watches"] = None
            self.files += more
            self._look()

    def add_thread(self, thread: threading.Thread) -> None:
        """Add a thread of the test's own, which is about to start."""
        with self._lock:
            self.met[_THREAD.format(thread.name)] = None
            self._threads.add(thread)
            self._look()

    def meet(self, ident: int) -> None:
        """Take note of a thread that has woken an actor and was none itself, by its identifier."""
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # takes no lock
        self.met[_THREAD.format("of a library" if thread is None else thread.name)] = None

    def watch(self, threads: Iterable[threading.Thread]) -> None:
        """Take note of threads from before the test, which matter once they have run."""
        for thread in threads:
            if not hasattr(thread, _POLLS):
                self._before[thread] = glance(thread.native_id)
                self._places[thread] = place(thread)

    def is_back(self, thread: threading.Thread) -> bool:
        """Whether a thread from before is where it was then, for systems without `/proc`."""
        there = self._places.get(thread)
        return there is not None and glance(thread.native_id) is GONE and there == place(thread)

    def may_act(self, actors: Collection[int]) -> bool:
        """Whether anything may yet happen, given the identifiers of all that were actors."""
        if self._before:
            with self._lock:
                self._stir(actors)
        return self.there

    def _stir(self, actors: Collection[int]) -> None:
        for thread, before in list(self._before.items()):
            now = glance(thread.native_id)
            if thread.ident in actors or not thread.is_alive():
                del self._before[thread]
            # Without `/proc` nobody knows what it does.
            elif now is GONE or now.at_work or now != before:
                del self._before[thread]
                self.stirred.add(thread)
                self._threads.add(thread)
        self._look()

    def let_rest(self, now: Glances) -> None:
        """Wait no more for the threads from before, until they run again.

        Args:
            now: What they do now.
        """
        with self._lock:
            for thread in self.stirred & self._threads & now.keys():
                self._threads.discard(thread)
                if thread.ident in self.pollers:
                    setattr(thread, _POLLS, True)
                else:
                    self._before[thread] = now[thread]
            self._look()

    def remove_thread(self, thread: threading.Thread) -> None:
        """Remove a thread that has ended."""
        with self._lock:
            self._threads.discard(thread)
            self.pollers.discard(thread.ident or 0)
            self._look()

    def bury(self, threads: Collection[threading.Thread]) -> None:
        """Wait no more for the files of loops, nor for *threads*: their process is dead."""
        with self._lock:
            self.files = 0
            self._threads.difference_update(threads)
            for one in threads:
                self._before.pop(one, None)
                # It may outlive the test, and works for none.
                setattr(one, _POLLS, True)
            self._look()

    def _look(self) -> None:
        self.there = bool(self.files or self._threads)

    @property
    def step(self) -> float:
        """Real seconds to wait before each look."""
        return THREAD_PAUSE if self._threads else FILE_SILENCE

    def look(self) -> Glances:
        """Return what each thread does now."""
        with self._lock:
            return {thread: glance(thread.native_id) for thread in self._threads}

    def judge(self, before: Glances, now: Glances) -> Verdict:
        """Return what the threads did between two looks."""
        found = Verdict.QUIET
        for thread, seen in now.items():
            verdict = _judged(before.get(thread, BEGINNING), seen)
            if thread.ident in self.pollers:
                if verdict is not Verdict.BUSY:
                    continue
                self.pollers.discard(thread.ident)
            if _RANKS[verdict] > _RANKS[found]:
                found = verdict
        return found

    def is_over(self, verdict: Verdict, silent: float) -> bool:
        """Whether time may move on.

        Args:
            verdict: What the threads did since the look before.
            silent: Real seconds since anything last happened.
        """
        if verdict is Verdict.QUIET:
            return silent >= FILE_SILENCE or not self.files
        return verdict is Verdict.RESTLESS and silent >= RESTLESS

    def give_up(self, before: Glances, now: Glances) -> list[threading.Thread]:
        """Stop waiting for the threads that poll, and return them.

        Those that sleep in C are not given up: they wait for what others hold, such as the
        lock of a database.
        """
        found = [
            thread
            for thread, seen in now.items()
            if not seen.naps
            and thread.ident not in self.pollers
            and _judged(before.get(thread, BEGINNING), seen) is Verdict.RESTLESS
        ]
        self.pollers.update(thread.ident for thread in found if thread.ident)
        return found


_RANKS = {verdict: rank for rank, verdict in enumerate(Verdict)}


def _judged(before: Glance, now: Glance) -> Verdict:
    if now is GONE:
        return Verdict.QUIET
    if before is BEGINNING or now is BEGINNING or now.on_disk:
        return Verdict.BUSY
    ran = now.ran - before.ran
    if ran >= COMPUTES * max(1, now.turns - before.turns):
        return Verdict.BUSY
    if not ran and now.at_work and before.at_work:
        return Verdict.STARVED
    return Verdict.RESTLESS if ran or now.at_work or now.naps else Verdict.QUIET
