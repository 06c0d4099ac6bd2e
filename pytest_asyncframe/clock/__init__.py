"""Virtual time for what waits in Python: `VirtualClock`, its event loop, and patches."""

from __future__ import annotations

from pytest_asyncframe.clock._clock import StuckError, VirtualClock, VirtualDeadlockError

__all__ = ["StuckError", "VirtualClock", "VirtualDeadlockError"]

# The module that users import them from. `VirtualClock.sleep` may be submitted as a task,
# whose name contains its module.
for _public in (StuckError, VirtualClock, VirtualClock.sleep, VirtualDeadlockError):
    _public.__module__ = __name__
