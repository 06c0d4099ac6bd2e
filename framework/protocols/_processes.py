"""Processes that share a store, as whoever shows them sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that shares a store.

    Attributes:
        process_id: Its id, which no other process has had.
        host: The name of its machine.
        pid: Its number there.
        role: `StoreHost.role`; None if it has not said so.
        started_at: When it started, in seconds since the epoch.
        places: How many tasks of each kind it runs at a time; None if it has not said so.
        running: How many of its tasks run, by their names, the most frequent first.
        running_since: When the first of these started, in seconds since the epoch; None if none
            runs.
        silent: For how many seconds at least it has given no sign of life; 0.0 if that is not
            known, as at the first look.
        is_gone: Whether it has ended, as far as its machine or the database's server can tell: then
            the next process that looks takes over its tasks.
    """

    process_id: str
    host: str
    pid: int
    role: str | None
    started_at: float
    places: int | None
    running: Mapping[str, int]
    running_since: float | None
    silent: float
    is_gone: bool

    @property
    def kind(self) -> str:
        """What it is: ``"worker"``, ``"submits"`` if it only submits, or else ``"app"``."""
        return "worker" if self.role == "worker" else "submits" if self.places == 0 else "app"


@runtime_checkable
class ProcessBook(Protocol):
    """An optional method of a `SharedStore` that knows which processes share it."""

    def processes(self, now: float) -> Sequence[ProcessInfo]:
        """Return the processes, this one too, the oldest first; may block, on any thread.

        Args:
            now: Monotonic seconds of the caller, to tell how long a process has been silent.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...
