"""Who waits for whom: finds the wait that can never end before it begins.

Only waits without a timeout are recorded, and only of tasks that stand still meanwhile:
a circle of such waits never opens again.
"""

from __future__ import annotations

import threading

from framework.exceptions import DeadlockError


class WaitGraph:
    """One edge for each waiter; thread-safe, its lock is innermost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[object, object] = {}

    def enter(self, waiter: object, awaited: object) -> None:
        """Record that *waiter* stands still until *awaited* has ended.

        Raises:
            DeadlockError: If *awaited* itself, over any number of others, waits for
                *waiter*; nothing is recorded then.
        """
        with self._lock:
            chain = [waiter]
            step: object | None = awaited
            while step is not None:
                chain.append(step)
                if step is waiter:
                    raise DeadlockError(tuple(_name(one) for one in chain))
                step = self._awaited.get(step)
            self._awaited[waiter] = awaited

    def leave(self, waiter: object) -> None:
        """Forget what *waiter* waited for."""
        with self._lock:
            self._awaited.pop(waiter, None)


def _name(node: object) -> str:
    return str(getattr(node, "name", None) or node)
