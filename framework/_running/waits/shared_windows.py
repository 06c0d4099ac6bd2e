"""Shared windows: throttles whose calls are counted for all processes, by their store.

Each call reserves the time at which it may begin: now, or one window after the call that used
the same slot. So calls that wait come in the order in which they were counted, in whichever
process they are, and nobody polls. A call that gives up gives its time back, to the next new
call: those that wait already keep theirs.

Guarantees: counted times never exceed the rate, in any half-open window, by the clock of the
store. A function never begins before its call is counted. The window is `_MARGIN` seconds longer,
so that functions that begin up to that much later keep to the rate as well; if an answer takes
longer, the call is counted anew, a little in the future.
Relies on: a store that answers on a thread of its own.
Lock order: that of `policies`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable
from functools import partial
from typing import Final

from framework._records.ids import random_id
from framework._running.endings import Endings
from framework._running.waits.policies import Policies, Sleep, throttle_reason
from framework._running.waits.throttle import ThrottlePolicy
from framework._tasks.live import Sleeper
from framework._tasks.places import key_digest, stable_text
from framework._threads.waiters import (
    LoopSleeper,
    Mailboxes,
    Reply,
    Steps,
    ThreadSleeper,
    block,
    suspend,
)
from framework.exceptions import StoreUnavailableError
from framework.protocols import SharedWindows, WindowAnswer, WindowRequest

_MARGIN: Final = 0.05
"""Seconds that a function may begin after its call was counted; less for a short window."""

_SHARE: Final = 20
"""A window's length is at least this many margins."""

_TRIES: Final = 5
"""How often a call is counted until its function begins in time; then it begins late."""

_PATIENCE: Final = 5.0
"""How many seconds a call waits for the store to answer."""


class SharedPolicies(Policies):
    """Policies whose throttles count the calls of all processes.

    Args:
        endings: Of the tasks in which calls sleep; their clock is that of delays, and of the
            windows that are not shared.
        rng: Source of the jitter.
        windows: Counts the calls.
        boxes: The mailboxes of the event loops.
    """

    asks = True

    def __init__(
        self, endings: Endings, rng: random.Random, windows: SharedWindows, boxes: Mailboxes
    ) -> None:
        super().__init__(endings.ledger.clock, rng, endings)
        self._windows = windows
        self._boxes = boxes

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call, and block until it may begin; see `Policies.take`.

        Raises:
            RuntimeError: On the thread of an event loop, which it would block.
            StoreUnavailableError: If the store does not answer.
        """
        if not policy.options["shared"]:
            return super().take(policy, key)
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                f"{policy.name} is sync, and its calls are counted for all processes in the "
                "store, which cannot be asked on the thread of an event loop: make it async, "
                "call it in a task or a thread, or use throttled_task(shared=False)"
            )
        return block(self._reserve(policy, key, ThreadSleeper(self.clock)))

    async def take_on_loop(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call as `take` does, without blocking the event loop."""
        if not policy.options["shared"]:
            due = super().take(policy, key)
            if due is not None and policy.options["when_limited"] == "wait":
                await self.await_turn(policy, key, due)
                return None
            return due
        return await suspend(self._reserve(policy, key, LoopSleeper(self.clock)))

    def _reserve(
        self, policy: ThrottlePolicy, key: Hashable, sleeper: Sleeper
    ) -> Steps[float | None]:
        """Count a call so that its function begins when it is counted.

        Returns:
            When to try again; None if it was counted.
        """
        options, entry, ahead = policy.options, random_id(), 0.0
        length = policy.window
        margin = min(_MARGIN, length / _SHARE)
        waits = options["when_limited"] == "wait"
        window = _window_key(policy, key)
        begins = False
        try:
            for _ in range(_TRIES):
                began = self.monotonic()
                request = WindowRequest(
                    window, entry, options["rate_limit"], length + margin, ahead, waits
                )
                answer = yield from self._ask(request)
                if not answer.counted:
                    # Callers know nothing of the margin.
                    return self.monotonic() + min(answer.wait, length)
                until = self.monotonic() + answer.wait
                if answer.wait > ahead:
                    yield from self._wait(policy, sleeper, until)
                    break
                if answer.wait:
                    yield partial(sleeper.wait, until)
                late = self.monotonic() - began - answer.wait
                if late <= margin:
                    break
                # 1 the call is counted, 2 the answer takes long, 3 its function begins, late.
                # 4 A window after 1 another call is counted, and begins at once: too early.
                ahead = 2 * late
            begins = True
            return None
        finally:
            # Also if the waiting coroutine is cancelled, which closes this generator.
            if not begins:
                self._windows.give_back(window, entry)

    def _ask(self, request: WindowRequest) -> Steps[WindowAnswer]:
        reply = Reply[WindowAnswer](self.clock, self._boxes, _PATIENCE)
        self._windows.reserve(request, reply.give)
        yield reply.wait
        if not reply.has_come:
            raise StoreUnavailableError(
                f"no answer within {_PATIENCE:g} s whether the rate limit allows a call "
                f"({request.key}); its function was not called"
            )
        return reply.answer

    def _wait(self, policy: ThrottlePolicy, sleeper: Sleeper, until: float) -> Steps[None]:
        """Sleep until a call may begin.

        Raises:
            RateLimitExceededError: If the framework shuts down first.
            TaskCancelledError: If the calling task is cancelled or ends first.
        """
        with Sleep(self, sleeper, throttle_reason(policy, until), suspends=True) as sleep:
            self._announce("throttled", policy.name, until - self.monotonic(), None)
            while not sleeper.interrupted and self.monotonic() < until:
                yield partial(sleeper.wait, until)
            if not sleeper.interrupted:
                return
            sleep.raise_if_unwanted()
            raise self.limit_error(policy, until)


def _window_key(policy: ThrottlePolicy, key: Hashable) -> str:
    if not policy.has_key:
        return policy.name
    return f"{policy.name}:{key_digest(stable_text(policy.name, 'key', key))}"
