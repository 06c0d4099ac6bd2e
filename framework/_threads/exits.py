"""What the standard library does at interpreter exit with the threads of our pools."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, MutableMapping
from concurrent.futures import thread as _stdlib
from typing import Any


def require_known(module: object) -> None:
    """Check that the standard library still has what ends the threads of a pool at exit.

    Raises:
        ImportError: If not. With threads that nobody ends, the process would not either.
    """
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise ImportError(
            f"asyncframe needs {missing[0]} of concurrent.futures.thread, which Python "
            f"{sys.version_info.major}.{sys.version_info.minor} does not have: use a newer "
            "asyncframe, or an older Python"
        )


_NEEDED = ("_threads_queues", "_shutdown", "_global_shutdown_lock")
require_known(_stdlib)


def joined_at_exit() -> MutableMapping[threading.Thread, Any]:
    """Return the threads that the standard library joins at exit; it has no public name."""
    queues: MutableMapping[threading.Thread, Any] = _stdlib._threads_queues  # type: ignore[assignment]  # typed as read-only
    return queues


class ExitSignal:
    """Takes the place of a thread's queue, into which `concurrent.futures` puts None at exit."""

    def __init__(self, release: Callable[[], None]) -> None:
        # Weak: the standard library's table holds threads weakly, and the crew holds them.
        self._release = weakref.WeakMethod(release)

    def put(self, _: None) -> None:
        """Let the crew's threads end, as None in the queue ends the standard pool's."""
        release = self._release()
        if release is not None:
            release()
