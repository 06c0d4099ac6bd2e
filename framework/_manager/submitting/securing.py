"""Securing: a submission that returns only when its task outlives this process.

See `protocols.SharedStore.durable` and `protocols.KeepingEngine.durable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from framework._running.ledger import Ledger
from framework._running.runner import Runner
from framework._tasks.live import LiveTask, Waiter
from framework._threads.waiters import LoopWaiter, ThreadWaiter
from framework.protocols import KeepingEngine, SharedStore


class Securing:
    """Waits until a shared store has written records, and an engine has noted the tasks.

    Args:
        ledger: Has the store.
        runner: Ends a task whose record cannot be written.
        keeper: The engine, if it notes tasks before they are started; otherwise None.
        keep: Lets the engine do so, unless the task was started.
        cancel_pending: Cancels a task that has not started, with a reason.

    Attributes:
        is_needed: Whether submissions have to wait for that.
    """

    def __init__(
        self,
        ledger: Ledger,
        runner: Runner,
        keeper: KeepingEngine | None,
        keep: Callable[[LiveTask], None],
        cancel_pending: Callable[[LiveTask, str], bool],
    ) -> None:
        self._ledger = ledger
        self._runner = runner
        self._keep = keep
        self._cancel_pending = cancel_pending
        shared = ledger.shared
        self._store = shared if shared is not None and shared.durable else None
        self.is_needed = self._store is not None or (keeper is not None and keeper.durable)
        self._keeper = keeper if self.is_needed else None

    def wait(self, task: LiveTask) -> None:
        """Block until the record of a task that is being submitted is stored safely.

        Raises:
            StoreUnavailableError: If that takes too long; the task is FAILED then.
        """
        self._require(task, self._blocked(task))

    async def until_safe(self, task: LiveTask) -> None:
        """Do as `wait` does, but suspend the coroutine."""
        try:
            error = await self._suspended(task)
        except asyncio.CancelledError:
            # The caller was cancelled, so nobody will ever know the id.
            self._cancel_pending(task, "its submission was cancelled")
            raise
        self._require(task, error)

    def wait_until_known(self, existing: object) -> None:
        """Block until the record of a task is stored that somebody else submits here.

        Args:
            existing: The task. That of another process is in the store, or nobody knew of it.

        Raises:
            StoreUnavailableError: If that takes too long; whoever submits it is told as well.
        """
        if isinstance(existing, LiveTask):
            error = self._blocked(existing)
            if error is not None:
                raise error

    async def until_known(self, existing: object) -> None:
        """Do as `wait_until_known` does, but suspend the coroutine."""
        if isinstance(existing, LiveTask):
            error = await self._suspended(existing)
            if error is not None:
                raise error

    def _blocked(self, task: LiveTask) -> BaseException | None:
        waiter = ThreadWaiter(self._ledger.clock)
        told = self._ask(task, waiter)
        waiter.wait(None)
        return told[0]

    async def _suspended(self, task: LiveTask) -> BaseException | None:
        waiter = LoopWaiter(self._runner.boxes)
        told = self._ask(task, waiter)
        await waiter.future
        return told[0]

    def _ask(self, task: LiveTask, waiter: Waiter) -> list[BaseException | None]:
        """Wake *waiter* when it is known; return a list that then begins with the error or None."""
        told: list[BaseException | None] = []
        parts: list[SharedStore | KeepingEngine] = []
        if self._store is not None:
            parts.append(self._store)
        if self._keeper is not None:
            # One that was started may have left the engine's hands already.
            self._keep(task)
            parts.append(self._keeper)

        def secured(why: BaseException | None) -> None:
            # An error first: one is enough.
            told.insert(0, why) if why is not None else told.append(why)
            if why is not None or len(told) == len(parts):
                waiter.wake()

        for one in parts:
            one.secure(task, secured)
        return told

    def _require(self, task: LiveTask, error: BaseException | None) -> None:
        if error is not None:
            # The caller gets it, right here.
            task.read = True
            self._runner.refuse(task, error)
            raise error
        task.secured = True
