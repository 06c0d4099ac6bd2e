"""What may yet come from where the clock does not see: files of loops, a test's own threads.

Relies on: `_activity` to tell whether a thread runs.
"""

from __future__ import annotations

import threading

from pytest_asyncframe._activity import runs

FILE_SILENCE = 0.5
"""Real seconds without any bytes after which time moves on though a loop watches a file."""

THREAD_PAUSE = 0.005
"""Real seconds after which time moves on if no thread of the test's own has run meanwhile."""


class Outside:
    """What a test waits for in real time.

    Attributes:
        files: How many files, and processes, the test's loops watch.
        there: Whether there is anything; read often.
    """

    def __init__(self) -> None:
        self.files: int = 0
        self.there: bool = False
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
            self._look()

    def _look(self) -> None:
        self.there = bool(self.files or self._threads)

    @property
    def step(self) -> float:
        """For how many real seconds to listen before looking whether something came."""
        return THREAD_PAUSE if self._threads else FILE_SILENCE

    def sample(self) -> object:
        """Return what equals a later result if no thread has run between."""
        with self._lock:
            return [runs(thread.native_id) for thread in self._threads]
