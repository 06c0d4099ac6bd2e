"""Shared windows: throttles whose calls are counted for all processes, by their store.

Each call reserves the time at which it may begin: now, or one window after the call that used
the same slot. So calls that wait come in the order in which they were counted, in whichever
process they are, and nobody polls. A call that gives up gives its time back, to the next new
call: those that wait already keep theirs.

Guarantees: counted times never exceed the rate, in any half-open window, by the clock of the
store. A function never begins before its call is counted. The window is `_MARGIN` seconds longer,
so that functions that begin up to that much later keep to the rate as well; see `punctual` for
those that would begin later. A call that waits for its turn waits for a store that fails, too.
Relies on: a store that answers on a thread of its own.
Lock order: that of `policies`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable, Sized
from functools import partial
from typing import Final

from framework._records.ids import random_id
from framework._running.endings import Endings
from framework._running.outcomes import PublishAgain
from framework._running.waits.policies import (
    Policies,
    Rests,
    Sleep,
    raise_if_unwanted,
    throttle_reason,
)
from framework._running.waits.punctual import Punctual
from framework._running.waits.throttle import ThrottlePolicy
from framework._tasks.live import Sleeper, current_record
from framework._tasks.places import key_digest, stable_text
from framework._threads.waiters import LoopSleeper, Steps, ThreadSleeper, block, suspend
from framework.exceptions import StoreUnavailableError
from framework.protocols import SharedWindows, WindowAnswer, WindowRequest

_MARGIN: Final = 0.05
"""Seconds that a function may begin after its call was counted; less for a short window."""

_SHARE: Final = 20
"""A window's length is at least this many margins."""

_TRIES: Final = 5
"""How often a call is counted until its function begins in time; then it begins late."""

_PATIENCE: Final = 5.0
"""How many seconds a call waits for the store to answer: longer only if it waits for its turn."""


class SharedPolicies(Policies):
    """Policies whose throttles count the calls of all processes.

    Args:
        endings: Of the tasks in which calls sleep; their clock is that of delays, and of the
            windows that are not shared.
        rng: Source of the jitter.
        windows: Counts the calls.
        rests: Where tasks wait outside of their functions; None for nowhere.
    """

    asks = True

    def __init__(
        self,
        endings: Endings,
        rng: random.Random,
        windows: SharedWindows,
        rests: Rests | None = None,
    ) -> None:
        super().__init__(endings.ledger.clock, rng, endings, rests)
        self._windows = windows

    def take(self, policy: ThrottlePolicy, key: Hashable) -> float | None:
        """Count a call, and block until it may begin; see `Policies.take`.

        Raises:
            RuntimeError: On the thread of an event loop, which it would block.
            StoreUnavailableError: If the store does not answer, for five seconds, or until the
                framework shuts down if the call waits for its turn.
            RateLimitExceededError: If the framework shuts down while the call waits for its turn.
            TaskCancelledError: If the calling task is cancelled or ends meanwhile.
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
        options, entry = policy.options, random_id()
        length = policy.window
        margin = min(_MARGIN, length / _SHARE)
        waits = options["when_limited"] == "wait"
        window = _window_key(policy, key)
        punctual, ahead = Punctual(margin), 0.0
        begins = False
        try:
            for _ in range(_TRIES):
                request = WindowRequest(
                    window, entry, options["rate_limit"], length + margin, ahead, waits
                )
                counted, due = yield from self._ask(policy, sleeper, request)
                if ahead:
                    # While this process stood still, the others may have ended the task.
                    raise_if_unwanted(current_record.get())
                if not counted:
                    # Callers know nothing of the margin.
                    return min(due, self.monotonic() + length)
                if self.monotonic() < due:
                    yield from self._wait(policy, sleeper, due)
                # 1 the call is counted, 2 this process is held up, 3 its function begins, late.
                # 4 A window after 1 another call is counted, and begins at once: too early.
                ahead = punctual.ahead(self.monotonic() - due)
                if not ahead:
                    break
            begins = True
            return None
        finally:
            # Also if the waiting coroutine is cancelled, which closes this generator.
            if not begins:
                self._windows.give_back(window, entry)

    def _ask(
        self, policy: ThrottlePolicy, sleeper: Sleeper, request: WindowRequest
    ) -> Steps[tuple[bool, float]]:
        """Return whether a call is counted, and the monotonic second at which it is or could be."""
        told = list[tuple[bool, float]]()
        began = self.monotonic()

        def hear(answer: WindowAnswer) -> None:
            # Never before it was asked for: the store measures real time.
            since = max(began, self.monotonic() - answer.age)
            told.append((answer.counted, since + answer.wait))
            sleeper.signal()

        self._windows.reserve(request, hear)
        while not (told or sleeper.interrupted) and self.monotonic() < began + _PATIENCE:
            yield partial(sleeper.wait, began + _PATIENCE)
        if not told and request.waits:
            yield from self._wait_for_store(policy, sleeper, told)
        if not told:
            raise StoreUnavailableError(
                f"no answer within {_PATIENCE:g} s whether the rate limit allows a call "
                f"({request.key}); its function was not called"
            )
        return told[0]

    def _wait_for_store(self, policy: ThrottlePolicy, sleeper: Sleeper, told: Sized) -> Steps[None]:
        """Sleep until the store has answered, or the framework shuts down.

        That counts towards the limit of the calling task, as every moment before the answer.

        Raises:
            TaskCancelledError: If the calling task is cancelled or ends first.
        """
        reason = f"waits for the store to say whether throttle {policy.name} allows a call"
        with Sleep(self, sleeper, reason) as sleep:
            while not told and not sleeper.interrupted:
                yield partial(sleeper.wait, None)
            if not told:
                sleep.raise_if_unwanted()

    def _wait(self, policy: ThrottlePolicy, sleeper: Sleeper, until: float) -> Steps[None]:
        """Sleep until a call may begin.

        Raises:
            RateLimitExceededError: If the framework shuts down first.
            TaskCancelledError: If the calling task is cancelled or ends first.
        """
        reason = throttle_reason(policy, until)
        # If another process goes on with it, it is counted there, and not here any more.
        pause = self.pause(until - self.monotonic(), begun=False)
        with Sleep(self, sleeper, reason, suspends=True, pause=pause) as sleep:
            self._announce("throttled", policy.name, until - self.monotonic(), None)
            while not sleeper.interrupted and self.monotonic() < until:
                yield partial(sleeper.wait, until)
        if not sleeper.interrupted:
            return
        sleep.raise_if_unwanted()
        self.leave_interrupted(until, PublishAgain("throttled", 0.0, None, reason))
        raise self.limit_error(policy, until)


def _window_key(policy: ThrottlePolicy, key: Hashable) -> str:
    if not policy.has_key:
        return policy.name
    return f"{policy.name}:{key_digest(stable_text(policy.name, 'key', key))}"
