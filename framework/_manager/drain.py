"""Drain: how a home's tasks are brought to an end when its app stops.

Guarantees: within the grace, and a fraction of a second more, every task of the home has
a final state, no coroutine of it keeps the loop, no thread of it keeps the process; the
loop is never blocked. Cancelling the drain ends the grace and nothing else.
Relies on: the home being closed first, so that what lives is all there will be.
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
"""Seconds that a cancelled coroutine gets to clean up after the grace."""

_AT_ONCE = 500
"""How many tasks are cancelled before the loop has a turn; takes some 10 ms."""

_NOTICE_FIRST = 1.0
_NOTICE_AGAIN = 5.0
"""Seconds after which a drain that goes on says so: for the first time, and again."""

_FEW = 10
_MANY = 100
"""How many tasks are named in a notice, and in one line about those unfinished."""

_CUT_SHORT = (TaskStatus.CANCELLED, TaskStatus.INTERRUPTED)
REASON = "the framework shut down"
"""The reason of a task that is cut short, and of one that never begins."""


async def drain(core: Core, home: Home, grace: float) -> None:
    """End every task of *home*; on its loop.

    Args:
        core: Whose home it is.
        home: Takes no tasks any more from now on.
        grace: Seconds to let tasks end by themselves, 0 or more, infinity for any time.
    """
    core.ledger.close_home(home)
    given_up = _give_up_waiting(core, home)
    try:
        await _idle(core, home, grace)
    finally:
        unfinished = core.ledger.unfinished(home)
        if unfinished or core.runner.drives.of(home):
            await _shielded(_end_all(core, home, unfinished))
        _report([*given_up, *unfinished])


def _give_up_waiting(core: Core, home: Home) -> list[LiveTask]:
    """Cancel what waits for its time, and wake what sleeps in a retry or a throttle.

    Returns:
        The cancelled ones.
    """
    cancelled = []
    for task in core.ledger.unfinished(home):
        if task.timer is not None and core.intake.cancel_pending(task, REASON):
            cancelled.append(task)
        sleeper = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()
    return cancelled


async def _idle(core: Core, home: Home, grace: float) -> None:
    """Suspend until *home* has no living task, for at most *grace* seconds."""
    sleeper = LoopSleeper(core.clock)
    until = core.clock.monotonic() + grace
    home.on_idle = sleeper.signal
    notices = _Notices(core, home, until, sleeper)
    try:
        while home.live and core.clock.monotonic() < until:
            notices.give()
            await sleeper.wait(None if math.isinf(until) else until)
    finally:
        home.on_idle = None
        notices.stop()


class _Notices:
    """Says what a drain waits for: when it begins, and every few seconds.

    Args:
        core: Whose drain it is.
        home: Whose tasks are awaited.
        until: Monotonic second up to which they are.
        sleeper: Is signalled when there is something to say.
    """

    def __init__(self, core: Core, home: Home, until: float, sleeper: LoopSleeper) -> None:
        self._core = core
        self._home = home
        self._until = until
        self._sleeper = sleeper
        self._due = -math.inf
        self._said = 0
        self._timer: TimerHandle | None = None

    def give(self) -> None:
        """Say what is left, if it is time to, and have the sleeper signalled at the next time.

        The first is told at INFO: most drains end right after it. Who still waits after a
        second is told at WARNING, which a process shows that has configured no logging.
        """
        clock = self._core.clock
        now = clock.monotonic()
        if now < self._due:
            return
        self._due = now + (_NOTICE_AGAIN if self._said else _NOTICE_FIRST)
        # In the background: nobody waits for a notice, and it keeps no time from standing still.
        self._timer = clock.call_at(self._due, self._sleeper.signal, background=True)
        level = logging.WARNING if self._said else logging.INFO
        self._said += 1
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
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()


async def _end_all(core: Core, home: Home, tasks: list[LiveTask]) -> None:
    """Cancel *tasks* and let go of what does not end; the loop has its turns meanwhile."""
    for first in range(0, len(tasks), _AT_ONCE):
        _cancel_all(core, tasks[first : first + _AT_ONCE])
        await _turn()
    await _let_all_go(core, home)


def _cancel_all(core: Core, tasks: list[LiveTask]) -> None:
    for task in tasks:
        if core.intake.cancel_pending(task, REASON):
            continue
        if task.driver is not None and core.ledger.request_cancel(task):
            task.reason = REASON
            core.endings.stop_body(task)


async def _turn() -> None:
    """Let the loop have one turn."""
    loop = asyncio.get_running_loop()
    had = loop.create_future()
    loop.call_soon(had.set_result, None)
    await had


async def _let_all_go(core: Core, home: Home) -> None:
    """Give cancelled coroutines their last chance, then go on without whoever is left."""
    drives = core.runner.drives
    await _ended(core, drives.of(home), _LAST_CHANCE)
    for task in core.ledger.unfinished(home):
        error = TaskInterruptedError(task.task_id, task.name)
        core.endings.end(task, "interrupt", error=error, reason=REASON, body_ended=False)
    stubborn = drives.of(home)
    for driver in stubborn:
        driver.request_cancel(abandon=True)
    await _ended(core, stubborn, _LAST_CHANCE)


async def _ended(core: Core, drivers: list[Driver], seconds: float) -> None:
    """Suspend until the bodies of *drivers* have ended, for at most *seconds*."""
    sleeper = LoopSleeper(core.clock)
    ended: list[Driver] = []

    def note(driver: Driver) -> None:
        ended.append(driver)
        if len(ended) == len(drivers):
            sleeper.signal()

    # Each is asked once whether it has ended already, and tells once if it ends later.
    for driver in drivers:
        core.runner.drives.when_ended(driver, note)
    if len(ended) < len(drivers):
        await sleeper.wait(core.clock.monotonic() + seconds)


async def _shielded(work: Coroutine[Any, Any, None]) -> None:
    """Finish *work* even if this task is cancelled meanwhile; it takes half a second."""
    inner = asyncio.ensure_future(work)
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        await inner
        raise


def _report(tasks: list[LiveTask]) -> None:
    """Name the tasks that did not end by themselves."""
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
    """Return the ids, names and states of so many *tasks*, and how many more there are.

    Those that have begun come first: they may have run in part.
    """
    tasks = sorted(tasks, key=lambda task: task.started is None)
    named = [f"{task.task_id} ({task.name}) {task.status.value}" for task in tasks[:most]]
    if len(tasks) > most:
        named.append(f"and {len(tasks) - most} more")
    return ", ".join(named)
