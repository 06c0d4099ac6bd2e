"""Requests that a test makes again and again, while it waits for a task in a loop without a sleep.

Such a loop never waits, so that virtual time would stand still, and with it what the loop is
waiting for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final  # of httpx, whichever of its two packages it is

from pytest_asyncframe.clock import VirtualClock

FREE: Final = 5
"""How often a test may ask for the same at one moment of virtual time before time moves on."""

_SHORTEST: Final = 0.1
"""Seconds of the first pause."""

_SHARE: Final = 10
"""Later pauses are this part of the time for which the test has asked: an hour takes a hundred
requests, and the test finds the end late by a tenth at most."""


class Polling:
    """Lets time move on after a request that a test has made again and again.

    Args:
        clock: The test's.
        waits: Whether there is a task that has not ended.
        note: Called with a text when time begins to move for that reason.
    """

    def __init__(
        self, clock: VirtualClock, waits: Callable[[], bool], note: Callable[[str], object]
    ) -> None:
        self._clock = clock
        self._waits = waits
        self._note = note
        # By URL: how often it was asked for, and when first.
        self._asked: dict[str, tuple[int, float]] = {}
        # When the test has asked last, or its last pause has ended.
        self._moment = -1.0

    def hook(self, response: Any) -> None:
        """Take note of a response, and pause perhaps; a hook of ``httpx.Client``."""
        seconds = self._pause(response.request)
        if seconds:
            self._clock.sleep(seconds)
            self._moment = self._clock.monotonic()

    async def hook_on_loop(self, response: Any) -> None:
        """Do the same; a hook of ``httpx.AsyncClient``."""
        seconds = self._pause(response.request)
        if seconds:
            await asyncio.sleep(seconds)  # noqa: TID251  # of virtual time, on the test's loop
            self._moment = self._clock.monotonic()

    def _pause(self, request: Any) -> float:
        """Return the seconds to pause after a request, mostly 0."""
        method, url, now = request.method, str(request.url), self._clock.monotonic()
        if method not in ("GET", "HEAD") or now != self._moment:
            # Something is done, or time passes without this.
            self._asked.clear()
        self._moment = now
        count, since = self._asked.get(url, (0, now))
        count += 1
        self._asked[url] = count, since
        if count < FREE or not self._waits():
            return 0.0
        if count == FREE:
            path = request.url.path
            self._note(f"asks again and again for {path}: time moves on after each answer")
        return max(_SHORTEST, (now - since) / _SHARE)
