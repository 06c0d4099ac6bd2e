"""Blocking calls at the start and the end of an app, which must not hold up its event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from framework._manager.drain import Reminder, at_most
from framework._records.reasons import span
from framework._threads.loggers import SafeLogger
from framework._threads.user_threads import LIFESPAN
from framework._threads.waiters import LoopSleeper
from framework.protocols import Clock

_LOGGER = SafeLogger("asyncframe")


async def in_thread(
    call: Callable[[], object], clock: Clock, what: str = "", most: float = 0.0
) -> None:
    """Run *call*, which blocks, on a separate thread; wait for it and raise its error.

    Args:
        call: What to run.
        clock: The framework's clock.
        what: What a shutdown waits for meanwhile, for the log; "" if it is no shutdown.
        most: How many seconds that may take.
    """
    sleeper, ended = LoopSleeper(clock), threading.Event()
    raised: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as error:  # re-raised in the waiting coroutine
            raised.append(error)
        finally:
            ended.set()
            sleeper.signal()

    thread = threading.Thread(target=body, name=LIFESPAN, daemon=True)
    reminder = Reminder(clock, _later, sleeper.signal) if what else None
    try:
        thread.start()
        while not ended.is_set():
            await sleeper.wait(None)
            passed = None if reminder is None or ended.is_set() else reminder.passed()
            if passed is not None:
                _LOGGER.warning(
                    "shutting down: still waiting after %s for %s, %s",
                    span(passed),
                    what,
                    at_most(most - passed),
                )
    finally:
        if reminder is not None:
            reminder.stop()
    thread.join()
    if raised:
        raise raised[0]


def _later(seconds: float, call: Callable[[], None]) -> Callable[[], object]:
    # The timers of the loop, since a clock that is being closed waits for its own to fire.
    return asyncio.get_running_loop().call_later(seconds, call).cancel
