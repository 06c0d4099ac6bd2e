"""Loop watch: names what keeps an event loop from turning.

Each half of the limit, a timer looks at the loop. If it is busy, it is asked for a sign of life,
which has come until the next look, or has not. The timers are those of the framework's clock, so
there is no thread for it.

Guarantees: the loop is never waited for; a block is named once, and its end once. What is not
the code's fault is not named: a loop that is idle, a debugger that waits for a person, and time
in which this process did not run, such as when it was stopped or other threads held the
interpreter. That last kind is seen by the timer itself, which then comes late as well.
Relies on: the clock's timers, which come one at a time for each watch.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from types import CodeType, FrameType
from typing import Any, Final

from framework._records.statuses import RUNNING
from framework._tasks.live import Home, LiveTask
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework._threads.watch.stacks import frames_of, is_debugged, place, turn_of
from framework.protocols import TimerHandle

_LOGGER = SafeLogger("asyncframe")

_STARVED: Final = 0.25
"""The share of its pause by which the timer may be late; later, that pause does not count."""

_WATCHES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[LoopWatch]] = (
    weakref.WeakKeyDictionary()
)
"""The watches of each loop, of which only the first is active: apps may share a loop."""


class LoopWatch:
    """Watches the loop of one home.

    Args:
        clock: The framework's clock.
        home: The home, whose tasks are named if they block the loop.
        limit: Seconds that the loop may take for one turn, above 0.

    Attributes:
        told: The place that was named; None while the loop turns.
    """

    def __init__(self, clock: SystemClock, home: Home, limit: float) -> None:
        assert home.loop is not None
        self._clock = clock
        self._home = home
        self._loop = home.loop
        self._pause = limit / 2
        self._turn: CodeType | None = None
        self._thread = 0
        self._timer: TimerHandle | None = None
        self._due = 0.0
        # When the sign of life was asked for, and when it was given; None while it is awaited.
        self._asked = 0.0
        self._answered: float | None = None
        # How many pauses have passed since then.
        self._silent = 0
        self._suspect: FrameType | None = None
        self.told: str | None = None

    def start(self, frame: FrameType) -> None:
        """Start to watch once the loop has turned; called in a coroutine on it.

        The code that sets an app up may block: nobody waits for it yet.

        Args:
            frame: The frame of that coroutine.
        """
        self._turn, self._thread = turn_of(frame), threading.get_ident()
        _WATCHES.setdefault(self._loop, []).append(self)
        self._loop.call_soon(self._begin)

    def stop(self) -> None:
        """Stop to watch; called on the loop."""
        watches = _WATCHES.get(self._loop, [])
        if self in watches:
            watches.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._end_block(self._clock.monotonic())

    def _begin(self) -> None:
        if self in _WATCHES.get(self._loop, ()):
            self._answered = self._clock.monotonic()
            self._set_timer()

    def _set_timer(self) -> TimerHandle:
        self._due = self._clock.monotonic() + self._pause
        timer = self._timer = self._clock.call_at(self._due, self._look, background=True)
        return timer

    # -- on the thread of the timers

    def _look(self) -> None:
        watches = _WATCHES.get(self._loop, [])
        if self._loop.is_closed():
            # Nobody has stopped the watch, which keeps the loop alive.
            _WATCHES.pop(self._loop, None)
            return
        if self not in watches:
            return
        if watches[0] is self:
            self.look(self._clock.monotonic())
        timer = self._set_timer()
        if self not in watches:
            # It was stopped meanwhile, and did not see the new timer.
            timer.cancel()

    def look(self, now: float) -> None:
        """Look at the loop at monotonic second *now*."""
        late = now - self._due
        if self._answered is not None:
            self._suspect = None
            self._end_block(self._answered)
            # An idle loop need not be woken to know that it can turn.
            if frames_of(self._thread, self._turn):
                self._ask(now)
            return
        if late > _STARVED * self._pause:
            # Time in which this thread could not run either says nothing about the loop.
            self._forget(now)
        elif self.told is None:
            self._silent += 1
            self._inspect(now)

    def _ask(self, now: float) -> None:
        self._forget(now)
        self._answered = None
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # it was closed meanwhile
            self._answered = now

    def _answer(self) -> None:
        self._answered = self._clock.monotonic()

    def _forget(self, now: float) -> None:
        """Start to measure anew for how long the loop has not turned."""
        self._asked, self._silent, self._suspect = now, 0, None

    def _inspect(self, now: float) -> None:
        """Name what blocks the loop if it has not turned for two pauses."""
        frames = frames_of(self._thread, self._turn)
        if not frames or is_debugged(frames):
            self._forget(now)
            return
        # What one callback has called; the frame itself is the only proof that it is the same.
        outermost = frames[-1]
        if self._silent == 1:
            self._suspect = outermost
            return
        same, self._suspect = outermost is self._suspect, None
        task = self._task()
        self.told = place(frames, None if task is None else _code_of(task))
        self._home.core.ledger.count("loop_blocks")
        _LOGGER.warning(
            "the event loop has not turned for %.1f s: %s %s%s; meanwhile no request, timer or "
            "coroutine goes on: run blocking code in a def function, or with asyncio.to_thread()",
            now - self._asked,
            self.told,
            "blocks it" if same else "is one of many callbacks without a pause",
            "" if task is None else f" (task {task.task_id}, {task.name})",
        )

    def _end_block(self, answered: float) -> None:
        if self.told is None:
            return
        _LOGGER.warning(
            "the event loop turns again after %.1f s or a little more; it was found at %s",
            answered - self._asked,
            self.told,
        )
        self.told = None

    def _task(self) -> LiveTask | None:
        """Return the task whose coroutine the loop runs now; None if it is none of ours."""
        owner: Any = asyncio.current_task(self._loop)  # Any: the result of the task
        if owner is None:
            return None
        # The latest: a task that awaits another one in place shares its asyncio task.
        for task in reversed(list(self._home.live.values())):
            driver = task.driver
            if driver is not None and driver.asyncio_task is owner and task.status is RUNNING:
                return task
        return None


def _code_of(task: LiveTask) -> CodeType | None:
    function: Any = task.spec.fn  # any callable
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
