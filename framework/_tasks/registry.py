"""Decorated functions by name, and the scheduled ones for every framework to run.

Both are held weakly: a function that its module or test has let go is not run or found
any more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from framework._tasks.specs import Schedule


class Listener(Protocol):
    """Runs schedules: the `schedules.Schedules` of a framework."""

    def add(self, schedule: Schedule) -> None:
        """Begin with a schedule that was made since."""


_LOCK: Final = threading.Lock()
_BY_NAME: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
_SCHEDULES: Final[weakref.WeakSet[Schedule]] = weakref.WeakSet()
_LISTENERS: Final[weakref.WeakSet[Listener]] = weakref.WeakSet()
# No context variable: a fixture may be run in a context of its runner's own.
_LASTING: Final[list[None]] = []


def register(name: str, function: Any) -> None:  # Any: whatever a decorator returns
    """Note a decorated function; of two with one name the later one is found.

    A copy with other options is not another one: it may be gone after one call, and the
    name would then stand for nothing.
    """
    with _LOCK:
        known = _BY_NAME.get(name)
        if known is None or known.fn is not function.fn:
            _BY_NAME[name] = function


def names() -> list[str]:
    """Return the names of all decorated functions."""
    with _LOCK:
        return list(_BY_NAME)


def functions() -> list[Callable[..., Any]]:
    """Return all decorated functions."""
    with _LOCK:
        return list(_BY_NAME.values())


def find_function(name: str) -> Callable[..., Any] | None:
    """Return the decorated function of this name, or None."""
    with _LOCK:
        found: Callable[..., Any] | None = _BY_NAME.get(name)
        return found


@contextmanager
def lasting() -> Iterator[None]:
    """Let schedules that are made inside be those of all frameworks; see `is_lasting`."""
    _LASTING.append(None)
    try:
        yield
    finally:
        _LASTING.pop()


def is_lasting() -> bool:
    """Whether a schedule that is made now outlives the framework that is current."""
    return bool(_LASTING)


def add_schedule(schedule: Schedule) -> None:
    """Note a scheduled function and tell the frameworks that run already."""
    with _LOCK:
        _SCHEDULES.add(schedule)
        listeners = list(_LISTENERS)
    for listener in listeners:
        listener.add(schedule)


def listen(listener: Listener) -> list[Schedule]:
    """Return all schedules so far; ``listener.add(schedule)`` is called for later ones."""
    with _LOCK:
        _LISTENERS.add(listener)
        return list(_SCHEDULES)


def unlisten(listener: Listener) -> None:
    """Tell *listener* of no more schedules."""
    with _LOCK:
        _LISTENERS.discard(listener)
