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

    def enter(self, waiter: object, awaited: object, *, task: object = None) -> None:
        """Record that *waiter* stands still until *awaited* has ended.

        Args:
            waiter: What stands still: a thread's item, or the asyncio task of coroutines
                that are driven inside one another.
            awaited: What it waits for.
            task: The task that waits, for the message; None if it is *waiter* itself.

        Raises:
            DeadlockError: If *awaited* itself, over any number of others, waits for
                *waiter*; nothing is recorded then.
        """
        with self._lock:
            chain = [waiter if task is None else task]
            step: object | None = awaited
            while step is not None:
                chain.append(step)
                holder = _holder(step)
                if holder is waiter:
                    if step is not chain[0]:
                        chain.append(chain[0])
                    raise DeadlockError(tuple(_name(one) for one in chain))
                step = self._awaited.get(holder)
            self._awaited[waiter] = awaited

    def leave(self, waiter: object) -> None:
        """Forget what *waiter* waited for."""
        with self._lock:
            self._awaited.pop(waiter, None)


def _holder(node: object) -> object:
    """Return what stands still when *node* does: the asyncio task that drives it, or itself."""
    return getattr(getattr(node, "driver", None), "owner", None) or node


def _name(node: object) -> str:
    return str(getattr(node, "name", None) or node)
