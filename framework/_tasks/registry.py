"""Decorated functions by name, and the schedules that every framework runs.

Both are held weakly: once its module or test has dropped a function, it is no longer found
or run.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from framework._records.exports import provided
from framework._tasks.specs import Schedule, TaskSpec, spec_for


class Listener(Protocol):
    """Runs schedules: the `schedules.Schedules` of a framework."""

    def add(self, schedule: Schedule) -> None:
        """Start to run a new schedule."""


_LOCK: Final = threading.Lock()
_BY_NAME: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
# Dicts and not sets, so that schedules start in the order in which they were declared.
_SCHEDULES: Final[weakref.WeakKeyDictionary[Schedule, None]] = weakref.WeakKeyDictionary()
_LISTENERS: Final[weakref.WeakKeyDictionary[Listener, None]] = weakref.WeakKeyDictionary()


def register(name: str, function: Any) -> None:  # Any: whatever a decorator returns
    """Register a decorated function; a later function of the same name replaces it.

    A copy with other options does not replace it: the copy may be dropped after one call,
    and the name would then stand for nothing.
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
    """Return the decorated function with this name, or None."""
    with _LOCK:
        found: Callable[..., Any] | None = _BY_NAME.get(name)
        return found


def find_spec(name: str) -> TaskSpec | None:
    """Return how to run the decorated function with this name, or None."""
    function = find_function(name)
    if function is None:
        return None
    return task_spec(function) or spec_for(function)


def task_spec(function: object) -> TaskSpec | None:
    """Return the spec that a function has as a task; None for any other."""
    schedule = getattr(function, "__asyncframe_schedule__", None)
    spec = getattr(function, "__asyncframe_spec__", None) or getattr(schedule, "spec", None)
    return spec if isinstance(spec, TaskSpec) else None


@contextmanager
def lasting() -> Iterator[None]:
    """Within this context, create schedules that run in all frameworks; see `is_lasting`."""
    # Not a context variable: a runner may run each fixture in another context.
    provided.lasting += 1
    try:
        yield
    finally:
        provided.lasting -= 1


def is_lasting() -> bool:
    """Whether a schedule that is created now outlives the current framework."""
    return provided.lasting > 0


def add_schedule(schedule: Schedule) -> None:
    """Register a schedule, also with the frameworks that are already running."""
    with _LOCK:
        _SCHEDULES[schedule] = None
        listeners = list(_LISTENERS)
    # Without the lock, since each listener takes its own.
    for listener in listeners:
        listener.add(schedule)


def listen(listener: Listener) -> list[Schedule]:
    """Return all schedules so far; ``listener.add(schedule)`` is called for later ones."""
    # In one step, so that no schedule is missed and none is added twice.
    with _LOCK:
        _LISTENERS[listener] = None
        return list(_SCHEDULES)


def unlisten(listener: Listener) -> None:
    """Stop passing new schedules to *listener*."""
    with _LOCK:
        _LISTENERS.pop(listener, None)
