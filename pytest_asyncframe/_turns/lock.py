"""The innermost lock of a test, which code that the garbage collector runs may interrupt."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable


class InnermostLock(_thread.RLock):  # type: ignore[misc]  # final for type checkers alone
    """A raw lock whose holder may be interrupted by what the garbage collector runs.

    That is code of anybody, such as the end of an async generator, which wakes its loop. It can
    neither wait for the lock nor change what is half changed, so that it has to `come_back`.
    """

    def __init__(self) -> None:
        self._late: deque[Callable[[], object]] = deque()

    def interrupts(self) -> bool:
        """Return whether the calling thread holds it."""
        return self._is_owned()  # type: ignore[attr-defined,no-any-return]  # as Condition uses it

    def come_back(self, call: Callable[[], object]) -> None:
        """Call something once the calling thread, which holds it, has released it."""
        self._late.append(call)

    def __exit__(self, *error: object) -> None:
        self.release()
        # What interrupts may take it too, and what it leaves is not free yet.
        while self._late and not self.interrupts():
            try:
                late = self._late.popleft()
            except IndexError:  # another thread has released it as well
                return
            late()
