"""Drain: ends the tasks of a home when its app stops.

Guarantees: after the grace period and a fraction of a second, every task of the home is final,
no coroutine keeps its loop open, and no thread keeps the process from exiting. The loop is
never blocked. Cancelling the drain only ends the grace period.
Relies on: the home being closed first, so that no more tasks are added to it.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from typing import Any

from framework._manager.core import Core
from framework._tasks.live import Driver, Home, LiveTask
from framework._tasks.records import TaskStatus
from framework._threads.sleepers import LoopSleeper
from framework.exceptions import TaskInterruptedError
from framework.protocols import TimerHandle

_LOGGER = logging.getLogger("asyncframe")

_LAST_CHANCE = 0.25
"""How many seconds a cancelled coroutine gets to clean up, after the grace period."""

_AT_ONCE = 500
"""How many tasks to cancel in one iteration of the loop; takes about 10 ms."""

_FIRST_LOG = 1.0
_NEXT_LOG = 5.0
"""Seconds until a drain logs what it waits for, and from then on between two logs."""

_FEW = 10
_MANY = 100
"""How many tasks to list while waiting, and in one line about unfinished tasks."""

_CUT_SHORT = (TaskStatus.CANCELLED, TaskStatus.INTERRUPTED)
REASON = "the framework shut down"
"""Reason of a task that is ended early or never starts."""


async def drain(core: Core, home: Home, grace: float) -> None:
    """End all tasks of *home*; called on its loop.

    Args:
        core: The core of the home.
        home: The home, which accepts no more tasks from now on.
        grace: How many seconds tasks get to finish, 0 or more; infinity for no limit.
    """
    core.ledger.close_home(home)
    delayed = _end_waits(core, home)
    try:
        await _wait_until_idle(core, home, grace)
    finally:
        # Also if the drain is cancelled: that only ends the grace period.
        unfinished = core.ledger.unfinished(home)
        if unfinished or core.runner.drives.of(home):
            await _shielded(_end_all(core, home, unfinished))
        _report([*delayed, *unfinished])


def _end_waits(core: Core, home: Home) -> list[LiveTask]:
    """Cancel delayed tasks and return them; wake tasks that sleep in a retry or throttle."""
    cancelled = []
    for task in core.ledger.unfinished(home):
        if task.timer is not None and core.intake.cancel_pending(task, REASON):
            cancelled.append(task)
        sleeper = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()
    return cancelled


async def _wait_until_idle(core: Core, home: Home, grace: float) -> None:
    """Suspend until *home* has no live task, for at most *grace* seconds."""
    sleeper = LoopSleeper(core.clock)
    until = core.clock.monotonic() + grace
    home.on_idle = sleeper.signal
    progress = _Progress(core, home, until, sleeper)
    try:
        while home.live and core.clock.monotonic() < until:
            progress.log()
            await sleeper.wait(None if math.isinf(until) else until)
    finally:
        home.on_idle = None
        progress.stop()


class _Progress:
    """Logs what a drain waits for: when it starts, and then every few seconds.

    Args:
        core: The core of the home.
        home: The home whose tasks it waits for.
        until: Monotonic second until which it waits.
        sleeper: Is signalled when it is time to log.
    """

    def __init__(self, core: Core, home: Home, until: float, sleeper: LoopSleeper) -> None:
        self._core = core
        self._home = home
        self._until = until
        self._sleeper = sleeper
        self._due = -math.inf
        self._logged = 0
        self._timer: TimerHandle | None = None

    def log(self) -> None:
        """Log what is left if it is time to, and set a timer for the next time.

        The first time is at INFO, since most drains end right after it. Later it is at WARNING,
        which is shown even if logging is not configured.
        """
        clock = self._core.clock
        now = clock.monotonic()
        if now < self._due:
            return
        self._due = now + (_NEXT_LOG if self._logged else _FIRST_LOG)
        # A background timer: in a test, virtual time must not move just to log.
        self._timer = clock.call_at(self._due, self._sleeper.signal, background=True)
        level = logging.WARNING if self._logged else logging.INFO
        self._logged += 1
        tasks = self._core.ledger.unfinished(self._home) if _LOGGER.isEnabledFor(level) else []
        if not tasks:
            return
        left = self._until - now
        _LOGGER.log(
            level,
            "shutting down: %s for %s to end, %s: %s",
            "still waiting" if level == logging.WARNING else "waiting",
            "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks",
            "as long as it takes" if math.isinf(left) else f"{left:.3g} s at most",
            _listed(tasks, _FEW),
        )

    def stop(self) -> None:
        """Log nothing more."""
        if self._timer is not None:
            self._timer.cancel()


async def _end_all(core: Core, home: Home, tasks: list[LiveTask]) -> None:
    """Cancel *tasks* and abandon those that do not end; the loop is not blocked."""
    for first in range(0, len(tasks), _AT_ONCE):
        _cancel_all(core, tasks[first : first + _AT_ONCE])
        await _one_iteration()
    await _end_coroutines(core, home)


def _cancel_all(core: Core, tasks: list[LiveTask]) -> None:
    for task in tasks:
        if core.intake.cancel_pending(task, REASON):
            continue
        if task.driver is not None and core.ledger.request_cancel(task):
            # Set before the cancellation, which ends the task with this reason.
            task.reason = REASON
            core.endings.stop_body(task)


async def _one_iteration() -> None:
    """Let the loop run for one iteration."""
    loop = asyncio.get_running_loop()
    had = loop.create_future()
    loop.call_soon(had.set_result, None)
    await had


async def _end_coroutines(core: Core, home: Home) -> None:
    """Wait for cancelled coroutines, then interrupt tasks and abandon what is left."""
    drives = core.runner.drives
    await _wait_for_ends(core, drives.of(home), _LAST_CHANCE)
    for task in core.ledger.unfinished(home):
        error = TaskInterruptedError(task.task_id, task.name)
        core.endings.end(task, "interrupt", error=error, reason=REASON, body_ended=False)
    stubborn = drives.of(home)
    for driver in stubborn:
        driver.request_cancel(abandon=True)
    await _wait_for_ends(core, stubborn, _LAST_CHANCE)


async def _wait_for_ends(core: Core, drivers: list[Driver], seconds: float) -> None:
    """Suspend until all *drivers* have ended, for at most *seconds*."""
    sleeper = LoopSleeper(core.clock)
    ended: list[Driver] = []

    def note(driver: Driver) -> None:
        ended.append(driver)
        if len(ended) == len(drivers):
            sleeper.signal()

    # `note` is called once for each, at once if it has ended already.
    for driver in drivers:
        core.runner.drives.when_ended(driver, note)
    if len(ended) < len(drivers):
        await sleeper.wait(core.clock.monotonic() + seconds)


async def _shielded(work: Coroutine[Any, Any, None]) -> None:
    """Await *work*, about half a second, even if this asyncio task is cancelled meanwhile."""
    inner = asyncio.ensure_future(work)
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        await inner
        raise


def _report(tasks: list[LiveTask]) -> None:
    """Log the tasks that did not finish."""
    tasks = [task for task in tasks if task.status in _CUT_SHORT]
    if not tasks:
        return
    _LOGGER.warning("unfinished at shutdown (%d): %s", len(tasks), _listed(tasks, _MANY))
    if len(tasks) <= _MANY or not _LOGGER.isEnabledFor(logging.DEBUG):
        return
    tasks.sort(key=lambda task: task.started is None)
    for first in range(0, len(tasks), _MANY):
        some = tasks[first : first + _MANY]
        _LOGGER.debug("unfinished at shutdown, from %d on: %s", first + 1, _listed(some, _MANY))


def _listed(tasks: list[LiveTask], most: int) -> str:
    """Return the ids, names and states of *most* tasks, and how many more there are.

    Started tasks come first, since they may have done part of their work.
    """
    tasks = sorted(tasks, key=lambda task: task.started is None)
    named = [f"{task.task_id} ({task.name}) {task.status.value}" for task in tasks[:most]]
    if len(tasks) > most:
        named.append(f"and {len(tasks) - most} more")
    return ", ".join(named)
