"""Courier: a thread that carries out what others hand in, and tries again what fails.

It has a queue of calls, and a turn: what its owner does now and then, or as long as there is
something to do. Whether something failed for good is not known, so everything is tried again:
after a short pause, then after longer ones.

Guarantees:
    Calls are made one after the other, in their order. A call is made until it returns, and
    not again after it has; the next one begins after that.
    A turn that was asked for begins after that. One that raises an error is repeated.
    After `close` returns, no call and no turn begins. It takes its patience and `LAST` at most.
    What it accepts is done by then, unless errors or long calls take all that time.
    What comes after the thread has ended, or after `stop`, is refused.
    A forked child has neither the thread nor the calls of its parent, which makes them.
Relies on: calls that block for a few seconds at most, and may be made again after an error.
Lock order: `_condition` is innermost: neither a call nor a hook is called under it.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from framework._threads.clock import SystemClock
from framework.protocols import Clock

PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)
"""Seconds between two tries, by how many have failed; the last one is repeated."""

LAST: Final = 0.5
"""Seconds for a call that is in progress when the patience of `Courier.close` is over."""


GRAIN: Final = 1e-9
"""Seconds below which a time has come: clocks count nanoseconds."""


class Courier:
    """One thread, which is started by the first thing that there is to do.

    Attributes:
        is_failing: Whether the last try has failed; its error was handed on before this is true.
        is_stopped: Whether no further call and no further turn begins.
        clock: Its time.

    Args:
        name: The name of the thread.
        turn: Called when it is due, and after each `wake`. Returns the seconds until it is due
            again: 0.0 if there is more to do now, None to wait until it is woken.
        pauses: The seconds between two tries of what fails; the last one is repeated.
        failed: Called on the thread with the error of each try, before it pauses.
        ended: Called on the thread when it ends.
        clock: Its time; None for real time.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], float | None] | None = None,
        *,
        pauses: Sequence[float] = PAUSES,
        failed: Callable[[Exception], object] | None = None,
        ended: Callable[[], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._turn = turn
        self._pauses = pauses
        self._failed = failed
        self._ended = ended
        self.clock: Clock = clock or SystemClock()
        # Two steps: what is left is still done, and then no more of it.
        self._closed = self.is_stopped = False
        self._begin()

    def _begin(self) -> None:
        """Have neither a thread nor calls, at first or in a forked child."""
        self._pid = os.getpid()
        # New, since the parent's thread may have held the old lock during the fork.
        self._condition = threading.Condition(threading.Lock())
        self._calls: deque[Callable[[], object]] = deque()
        self._due = math.inf
        self._busy = self.is_failing = False
        self._thread: threading.Thread | None = None

    # -- any thread

    @property
    def is_running(self) -> bool:
        """Whether the thread was started, and has not ended."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def put(self, call: Callable[[], object]) -> bool:
        """Hand in a call; False if it is refused. Never blocks."""
        with self._here():
            if not self._start():
                return False
            self._calls.append(call)
        return True

    def wake(self) -> bool:
        """Have a turn taken now; False if it is refused. Never blocks."""
        with self._here():
            if not self._start():
                return False
            self._due = -math.inf
        return True

    def flush(self) -> None:
        """Block until there is nothing to do now, a try has failed, or the thread has ended."""
        condition = self._here()
        with condition:
            while self._busy and not self.is_failing:
                condition.wait()

    def stop(self) -> None:
        """End the thread after the call in progress; do not wait for it."""
        condition = self._here()
        with condition:
            self._closed = self.is_stopped = True
            condition.notify_all()

    def close(self, patience: float) -> None:
        """Do what there is to do for at most *patience* seconds, and end the thread; blocks."""
        condition = self._here()
        with condition:
            # This ends a pause, so that the thread uses its last seconds.
            self._closed = True
            condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(patience)
            self.stop()
            # A call may still be in progress, and the process cannot wait for it forever.
            thread.join(LAST)

    def _here(self) -> threading.Condition:
        """Return the condition of this process."""
        if self._pid != os.getpid():
            self._begin()
        return self._condition

    def _start(self) -> bool:
        """Start or notify the thread; False if it has ended. Called with the lock held."""
        # While it does the last things, it takes what these hand in.
        if self.is_stopped or (self._closed and not self._busy):
            return False
        if self._thread is None:
            # Only now: a process that hands in nothing has no such thread.
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._busy = True
        self._condition.notify_all()
        return True

    # -- the thread

    def _run(self) -> None:
        tries = 0
        try:
            while self._await_work():
                try:
                    self._work()
                except Exception as error:  # whatever it is, the next try may succeed
                    if self._failed is not None and not self.is_stopped:
                        self._failed(error)
                    self._pause(self._pauses[min(tries, len(self._pauses) - 1)])
                    tries += 1
                else:
                    tries, self.is_failing = 0, False
        finally:
            with self._condition:
                self.is_stopped, self._busy = True, False
                self._condition.notify_all()
            if self._ended is not None:
                self._ended()

    def _await_work(self) -> bool:
        """Wait until there is something to do; False if the thread is to end."""
        with self._condition:
            while not self.is_stopped:
                wait = self._due - self.clock.monotonic()
                if self._calls or wait < GRAIN:
                    return True
                self._busy = False
                self._condition.notify_all()
                if self._closed:
                    break
                self.clock.wait(self._condition, None if wait == math.inf else wait)
        return False

    def _work(self) -> None:
        """Take a turn if it is due, and make a call if there is one."""
        with self._condition:
            is_due = self._due - self.clock.monotonic() < GRAIN
            call = self._calls[0] if self._calls else None
            if is_due:
                self._due = math.inf
        if is_due and self._turn is not None:
            try:
                wait = self._turn()
            except BaseException:
                self._due = -math.inf
                raise
            if wait is not None:
                with self._condition:
                    # Somebody may have asked for the next one meanwhile.
                    self._due = min(self._due, self.clock.monotonic() + wait)
        if call is not None:
            call()
            with self._condition:
                self._calls.popleft()

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; `close` and `stop` end it."""
        end = self.clock.monotonic() + seconds
        with self._condition:
            self.is_failing, closed = True, self._closed
            self._condition.notify_all()
            while not self.is_stopped and self._closed is closed:
                left = end - self.clock.monotonic()
                if left < GRAIN:
                    break
                self.clock.wait(self._condition, left)
