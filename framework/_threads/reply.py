"""A reply: one answer of another thread, which a thread or a coroutine waits for.

Guarantees: the first answer counts. Who waits is woken once, or has lost patience before.
Lock order: only that of the waiter is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeAlias, TypeVar

from framework._threads.waiters import LoopWaiter, Mailboxes, ThreadWaiter
from framework.protocols import Clock

T = TypeVar("T")


class Reply(Generic[T]):
    """One answer that is awaited where this is made: on the loop that runs here, or by a thread.

    Args:
        clock: Measures the patience.
        boxes: The mailboxes of the event loops.
        patience: How many seconds to wait at most, above 0; None for as long as it takes.
    """

    __slots__ = ("_answers", "_clock", "_patience", "_waiter")

    def __init__(self, clock: Clock, boxes: Mailboxes, patience: float | None = None) -> None:
        self._clock = clock
        self._patience = patience
        on_loop = asyncio._get_running_loop() is not None
        self._waiter = LoopWaiter(boxes) if on_loop else ThreadWaiter(clock)
        self._answers: list[T] = []

    @property
    def has_come(self) -> bool:
        """Whether there is an answer."""
        return bool(self._answers)

    @property
    def answer(self) -> T:
        """The answer; raises IndexError as long as there is none."""
        return self._answers[0]

    def give(self, answer: T) -> None:
        """Give the answer; any thread. Only the first one counts."""
        self._answers.append(answer)
        self._waiter.wake()

    def wait(self) -> Any:
        """Wait until there is an answer, or patience is lost.

        Returns:
            On a loop, what a coroutine awaits until then; a thread is blocked until then.
        """
        return self._come() if isinstance(self._waiter, LoopWaiter) else self._block(self._waiter)

    def _block(self, waiter: ThreadWaiter) -> None:
        until = None if self._patience is None else self._clock.monotonic() + self._patience
        while waiter.wait(until) is None:
            pass

    async def _come(self) -> None:
        waiter, timer = self._waiter, None
        assert isinstance(waiter, LoopWaiter)
        if self._patience is not None:
            timer = self._clock.call_at(self._clock.monotonic() + self._patience, waiter.wake)
        try:
            await waiter.future
        finally:
            if timer is not None:
                timer.cancel()


Steps: TypeAlias = Generator[Callable[[], Any], None, T]
"""What returns something after some waits, and is closed if whoever waits is cancelled.

It yields what to call for each wait, on a loop in order to await the result.
"""


def block(steps: Steps[T]) -> T:
    """Take *steps* to their end on this thread, and return what they return."""
    try:
        wait = next(steps)
        try:
            while True:
                wait()
                wait = next(steps)
        finally:
            steps.close()
    except StopIteration as stop:
        result: T = stop.value
        return result


async def suspend(steps: Steps[T]) -> T:
    """Take *steps* to their end on this loop, and return what they return."""
    try:
        wait = next(steps)
        try:
            while True:
                await wait()
                wait = next(steps)
        finally:
            steps.close()
    except StopIteration as stop:
        result: T = stop.value
        return result
