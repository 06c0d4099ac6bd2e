"""Early timeouts: time that passes until a waiting task times out, while others could run.

On a slow machine time passes during any step of a loop. Then the loop finds a timeout due beside
steps that were ready before; they come first, and what they wake comes after the timeout.

Guarantees: time passes for all, and timers fire in the order of their times.
    Only timeouts that code of the app has set are taken, and never beyond a timer that the test
    itself waits for.
Relies on: `_scheduled` of a timer's handle; `_fut_waiter` of a task, without which no timeout comes
early.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Collection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

from pytest_asyncframe._locations import inwards, is_users, users_frame
from pytest_asyncframe._turns.choices import Pending
from pytest_asyncframe.clock import VirtualClock

WokenBy: TypeAlias = Callable[[Any], tuple[str, asyncio.Task[Any] | None]]
"""Returns what a timer is, in a word, and the task that it wakes or cancels."""


class EarlyTimeouts:
    """The timeouts of one run that may come early.

    Args:
        clock: The test's clock.
        own: The code of the test and its fixtures, whose time limits are kept.
        known: Returns the identity of a task; None if it has none.
        woken_by: See `WokenBy`.
    """

    def __init__(
        self,
        clock: VirtualClock,
        own: Collection[CodeType],
        known: Callable[[asyncio.Task[Any]], str | None],
        woken_by: WokenBy,
    ) -> None:
        self._clock = clock
        self._own = own
        self._known = known
        self._woken_by = woken_by
        self._set: list[_Timeout] = []
        self._has_begun = False
        self._numbers: Counter[str] = Counter()

    def note(self, handle: asyncio.TimerHandle, caller: FrameType) -> None:
        """Take note of a timer that was set."""
        frame = users_frame(caller)
        if frame is not None and frame.f_code not in self._own:
            self._set.append(_Timeout(handle))
            self._has_begun = True

    def before_step(self, ready: deque[Any]) -> None:  # Any: asyncio's handles
        """Let time pass if the chooser says so; called before a step of a loop.

        Args:
            ready: What the loop runs next, one handle at least.
        """
        if not self._has_begun:
            return
        loop = ready[0]._loop
        served = [one.name for one in self._set if one.was_served()]
        self._set = [one for one in self._set if one.is_set]
        pending = self._pending(loop, len(ready))
        chosen = self._clock.sequencer.pass_time([one for one, _ in pending], served)
        if chosen is not None:
            loop.let_pass(pending[chosen][1])

    def _pending(self, loop: Any, ahead: int) -> list[tuple[Pending, Any]]:
        """Return the timeouts that may come early, and the last timer of each."""
        timeouts = [one for one in self._set if self._name(one) and one.handle._loop is loop]
        if not timeouts:
            return []
        timeouts.sort(key=lambda one: one.when)
        found: list[tuple[Pending, Any]] = []
        names: list[str] = []
        end = self._end(loop)
        for when, group in itertools.groupby(timeouts, key=lambda one: one.when):
            together = list(group)
            names += [one.name for one in together]
            waiting = [one for one in together if one.waits()]
            if waiting and loop.time() < when < end:
                last = waiting[-1]
                found.append((Pending(tuple(names), _where(last.task), ahead), last.handle))
        return found

    def _name(self, timeout: _Timeout) -> str:
        """Return the name of a timeout of a task that is known, else ""."""
        if not timeout.name:
            what, task = self._woken_by(timeout.handle)
            known = None if task is None else self._known(task)
            if what == "timeout" and known is not None:
                self._numbers[known] += 1
                number = self._numbers[known]
                timeout.name = known if number == 1 else f"{known} ({number})"
                timeout.task = task
        return timeout.name

    def _end(self, loop: Any) -> float:
        """Return the second at which something is due that the test itself waits for."""
        test, first = self._clock.test, self._clock.sequencer.first
        times = [math.inf]
        if test is not None:
            left = [one for one in loop._scheduled if not one.cancelled()]
            times += [one.when() for one in left if self._woken_by(one)[1] is test]
        if first is not None and first.timer is not None and first.loop is None:
            times.append(first.timer.when / 1e9)
        return min(times)


class _Timeout:
    """A timer that code of the app has set.

    Attributes:
        handle: The timer.
        name: What it is known by; "" for one that is no timeout, as far as known.
        task: The one that it ends the wait of.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.name = ""
        self.task: Any = None
        self._waited_for: Any = None

    @property
    def when(self) -> float:
        return float(self.handle.when())

    @property
    def is_set(self) -> bool:
        return self.handle._scheduled and not self.handle.cancelled()

    def waits(self) -> bool:
        """Whether its task waits, and nothing has ended that; remember what for."""
        future = getattr(self.task, "_fut_waiter", None)
        self._waited_for = None if future is None or future.done() else future
        return self._waited_for is not None

    def was_served(self) -> bool:
        """Whether the wait of before has been ended meanwhile, by no cancellation."""
        future = self._waited_for
        return future is not None and future.done() and not future.cancelled()


def _where(task: asyncio.Task[Any]) -> str:
    """Return where in the user's code a task waits; "" if it is not in any."""
    frames = [frame for frame in inwards(task.get_coro()) if is_users(frame.f_code)]
    if not frames:
        return ""
    return f"{Path(frames[-1].f_code.co_filename).name}:{frames[-1].f_lineno}"
