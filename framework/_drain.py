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

from framework._core import Core
from framework._ledger import Home
from framework._records import TaskStatus
from framework._running import Driver
from framework._sleepers import LoopSleeper
from framework._task import LiveTask
from framework.exceptions import TaskInterruptedError

_LOGGER = logging.getLogger("asyncframe")

_LAST_CHANCE = 0.25
"""Seconds that a cancelled coroutine gets to clean up after the grace."""

_CUT_SHORT = (TaskStatus.CANCELLED, TaskStatus.INTERRUPTED)
_REASON = "the framework shut down"


async def drain(core: Core, home: Home, grace: float) -> None:
    """End every task of *home*; on its loop.

    Args:
        core: Whose home it is.
        home: Takes no tasks any more from now on.
        grace: Seconds to let tasks end by themselves, 0 or more, infinity for any time.
    """
    with core.ledger.lock:
        home.closed = True
    given_up = _give_up_waiting(core, home)
    try:
        await _idle(core, home, grace)
    finally:
        unfinished = core.ledger.living(home)
        if unfinished or core.runner.drivers_of(home):
            _cancel_all(core, unfinished)
            await _shielded(_let_all_go(core, home))
        _report([*given_up, *unfinished])


def _give_up_waiting(core: Core, home: Home) -> list[LiveTask]:
    """Cancel what waits for its time, and wake what sleeps in a retry or a throttle.

    Returns:
        The cancelled ones.
    """
    cancelled = []
    for task in core.ledger.living(home):
        if task.timer is not None and core.cancel_pending(task, _REASON):
            cancelled.append(task)
        sleeper = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()
    return cancelled


async def _idle(core: Core, home: Home, grace: float) -> None:
    """Suspend until *home* has no living task, for at most *grace* seconds."""
    sleeper = LoopSleeper(core.clock)
    until = None if math.isinf(grace) else core.clock.monotonic() + grace
    home.on_idle = sleeper.signal
    try:
        if home.live:
            await sleeper.wait(until)
    finally:
        home.on_idle = None


def _cancel_all(core: Core, tasks: list[LiveTask]) -> None:
    for task in tasks:
        if core.cancel_pending(task, _REASON):
            continue
        if task.driver is not None and core.ledger.request_cancel(task):
            task.reason = _REASON
            core.runner.stop_body(task)


async def _let_all_go(core: Core, home: Home) -> None:
    """Give cancelled coroutines their last chance, then go on without whoever is left."""
    runner = core.runner
    await _ended(core, runner.drivers_of(home), _LAST_CHANCE)
    for task in core.ledger.living(home):
        error = TaskInterruptedError(task.task_id, task.name)
        runner.end(task, "interrupt", error=error, reason=_REASON, body_ended=False)
    stubborn = runner.drivers_of(home)
    for driver in stubborn:
        driver.request_cancel(let_go=True)
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
        core.runner.when_ended(driver, note)
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
    """Name, in one line, every task that did not end by itself."""
    tasks = [task for task in tasks if task.status in _CUT_SHORT]
    if not tasks:
        return
    listed = ", ".join(f"{task.task_id} ({task.name}) {task.status.value}" for task in tasks)
    _LOGGER.warning("unfinished at shutdown (%d): %s", len(tasks), listed)
