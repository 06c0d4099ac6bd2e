"""Sleeps of a run: they end when they are due, wherever the task is then.

While every branch of a task sleeps, or waits for those that do, nothing of it runs. If that takes
longer than `LONG`, or its app stops, the task leaves: its asyncio tasks are cancelled, no step runs
any more, and it is a row until it is due. Then whichever process has a place begins it anew, from
its records. Where no other process could, it sleeps inside.

Relies on: `Resting`, which lets a task wait whose function was left.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from framework._records.reasons import sleeping
from framework._running.ledger import Ledger
from framework._running.outcomes import PublishAgain
from framework._running.waits.policies import Policies, Sleep
from framework._tasks.live import LiveTask
from framework._threads.waiters import LoopSleeper, ThreadSleeper
from framework.exceptions import TaskCancelledError
from framework.steps._branches import Branch

LONG: Final = 60.0
"""Seconds of sleep for which a task leaves its process."""

_PATIENCE: Final = 5.0
"""For how many seconds branches may go on that were cancelled since their task leaves."""


class Sleeps:
    """What sleeps in a task.

    Args:
        task: The task.
        policies: Let it sleep.
        ledger: Is told of its sleeps.

    Attributes:
        left: What its function raises since it leaves; None while it stays.
    """

    def __init__(self, task: LiveTask, policies: Policies, ledger: Ledger) -> None:
        self._whose = task
        self._policies = policies
        self._ledger = ledger
        self._clock = ledger.clock
        self._still: _Still | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.begin()

    def begin(self) -> None:
        """Begin an attempt."""
        self._until: dict[Branch, float] = {}
        self.left: PublishAgain | None = None

    def __bool__(self) -> bool:
        """Return whether a branch sleeps."""
        return bool(self._until)

    def now(self) -> float:
        """Return the wall second."""
        return self._clock.time()

    # -- on a loop

    async def sleep(self, branch: Branch, until: float, watch: Callable[[], object]) -> None:
        """Let a branch sleep until wall second *until*.

        Args:
            branch: Whose code sleeps.
            until: When it is due.
            watch: Called once it sleeps; calls `look` when nothing goes on.
        """
        left = until - self._clock.time()
        if left <= 0:
            return
        due = self._clock.monotonic() + left
        self._until[branch], branch.waits = until, "outside"
        watch()
        try:
            await LoopSleeper(self._clock).wait(due)
        finally:
            branch.waits = None
            self._until.pop(branch, None)
            self._wake()

    def look(self, branches: Sequence[Branch]) -> None:
        """Leave the process, or be still, if nothing but sleeps goes on; on the loop."""
        if not self._until or self.left is not None:
            return
        self._wake()
        if any(one not in self._until and one.state not in {"ended", "joins"} for one in branches):
            # A branch that comes to wait for others calls nothing by that.
            self._timer = asyncio.get_running_loop().call_later(LONG, self.look, branches)
            return
        until = min(self._until.values())
        delay, reason = until - self._clock.time(), sleeping(until)
        found = self._policies.asleep(self._whose, delay, reason)
        if found is not None and delay > LONG:
            self._leave(found[1], branches)
            return
        self._still = _Still(lambda: self._interrupted(branches))
        pause = None if found is None else found[0]
        self._still.sleep = Sleep(self._policies, self._still, reason, suspends=True, pause=pause)
        self._still.sleep.__enter__()
        self._ledger.announce("sleeping", self._whose, delay, None)

    def _interrupted(self, branches: Sequence[Branch]) -> None:
        """Leave at once, since the app stops; a cancellation comes by itself."""
        if self._still is None or self.left is not None or self._whose.cancel_requested:
            return
        until = min(self._until.values(), default=0.0)
        found = self._policies.asleep(self._whose, until - self._clock.time(), sleeping(until))
        if found is not None:
            self._leave(found[1], branches)

    def _leave(self, left: PublishAgain, branches: Sequence[Branch]) -> None:
        self.left = left
        for one in branches:
            if one.asyncio_task is not None and not one.asyncio_task.done():
                one.asyncio_task.cancel()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        still, self._still = self._still, None
        if still is not None and still.sleep is not None:
            still.sleep.__exit__()

    async def end(self, branches: Sequence[Branch]) -> None:
        """Wait until the branches have ended that were cancelled."""
        here = asyncio.current_task()
        tasks = [one.asyncio_task for one in branches if one.asyncio_task is not None]
        others = [one for one in tasks if one is not here]
        if others:
            await asyncio.wait(others, timeout=_PATIENCE)

    # -- on a thread

    def sleep_here(self, until: float) -> None:
        """Block until wall second *until*.

        Raises:
            PublishAgain: If the task leaves.
            TaskCancelledError: If it is cancelled, or its app stops and nobody else could go on.
        """
        task, policies, clock = self._whose, self._policies, self._clock
        delay, reason = until - clock.time(), sleeping(until)
        if delay <= 0:
            return
        found = policies.asleep(task, delay, reason)
        if found is not None and delay > LONG:
            self.left = found[1]
            raise self.left
        due, sleeper = clock.monotonic() + delay, ThreadSleeper(clock)
        pause = None if found is None else found[0]
        with Sleep(policies, sleeper, reason, suspends=True, pause=pause) as sleep:
            self._ledger.announce("sleeping", task, delay, None)
            while not sleeper.interrupted and clock.monotonic() < due:
                sleeper.wait(due)
        if not sleeper.interrupted:
            return
        sleep.raise_if_unwanted()
        found = policies.asleep(task, until - clock.time(), reason)
        if found is None:
            raise TaskCancelledError(task.task_id, task.name)
        self.left = found[1]
        raise self.left


class _Still:
    """A task of which nothing goes on; see `live.Sleeper`.

    Args:
        call: Called on the loop if its app stops.

    Attributes:
        interrupted: Whether that was so.
        sleep: Its sleep as far as others see it.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self.interrupted = False
        self.sleep: Sleep | None = None

    def wait(self, until: float | None) -> None:
        """Do nothing: each branch waits by itself."""

    def signal(self) -> None:
        """Do nothing: each branch wakes by itself."""

    def interrupt(self) -> None:
        """Let the task leave; any thread."""
        self.interrupted = True
        self._loop.call_soon_threadsafe(self._call)
