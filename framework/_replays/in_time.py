"""Replays in real time: each has a limit, after which it is left where it is."""

from __future__ import annotations

import queue
import sys
import threading
from typing import Final

from framework._manager.core import Core
from framework._replays import lines
from framework._replays.differences import Difference, stuck
from framework._replays.hurried import HurriedLoop
from framework._replays.replay import Recorded, Replay
from framework._threads.clock import SystemClock

_GRACE: Final = 1.0
"""Seconds that a coroutine gets to end which is cancelled, after the limit."""


class _Hand:
    """A thread that replays one task after the other.

    Args:
        core: Of a framework that runs no task.
        limit: Real seconds for each.
    """

    def __init__(self, core: Core, limit: float) -> None:
        self._core, self._limit = core, limit
        self._loop = HurriedLoop(SystemClock())
        self._left: list[HurriedLoop] = []
        self._given: queue.SimpleQueue[Recorded | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[list[Difference] | BaseException] = queue.SimpleQueue()
        # As a daemon, it does not keep the process: what it runs may never end.
        self._thread = threading.Thread(target=self._run, name="asyncframe-replay", daemon=True)
        self._thread.start()

    def replay(self, one: Recorded) -> list[Difference] | None:
        """Replay a task; None if that has not ended in time, and the thread is lost.

        Raises:
            BaseException: An error of the replay itself, and not of the task's code.
        """
        self._given.put(one)
        try:
            told = self._told.get(timeout=self._limit + 2 * _GRACE)
        except queue.Empty:
            return None
        if isinstance(told, BaseException):
            raise told
        return told

    @property
    def line(self) -> str:
        """The line of the user's at which the thread is; "" if it is at none."""
        return lines.of_thread(sys._current_frames().get(self._thread.ident or 0))

    def end(self) -> None:
        """Let the thread end once it has nothing to do."""
        self._given.put(None)

    def _run(self) -> None:
        while (one := self._given.get()) is not None:
            try:
                replay = Replay(self._core, one)
                if one.spec.kind == "thread":
                    replay.on_thread()
                    found = replay.differences()
                else:
                    found = self._on_loop(replay)
                self._told.put(found)
            except BaseException as error:  # whoever waits gets it
                self._told.put(error)
        self._loop.close()

    def _on_loop(self, replay: Replay) -> list[Difference]:
        loop = self._loop
        loop.begin(replay.on_loop(), replay.may_hurry)
        if loop.go_on(self._limit):
            return replay.differences()
        line = replay.line
        replay.leave()
        if not loop.go_on(_GRACE):
            # What is left of it must not disturb the next one, nor be freed while it waits.
            self._left.append(loop)
            self._loop = HurriedLoop(SystemClock())
        return [stuck(line, self._limit)]


class InTime:
    """Replays tasks, each within a limit of real time.

    Args:
        core: Of a framework that runs no task.
        limit: Seconds, more than 0.
    """

    def __init__(self, core: Core, limit: float) -> None:
        self._core, self._limit = core, limit
        self._hand = _Hand(core, limit)

    def replay(self, one: Recorded) -> list[Difference]:
        """Return where the code of a task leads elsewhere than its records; blocks."""
        found = self._hand.replay(one)
        if found is None:
            lost, self._hand = self._hand, _Hand(self._core, self._limit)
            lost.end()
            return [stuck(lost.line, self._limit)]
        return found

    def close(self) -> None:
        """End the thread, unless it is lost."""
        self._hand.end()
