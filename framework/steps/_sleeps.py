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
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from framework._records.reasons import receiving, sleeping
from framework._running.ledger import Ledger
from framework._running.outcomes import PublishAgain
from framework._running.waits.policies import Policies, Sleep
from framework._tasks.live import LiveTask
from framework._threads.waiters import LoopSleeper, ThreadSleeper
from framework.exceptions import TaskCancelledError
from framework.steps._attempts import come_further
from framework.steps._branches import Branch

LONG: Final = 60.0
"""Seconds of sleep for which a task leaves its process."""

_PATIENCE: Final = 5.0
"""For how many seconds branches may go on that were cancelled since their task leaves."""


FOREVER: Final = 100 * 365 * 86_400.0
"""Seconds of a wait without an end, where a moment is needed: a hundred years."""


_SLACK: Final = 0.1
"""Seconds after which the code has heard that its limit has ended."""


_MOST: Final = 1_000
"""For how many things a task waits out of memory at most: its row names them."""


class Wait(NamedTuple):
    """What a branch sleeps for.

    Attributes:
        until: The wall second at which it is due; infinite for never.
        name: Of the message that it waits for, or `result_of` a task; "" for none.
        look_after: After how many seconds in this process it looks by itself.
        stays_until: The monotonic second before which the task does not leave, unless its app
            stops: what it waits for may come at any moment.
        away: For how many seconds at most it is out of memory before it looks by itself.
    """

    until: float
    name: str = ""
    look_after: float = math.inf
    stays_until: float = -math.inf
    away: float = math.inf


