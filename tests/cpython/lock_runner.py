"""Run CPython's own tests of locks against modelled ones, outside of a run.

The suite, `test.lock_tests`, is found on the machine at run time and is never copied. What is
built on locks in `threading` is made while the names of real locks are replaced, as in a run.

Run it with any supported Python that can import `pytest_asyncframe`:

    python tests/cpython/lock_runner.py

The exit status is 0 if all tests passed, 1 if not, and 77 if no suite was found.
"""

from __future__ import annotations

import importlib
import sys
import threading
import unittest
from collections.abc import Callable
from typing import Any

from pytest_asyncframe._explore.locks.making import stand_ins
from pytest_asyncframe._explore.locks.model import ModelLock, ModelRLock

NO_SUITE = 77


def make_lock() -> Any:
    """Return a modelled lock."""
    lock: Any = threading.Lock()
    assert type(lock) is ModelLock
    return lock


def make_rlock(*args: object, **kwargs: object) -> Any:
    """Return a modelled lock that can be taken again."""
    make: Any = threading.RLock
    lock = make(*args, **kwargs)
    assert type(lock) is ModelRLock
    return lock


def make_condition(lock: Any = None) -> Any:
    """Return a condition on a modelled lock."""
    condition: Any = threading.Condition(lock)
    assert type(condition._lock) in (ModelLock, ModelRLock)
    return condition


KINDS: dict[str, tuple[str, Callable[..., Any]]] = {
    "LockTests": ("locktype", make_lock),
    "RLockTests": ("locktype", make_rlock),
    "EventTests": ("eventtype", threading.Event),
    "ConditionTests": ("condtype", make_condition),
    "SemaphoreTests": ("semtype", threading.Semaphore),
    "BoundedSemaphoreTests": ("semtype", threading.BoundedSemaphore),
    "BarrierTests": ("barriertype", threading.Barrier),
}
"""The classes of the suite, and what they test."""


def main() -> int:
    """Run the suite; return the exit status."""
    try:
        suite_module = importlib.import_module("test.lock_tests")
    except ImportError:
        print("this Python has no test.lock_tests")
        return NO_SUITE
    suite = unittest.TestSuite()
    for name, (attribute, kind) in KINDS.items():
        tests = type(name, (getattr(suite_module, name),), {attribute: staticmethod(kind)})
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(tests))
    with stand_ins():
        result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    return int(not result.wasSuccessful())


if __name__ == "__main__":
    sys.exit(main())
