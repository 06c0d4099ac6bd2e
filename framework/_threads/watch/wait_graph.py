"""The wait graph: who waits for whom, to detect a deadlock before it happens.

It records only waits without a timeout, and only of tasks that do nothing else meanwhile:
a cycle of such waits never ends.
"""

from __future__ import annotations

import threading

from framework.exceptions import DeadlockError


class WaitGraph:
    """One edge for each waiter. Thread-safe; its lock is innermost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[object, object] = {}

    def enter(self, waiter: object, awaited: object, *, task: object = None) -> None:
        """Record that *waiter* is blocked until *awaited* has ended.

        Args:
            waiter: What is blocked: a thread's item, or the asyncio task that drives the
                waiting coroutine and those around it.
            awaited: What it waits for.
            task: The task that waits, for the message; None if it is *waiter* itself.

        Raises:
            DeadlockError: If *awaited* waits for *waiter*, directly or through others.
                Nothing is recorded then.
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
        """Remove the wait of *waiter*."""
        with self._lock:
            self._awaited.pop(waiter, None)


def _holder(node: object) -> object:
    """Return what is blocked while *node* waits: the asyncio task that drives it, or itself."""
    return getattr(getattr(node, "driver", None), "asyncio_task", None) or node


def _name(node: object) -> str:
    return str(getattr(node, "name", None) or node)
