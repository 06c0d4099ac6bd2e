"""Shared windows: throttles whose calls are counted for all processes, by their store.

Each call is counted at the time at which it may begin: now, or one window after the call that
used the same slot. One whose turn is more than a moment away is not counted yet: it stands in the
line of its window, sleeps or rests until just before its turn, and asks again. So calls that wait
come in their order, in whichever process they are, nobody polls, and one that is late, or never
comes, keeps nobody from being counted. A task that rests keeps its number in the line in its row,
so that the process that goes on with it asks as the same call.

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
from dataclasses import replace
from functools import partial
from typing import Final

from framework._records.ids import random_id
from framework._records.records import Restart
from framework._running.endings import Endings
from framework._running.outcomes import PublishAgain
from framework._running.waits.own import is_own
from framework._running.waits.policies import (
    LONG,
    Policies,
    Rests,
    Sleep,
    raise_if_unwanted,
)
from framework._running.waits.punctual import Punctual
from framework._running.waits.throttle import ThrottlePolicy, throttle_reason
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

_LEAD: Final = 0.1
"""How many seconds before its turn a call asks again that stands in the line."""

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
        length, waits = policy.window, policy.options["when_limited"] == "wait"
        margin = min(_MARGIN, length / _SHARE)
        window, entry = _window_key(policy, key), random_id()
        request = WindowRequest(
            *(window, entry, policy.options["rate_limit"], length + margin, 0.0, waits, LONG),
            place=entry,
        )
        task = current_record.get() if waits and is_own() else None
        restart = None if task is None else task.restart
        if task is not None and restart is not None:
            # If it stands in the line already, in whichever process, it goes on there.
            request = replace(request, place=task.task_id, number=restart.number)
        punctual, begins = Punctual(margin), False
        try:
            for _ in range(_TRIES):
                answer, due = yield from self._stand(policy, sleeper, request, restart)
                if not answer.counted:
                    # Callers know nothing of the margin.
                    return min(due, self.monotonic() + length)
                if self.monotonic() < due:
                    announces = not answer.number
                    yield from self._wait(policy, sleeper, due, due, announces=announces)
                # 1 the call is counted, 2 this process is held up, 3 its function begins, late.
                # 4 A window after 1 another call is counted, and begins at once: too early.
                ahead = punctual.ahead(self.monotonic() - due)
                if not ahead:
                    break
                request = replace(request, ahead=ahead, number=answer.number)
            begins = True
            return None
        finally:
            # Also if the waiting coroutine is cancelled, which closes this generator.
            if not begins:
                self._windows.give_back(window, entry)
            elif restart is not None:
                restart.number = 0

    def _stand(
        self,
        policy: ThrottlePolicy,
        sleeper: Sleeper,
        request: WindowRequest,
        restart: Restart | None,
    ) -> Steps[tuple[WindowAnswer, float]]:
        """Stand in the line of a window until a call is counted, or refused if it does not wait.

        Args:
            policy: Its throttle.
            sleeper: What the caller waits with.
            request: What it asks for.
            restart: Keeps its number if its task leaves its function meanwhile; None if that is
                not the task's own wait.

        Returns:
            The answer, and the monotonic second at which it is or could be counted.
        """
        while True:
            answer, since = yield from self._ask(policy, sleeper, request)
            due = since + answer.wait
            if request.ahead:
                # While this process stood still, the others may have ended the task.
                raise_if_unwanted(current_record.get())
            if answer.counted or not request.waits:
                return answer, due
            if restart is not None:
                restart.number = answer.number
            announces = not request.number
            yield from self._wait(policy, sleeper, due - _LEAD, due, announces=announces)
            request = replace(request, number=answer.number)

    def _ask(
        self, policy: ThrottlePolicy, sleeper: Sleeper, request: WindowRequest
    ) -> Steps[tuple[WindowAnswer, float]]:
        """Return the answer of the store, and since which monotonic second it counts."""
        told = list[tuple[WindowAnswer, float]]()
        began = self.monotonic()

        def hear(answer: WindowAnswer) -> None:
            # Never before it was asked for: the store measures real time.
            told.append((answer, max(began, self.monotonic() - answer.age)))
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
            PublishAgain: If the framework shuts down first, and another process may go on with it.
            TaskCancelledError: If the calling task is cancelled or ends first.
        """
        reason = f"waits for the store to say whether throttle {policy.name} allows a call"
        # Another process asks anew.
        pause = self.pause(0.0, begun=False)
        with Sleep(self, sleeper, reason, pause=pause) as sleep:
            while not told and not sleeper.interrupted:
                yield partial(sleeper.wait, None)
            if not told:
                sleep.raise_if_unwanted()
        if not told:
            again = PublishAgain("throttled", 0.0, None, reason)
            self.leave_interrupted(self.monotonic(), again)

    def _wait(
        self,
        policy: ThrottlePolicy,
        sleeper: Sleeper,
        until: float,
        turn: float,
        *,
        announces: bool,
    ) -> Steps[None]:
        """Sleep until a call may begin or ask again, or let its task wait outside.

        Args:
            policy: Its throttle.
            sleeper: What the caller waits with.
            until: Until which monotonic second.
            turn: When it may begin.
            announces: Whether nobody has heard yet that it waits.

        Raises:
            PublishAgain: If its task is to wait outside.
            RateLimitExceededError: If the framework shuts down first.
            TaskCancelledError: If the calling task is cancelled or ends first.
        """
        reason, delay = throttle_reason(policy, turn), max(0.0, until - self.monotonic())
        again = PublishAgain("throttled", delay, None, reason)
        # It has to be counted where it goes on, and not here any more.
        pause = self.pause(delay, begun=False)
        if pause is not None:
            self.leave_long(pause, again, announces=announces)
        with Sleep(self, sleeper, reason, suspends=True, pause=pause) as sleep:
            if announces:
                self._announce("throttled", policy.name, turn - self.monotonic(), None)
            while not sleeper.interrupted and self.monotonic() < until:
                yield partial(sleeper.wait, until)
        if not sleeper.interrupted:
            return
        sleep.raise_if_unwanted()
        self.leave_interrupted(until, again)
        raise self.limit_error(policy, turn)


def _window_key(policy: ThrottlePolicy, key: Hashable) -> str:
    if not policy.has_key:
        return policy.name
    return f"{policy.name}:{key_digest(stable_text(policy.name, 'key', key))}"