class Sleeps:
    """What sleeps in a task.

    Args:
        task: The task.
        policies: Let it sleep.
        ledger: Is told of its sleeps.

    Attributes:
        ledger: As above.
        clock: Its time.
        left: What its function raises since it leaves; None while it stays.
    """

    def __init__(self, task: LiveTask, policies: Policies, ledger: Ledger) -> None:
        self._whose = task
        self._policies = policies
        self.ledger = ledger
        self.clock = ledger.clock
        self._still: _Still | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.begin()

    def begin(self) -> None:
        """Begin an attempt."""
        self._waits: dict[Branch, Wait] = {}
        self._told = ""
        self.left: PublishAgain | None = None

    def __bool__(self) -> bool:
        """Return whether a branch sleeps."""
        return bool(self._waits)

    def now(self) -> float:
        """Return the wall second."""
        return self.clock.time()

    # -- on a loop

    async def sleep(
        self,
        branch: Branch,
        wait: Wait,
        watch: Callable[[], object],
        sleeper: LoopSleeper | None = None,
    ) -> None:
        """Let a branch sleep until it is due, or its sleeper is signalled.

        Args:
            branch: Whose code sleeps.
            wait: What it sleeps for.
            watch: Called once it sleeps; calls `look` when nothing goes on.
            sleeper: Ends the sleep; None for one of its own.
        """
        left = wait.until - self.clock.time()
        if left <= 0:
            return
        due = self.clock.monotonic() + min(left, wait.look_after)
        with self.waiting(branch, wait, watch):
            await (sleeper or LoopSleeper(self.clock)).wait(None if due == math.inf else due)

    @contextmanager
    def waiting(self, branch: Branch, wait: Wait, watch: Callable[[], object]) -> Iterator[None]:
        """Let a branch wait inside the block, as it does in `sleep`."""
        self._waits[branch], branch.waits = wait, "outside"
        watch()
        try:
            yield
        finally:
            branch.waits = None
            self._waits.pop(branch, None)
            self._wake()

    def look(self, branches: Sequence[Branch]) -> None:
        """Leave the process, or be still, if nothing but sleeps goes on; on the loop."""
        if not self._waits or self.left is not None:
            return
        self._wake()
        if any(one not in self._waits and one.state not in {"ended", "joins"} for one in branches):
            # A branch that comes to wait for others calls nothing by that.
            self._timer = asyncio.get_running_loop().call_later(LONG, self.look, branches)
            return
        delay, reason = self._whole()
        found = self._policies.asleep(self._whose, delay, reason)
        stays = max(one.stays_until for one in self._waits.values()) - self.clock.monotonic()
        # What its own code has set a limit to ends by that, and only here.
        now = asyncio.get_running_loop().time()
        limits = [moment for one in branches for moment in one.limits() if now < moment < math.inf]
        if limits:
            stays = max(stays, min(limits) - now + _SLACK)
        if found is not None and delay > LONG and len(self._waits) <= _MOST:
            if stays <= 0:
                self._leave(found[1], branches)
                return
            self._timer = asyncio.get_running_loop().call_later(stays, self.look, branches)
        self._still = _Still(lambda: self._interrupted(branches))
        pause = None if found is None else found[0]
        self._still.sleep = Sleep(self._policies, self._still, reason, suspends=True, pause=pause)
        # Whatever ends the process now, it is not this task.
        come_further(self.ledger, self._whose)
        self._still.sleep.__enter__()
        if reason != self._told:
            self._told = reason
            self.ledger.announce("sleeping", self._whose, _told(delay), None)

    def _whole(self) -> tuple[float, str]:
        """Return for how many seconds the task sleeps, and why."""
        waits, now = list(self._waits.values()), self.clock.time()
        until = min(one.until for one in waits)
        names = sorted({one.name for one in waits if one.name})
        delay, reason = _words(until, names, now)
        return min(delay, *(one.away for one in waits)), reason

    def _interrupted(self, branches: Sequence[Branch]) -> None:
        """Leave or end, since the app stops; a cancellation comes by itself."""
        if self._still is None or self.left is not None or self._whose.cancel_requested:
            return
        if not self._waits:
            return
        delay, reason = self._whole()
        found = self._policies.asleep(self._whose, delay, reason)
        if found is not None:
            self._leave(found[1], branches)
        elif delay > LONG and branches[0].asyncio_task is not None:
            # Nobody could go on with it, and no shutdown waits for so long.
            branches[0].asyncio_task.cancel()

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

    def leaving_here(self, wait: Wait) -> PublishAgain | None:
        """Return what a sync task raises to leave for a wait; None if it is to wait inside."""
        until, now = min(wait.until, self.clock.time() + wait.away), self.clock.time()
        _, reason = _words(wait.until, [wait.name], now)
        found = self._policies.asleep(self._whose, min(until - now, FOREVER), reason)
        return None if found is None or until - now <= LONG else found[1]

    def sleep_here(self, wait: Wait, sleeper: ThreadSleeper | None = None) -> None:
        """Block until it is due, or the sleeper is signalled.

        Args:
            wait: What it sleeps for.
            sleeper: See `sleep`.

        Raises:
            PublishAgain: If the task leaves.
            TaskCancelledError: If it is cancelled; or if its app stops, nobody else could go on,
                and it would sleep for more than `LONG`.
        """
        task, policies, clock = self._whose, self._policies, self.clock
        if wait.until <= clock.time():
            return
        delay, reason = _words(wait.until, [wait.name] if wait.name else [], clock.time())
        found = policies.asleep(task, delay, reason)
        if found is not None and delay > LONG:
            self.left = found[1]
            raise self.left
        due = clock.monotonic() + min(delay, wait.look_after)
        signalled, sleeper = sleeper is not None, sleeper or ThreadSleeper(clock)
        pause = None if found is None else found[0]
        come_further(self.ledger, task)
        with Sleep(policies, sleeper, reason, suspends=True, pause=pause) as sleep:
            if reason != self._told:
                self._told = reason
                self.ledger.announce("sleeping", task, _told(delay), None)
            while not sleeper.interrupted and clock.monotonic() < due:
                if sleeper.wait(due) is None and signalled:
                    break
        if not sleeper.interrupted:
            return
        sleep.raise_if_unwanted()
        found = policies.asleep(task, min(wait.until - clock.time(), FOREVER), reason)
        if found is not None:
            self.left = found[1]
            raise self.left
        if delay > LONG:
            raise TaskCancelledError(task.task_id, task.name)
        clock.sleep(max(0.0, due - clock.monotonic()))


def _told(delay: float) -> float:
    return delay if delay < FOREVER else math.inf


def _words(until: float, names: list[str], now: float) -> tuple[float, str]:
    """Return for how many seconds a task sleeps that is due at wall second *until*, and why."""
    moment = None if until == math.inf else until
    return min(until - now, FOREVER), receiving(moment, names) if names else sleeping(until)


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
