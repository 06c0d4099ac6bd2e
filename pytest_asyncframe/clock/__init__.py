"""Python's waiting on virtual time: `VirtualClock`, its event loop, and what is patched for it."""

from __future__ import annotations

from pytest_asyncframe.clock._clock import StuckError, VirtualClock, VirtualDeadlockError

__all__ = ["StuckError", "VirtualClock", "VirtualDeadlockError"]

# Where users import them from, whatever module they are defined in. A sleep may be a task,
# and is called after its module then.
for _public in (StuckError, VirtualClock, VirtualClock.sleep, VirtualDeadlockError):
    _public.__module__ = __name__
