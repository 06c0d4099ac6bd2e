"""What the standard library does at interpreter exit with the threads of our pools."""

from __future__ import annotations

import threading
import weakref
from collections.abc import MutableMapping
from concurrent.futures import thread as _stdlib
from typing import Any, Protocol


class Releasable(Protocol):
    """What lets its threads end: a `crew.Crew`."""

    def release(self) -> None:
        """Let the threads end once the queue is empty."""


def joined_at_exit() -> MutableMapping[threading.Thread, Any]:
    """Return the threads that the standard library joins at exit; it has no public name."""
    queues: MutableMapping[threading.Thread, Any] = _stdlib._threads_queues  # type: ignore[assignment]  # typed as read-only
    return queues


class ExitSignal:
    """Takes the place of a thread's queue, into which `concurrent.futures` puts None at exit."""

    def __init__(self, crew: Releasable) -> None:
        # Weak: the standard library's table holds threads weakly, and the crew holds them.
        self._crew = weakref.ref(crew)

    def put(self, _: None) -> None:
        """Let the crew's threads end, as None in the queue ends the standard pool's."""
        crew = self._crew()
        if crew is not None:
            crew.release()
