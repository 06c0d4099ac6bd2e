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
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from framework._manager.core import Core
from framework._records.reasons import span
from framework._records.records import WAITS
from framework._records.statuses import FINAL, INTERRUPTED, TaskStatus
from framework._running.log import Tally
from framework._tasks.live import Driver, Home, LiveTask, Sleeper
from framework._threads.loggers import SafeLogger
from framework._threads.waiters import LoopSleeper
from framework.exceptions import TaskInterruptedError
from framework.protocols import Clock

_LOGGER = SafeLogger("asyncframe")

_LAST_CHANCE = 0.25
"""How many seconds a cancelled coroutine gets to clean up, after the grace period."""

_AT_ONCE = 500
"""How many tasks to treat in one iteration of the loop, which takes some 5 ms."""

_TURN = 0.005
"""Seconds after which the loop gets its turn earlier, since hooks of the tasks take long."""

_FIRST_LOG = 1.0
_NEXT_LOG = 5.0
"""Seconds until a shutdown logs what it waits for, and from then on between two logs."""

REASON = "the framework shut down"
"""Reason of a task that is ended early or never starts."""

_LIVE: Final = {"running": 10, "pending": 3}
"""States of tasks that a drain waits for, and how many ids of a function to name."""

_INTERRUPTED: Final = "interrupted"
_STOPPED: Final = "cancelled while running"
_DELAYED: Final = "cancelled while delayed"
_NEVER_STARTED: Final = "never started"
_CUT_SHORT: Final = {_INTERRUPTED: 20, _STOPPED: 20, _DELAYED: 3, _NEVER_STARTED: 3}
"""What became of unfinished tasks, and how many ids of a function to name.

Those that had started may have done part of their work, and somebody may have to look.
"""

_LEFT: Final = "unfinished"
_GIVEN_AWAY: Final = {_LEFT: 3}

_FEW_LINES: Final = 3
_LINES: Final = 10
"""How many functions to tell of while waiting, and of unfinished tasks."""

_T = TypeVar("_T")


async def drain(core: Core, home: Home, grace: float, sleepers: Sequence[Sleeper] = ()) -> None:
    """End all tasks of *home*; called on its loop.

    Args:
        core: The core of the home.
        home: The home, which accepts no more tasks from now on.
        grace: How many seconds tasks get to finish, 0 or more; infinity for no limit.
        sleepers: Retries and throttles that sleep, in tasks or others, and are interrupted.
    """
    core.ledger.close_home(home)
    until = core.clock.monotonic() + grace
    cut_short, left = Tally(_CUT_SHORT), Tally(_GIVEN_AWAY)
    try:
        await _give_away_sleepers(core, home, left)
        await _in_turns(core, sleepers, lambda sleeper: sleeper.interrupt())
        await _end_waits(core, home, cut_short)
        await _wait_until_idle(core, home, until)
    finally:
        # Also if the drain is cancelled: that only ends the grace period.
        if home.live or core.runner.drives.of(home):
            await _shielded(_end_all(core, home, cut_short, left))
        _report(cut_short)
        if left.total:
            _LOGGER.info("left in the store for another process: %s", left)


async def _in_turns(core: Core, items: Iterable[_T], treat: Callable[[_T], object]) -> None:
    """Call *treat* with each of *items*, and let the loop run in between."""
    monotonic = core.clock.monotonic
    # Taken out one by one, so that the tasks of a long queue are freed as they end.
    left = deque(items)
    del items
    while left:
        turn = monotonic() + _TURN
        for _ in range(min(_AT_ONCE, len(left))):
            treat(left.popleft())
            if monotonic() > turn:
                break
        await _one_iteration()


async def _one_iteration() -> None:
    """Let the loop run for one iteration."""
    loop = asyncio.get_running_loop()
    had = loop.create_future()
    loop.call_soon(_resolve, had)
    await had


def _resolve(future: asyncio.Future[None]) -> None:
    # It is done already if the drain was cancelled in between.
    if not future.done():
        future.set_result(None)


async def _give_away_sleepers(core: Core, home: Home, left: Tally) -> None:
    """Give tasks that wait for something that may take long to the other processes."""

    def give_away(task: LiveTask) -> None:
        waits = task.timer is not None or task.sleeper is not None or _is_chained(task)
        if waits and core.requeued.let_go(task, WAITS):
            left.add(_LEFT, task)

    if core.requeued.is_possible:
        await _in_turns(core, list(home.live.values()), give_away)


async def _end_waits(core: Core, home: Home, cut_short: Tally) -> None:
    """Cancel delayed tasks; wake tasks that sleep in a retry or throttle."""

    def end_wait(task: LiveTask) -> None:
        # One that waits for others may yet start, but not if its delay begins only then.
        is_delayed = task.timer is not None or (bool(task.spec.delay) and _is_chained(task))
        if is_delayed and core.runner.cancel_pending(task, REASON):
            cut_short.add(_DELAYED, task)
        sleeper = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()

    await _in_turns(core, list(home.live.values()), end_wait)


def _is_chained(task: LiveTask) -> bool:
    """Return whether a task waits for others to end."""
    return task.after is not None and task.after.waits


async def _wait_until_idle(core: Core, home: Home, until: float) -> None:
    """Suspend until *home* has no live task, or until monotonic second *until*."""
    sleeper = LoopSleeper(core.clock)
    home.on_idle = sleeper.signal
    progress = _Progress(core, home, until, sleeper)
    try:
        if home.live and core.clock.monotonic() < until:
            await progress.begin()
        while home.live and core.clock.monotonic() < until:
            await progress.go_on()
            await sleeper.wait(None if math.isinf(until) else until)
    finally:
        home.on_idle = None
        progress.stop()


