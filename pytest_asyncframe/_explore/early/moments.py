"""The moments at which timeouts may come early: before a step of a loop, and at a point.

Before a step of a loop time passes until one of its own timeouts. Then the loop finds it due
beside steps that were ready before; they come first, and what they wake comes after the timeout.

At a point time passes until any other timeout: of a thread that waits, of a coroutine of a loop
with nothing to do, of a task. Who stands there is held back as anybody who is passed over, so
that the timers fire before it goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from framework import TaskManager
from framework.protocols import TaskRecord
from framework.testing import is_result_wait, time_limits
from pytest_asyncframe._explore.early.timeouts import (
    CoroutineTimeout,
    TaskLimit,
    ThreadTimeout,
    Timeout,
    WokenBy,
    waiting_frame,
)
from pytest_asyncframe._locations import is_users, outwards, users_frame
from pytest_asyncframe._turns.actors import Actor, Timer
from pytest_asyncframe._turns.choices import Pending
from pytest_asyncframe.clock import VirtualClock

_ROUNDING = 1_000
"""Nanoseconds between a timer of a loop and what wakes the loop for it, at the most."""


class EarlyTimeouts:
    """The timeouts of one run that may come early.

    Args:
        clock: The test's clock.
        manager: Returns the manager of the tasks.
        own: The code of the test and its fixtures, whose time limits are kept.
        known: Returns the identity of an asyncio task; None if it has none.
        woken_by: See `WokenBy`.
    """

    def __init__(
        self,
        clock: VirtualClock,
        manager: Callable[[], TaskManager],
        own: Collection[CodeType],
        known: Callable[[asyncio.Task[Any]], str | None],
        woken_by: WokenBy,
    ) -> None:
        self._clock = clock
        self._manager = manager
        self._own = own
        self._known = known
        self._woken_by = woken_by
        self._set: list[Timeout] = []
        # Of waits of the test itself, which have no timeout that may come early.
        self._bounds: list[Timer] = []
        self._seen: set[Timer] = set()
        self._limits: dict[TaskRecord, float] = {}
        self._has_begun = False
        self._numbers: Counter[str] = Counter()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let them come at points, and take note of timers, inside the block."""
        self._clock.on_timer = self.note
        self._clock.sequencer.on_moment = self.at_point
        try:
            yield
        finally:
            self._clock.on_timer = self._clock.sequencer.on_moment = None

    def note(self, handle: asyncio.TimerHandle | Timer, caller: FrameType) -> None:
        """Take note of a timer that was set."""
        task = None
        if isinstance(handle, Timer):
            if not _waits_for_a_task(caller):
                return
            task = asyncio.current_task()
        frame = users_frame(caller)
        if frame is None:
            return
        if frame.f_code not in self._own:
            self._set.append(CoroutineTimeout(handle, self._known, self._woken_by, task))
        elif isinstance(handle, Timer):
            self._bounds.append(handle)

    def before_step(self, ready: deque[Any]) -> None:  # Any: asyncio's handles
        """Let time pass if the chooser says so; called before a step of a loop.

        Args:
            ready: What the loop runs next, one handle at least.
        """
        loop = ready[0]._loop
        served = self._look()
        if not self._has_begun:
            return
        pending = self._pending(lambda one: one.loop is loop, len(ready))
        chosen = self._clock.sequencer.pass_time([one for one, _ in pending], served)
        if chosen is not None:
            timeout = pending[chosen][1]
            assert isinstance(timeout, CoroutineTimeout)
            loop.let_pass(timeout.handle)

    def at_point(self, actor: Actor) -> bool:
        """Let time pass if the chooser says so, and return whether; see `Points.on_moment`."""
        served = self._look()
        if not self._has_begun:
            return False
        sequencer = self._clock.sequencer
        pending = self._pending(
            lambda one: one.loop is None or one.loop is not actor.loop, held=actor.identity
        )
        chosen = sequencer.pass_time([one for one, _ in pending], served)
        if chosen is not None:
            sequencer.let_pass(self._due(pending[chosen][1]))
        return chosen is not None

    # -- what there is

    def _look(self) -> list[str]:
        """Find the timeouts that are set at this moment; return the names of those served."""
        sequencer = self._clock.sequencer
        now = sequencer.now
        self._find_limits()
        served = [one.name for one in self._set if one.name and one.was_served(now)]
        self._find_waits(sequencer.timers())
        self._set = [one for one in self._set if one.is_set]
        self._has_begun = self._has_begun or bool(self._set)
        return served

    def _find_limits(self) -> None:
        before, self._limits = self._limits, dict(time_limits(self._manager()))
        for task, seconds in self._limits.items():
            if before.get(task) != seconds:
                self._set.append(TaskLimit(task, seconds, lambda: self._limits))

    def _find_waits(self, timers: list[Timer]) -> None:
        sequencer = self._clock.sequencer
        waits = {one: one.actor for one in timers if one.actor is not None}
        new = {one: actor for one, actor in waits.items() if one not in self._seen}
        self._seen = {*waits}
        frames = sys._current_frames() if new else {}
        for timer, actor in new.items():
            if actor.waiter is None and actor.free is None:  # a sleep, or a loop
                continue
            frame = waiting_frame(frames.get(actor.ident))
            if frame is None:
                continue
            if frame.f_code in self._own or actor is sequencer.first:
                self._bounds.append(timer)
            else:
                self._set.append(ThreadTimeout(timer, actor, frame))

    def _pending(
        self, is_option: Callable[[Timeout], bool], ahead: int = 0, held: str = ""
    ) -> list[tuple[Pending, Timeout]]:
        """Return the timeouts that may come early, and the last one that comes with each."""
        timeouts = [one for one in self._set if self._is_named(one)]
        waiting = {one for one in timeouts if one.waits() and is_option(one)}
        if not waiting:
            return []
        timeouts.sort(key=lambda one: one.when)
        found: list[tuple[Pending, Timeout]] = []
        names: list[str] = []
        now, end = self._clock.sequencer.now, self._end()
        for when, group in itertools.groupby(timeouts, key=lambda one: one.when):
            together = list(group)
            names += [one.name for one in together]
            last = next((one for one in reversed(together) if one in waiting), None)
            if last is not None and now < when < end:
                found.append((Pending(tuple(names), last.where, ahead, held), last))
        return found

    def _is_named(self, timeout: Timeout) -> bool:
        """Name a timeout whose owner is known; return whether it has a name."""
        if not timeout.name and (whom := timeout.whom):
            self._numbers[whom] += 1
            number = self._numbers[whom]
            timeout.name = whom if number == 1 else f"{whom} ({number})"
        return bool(timeout.name)

    # -- time

    def _end(self) -> float:
        """Return the nanosecond at which something is due that the test itself waits for."""
        test, sequencer = self._clock.test, self._clock.sequencer
        first = sequencer.first
        self._bounds = [one for one in self._bounds if one.live]
        times = [sequencer.horizon, *(one.when for one in self._bounds)]
        if test is not None:
            scheduled: Any = test.get_loop()._scheduled  # type: ignore[attr-defined]  # asyncio's
            # The app's own, of a request that the test makes in its own task, are no bounds.
            apps = {id(one.handle) for one in self._set if isinstance(one, CoroutineTimeout)}
            left = [one for one in scheduled if not one.cancelled() and id(one) not in apps]
            times += [round(one.when() * 1e9) for one in left if self._woken_by(one)[1] is test]
        if first is not None and first.timer is not None and first.loop is None:
            times.append(first.timer.when)
        return min(times, default=math.inf)

    def _due(self, timeout: Timeout) -> int:
        """Return the nanosecond at which a timeout fires: its loop may be woken a little later."""
        timers = self._clock.sequencer.timers() if timeout.loop is not None else []
        wake = [one.when for one in timers if one.actor and one.actor.loop is timeout.loop]
        return max([timeout.when, *(when for when in wake if when <= timeout.when + _ROUNDING)])


def _waits_for_a_task(caller: FrameType) -> bool:
    """Whether a timer is set by a coroutine of the framework that waits for a task to end."""
    inside = itertools.takewhile(lambda one: not is_users(one.f_code), outwards(caller))
    return any(is_result_wait(one.f_code) for one in inside)