class Reminder:
    """Decides when to log that a shutdown waits: after a second, and then every five.

    Args:
        clock: The framework's clock, which is only read.
        later: Calls a function after some seconds, and returns what prevents that.
        signal: What to call when it is time; any thread.

    Attributes:
        stop: Lets it say nothing more.
    """

    def __init__(
        self,
        clock: Clock,
        later: Callable[[float, Callable[[], None]], Callable[[], object]],
        signal: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._later = later
        self._signal = signal
        self._began = clock.monotonic()
        self._due = False
        self.stop = later(_FIRST_LOG, self._fire)

    def _fire(self) -> None:
        self._due = True
        self._signal()

    def passed(self) -> float | None:
        """Return for how many seconds the shutdown has waited if it is time to log; else None."""
        if not self._due:
            return None
        self._due = False
        self.stop = self._later(_NEXT_LOG, self._fire)
        return self._clock.monotonic() - self._began


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
        self._reminder = Reminder(core.clock, self._later, sleeper.signal)

    def _later(self, seconds: float, signal: Callable[[], None]) -> Callable[[], object]:
        clock = self._core.clock
        # A background timer: in a test, virtual time must not move just to log.
        return clock.call_at(clock.monotonic() + seconds, signal, background=True).cancel

    async def begin(self) -> None:
        """Log what the drain waits for, at INFO, since most drains end right after it."""
        await self._log(logging.INFO, "waiting")

    async def go_on(self) -> None:
        """Log what is left, if it is time to.

        At WARNING, which is shown even if logging is not configured, as under uvicorn.
        """
        passed = self._reminder.passed()
        if passed is not None:
            await self._log(logging.WARNING, f"still waiting after {span(passed)}")

    async def _log(self, level: int, waiting: str) -> None:
        if not _LOGGER.isEnabledFor(level):
            return
        left = Tally(_LIVE)
        await _in_turns(self._core, list(self._home.live.values()), partial(_count_live, left))
        if not left.total:
            return
        most = at_most(self._until - self._core.clock.monotonic())
        _LOGGER.log(level, "shutting down: %s for %s to end, %s", waiting, left, most)
        for line in left.lines(_FEW_LINES):
            _LOGGER.log(level, "shutting down: %s", line)

    def stop(self) -> None:
        """Log nothing more."""
        self._reminder.stop()


def at_most(seconds: float) -> str:
    """Return how long something may take, from a number of seconds or infinity."""
    if math.isinf(seconds):
        return "as long as it takes"
    return f"{round(max(seconds, 0.0), 1):g} s at most"


def _count_live(left: Tally, task: LiveTask) -> None:
    if task.status not in FINAL:
        left.add(task.status.value, task)


async def _end_all(core: Core, home: Home, cut_short: Tally, left: Tally) -> None:
    """Give away or cancel all tasks of *home*, and abandon those that do not end."""
    started: list[LiveTask] = []

    def cancel(task: LiveTask) -> None:
        # Its own code may have given it away meanwhile.
        if task.was_given_away or core.requeued.leave(task) or core.requeued.let_go(task, WAITS):
            left.add(_LEFT, task)
            return
        state = _NEVER_STARTED if task.timer is None else _DELAYED
        if core.runner.cancel_pending(task, REASON):
            cut_short.add(state, task)
            return
        started.append(task)
        if task.driver is not None and core.ledger.request_cancel(task):
            # Set before the cancellation, which ends the task with this reason.
            task.reason = REASON
            core.endings.stop_body(task)

    def count(task: LiveTask) -> None:
        if task.status is TaskStatus.CANCELLED:
            cut_short.add(_STOPPED, task)
        elif task.status is TaskStatus.INTERRUPTED:
            cut_short.add(_INTERRUPTED, task)

    await _in_turns(core, list(home.live.values()), cancel)
    await _end_coroutines(core, home)
    await _in_turns(core, started, count)


async def _end_coroutines(core: Core, home: Home) -> None:
    """Wait for cancelled coroutines, then interrupt tasks and abandon what is left."""

    def interrupt(task: LiveTask) -> None:
        error = TaskInterruptedError(task.task_id, task.name)
        core.endings.end(task, INTERRUPTED, error=error, reason=REASON, body_ended=False)

    drives = core.runner.drives
    await _wait_for_ends(core, drives.of(home), _LAST_CHANCE)
    await _in_turns(core, list(home.live.values()), interrupt)
    stubborn = drives.of(home)
    await _in_turns(core, stubborn, lambda driver: driver.request_cancel(abandon=True))
    await _wait_for_ends(core, stubborn, _LAST_CHANCE)


async def _wait_for_ends(core: Core, drivers: list[Driver], seconds: float) -> None:
    """Suspend until all *drivers* have ended, for at most *seconds*."""
    sleeper, drives = LoopSleeper(core.clock), core.runner.drives
    until, left = core.clock.monotonic() + seconds, len(drivers)

    def note(_: Driver) -> None:
        nonlocal left
        left -= 1
        if not left:
            sleeper.signal()

    # `note` is called once for each, at once if it has ended already.
    await _in_turns(core, drivers, lambda driver: drives.when_ended(driver, note))
    if left:
        await sleeper.wait(until)


async def _shielded(work: Coroutine[Any, Any, None]) -> None:
    """Await *work*, about half a second, even if this asyncio task is cancelled meanwhile."""
    inner = asyncio.ensure_future(work)
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        await inner
        raise


def _report(cut_short: Tally) -> None:
    """Log the tasks that did not finish."""
    if not cut_short.total:
        return
    _LOGGER.warning("unfinished at shutdown: %s; the log has each at DEBUG", cut_short)
    for line in cut_short.lines(_LINES):
        _LOGGER.warning("unfinished at shutdown: %s", line)
