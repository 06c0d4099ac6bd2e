"""The windows of throttles that all workers of a namespace share."""

from __future__ import annotations

from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.state import State


class Windows:
    """The windows in a Redis.

    Thread rule: every method blocks for a round trip.

    Args:
        state: The Redis.
    """

    def __init__(self, state: State) -> None:
        self._prefix = state.prefix
        self._client = state.client
        self._throttle = state.script(scripts.THROTTLE)
        self._restamp = state.script(scripts.RESTAMP)

    def take(self, key: str, rate: int, window: float, who: str) -> tuple[float | None, int]:
        """Count a call, or return when to try again.

        Args:
            key: Of the window.
            rate: Calls per window.
            window: Seconds.
            who: The caller that keeps a place in the queue; "" for none.

        Returns:
            None and the call's number, or the seconds until the next try and 0.
        """
        stamps = f"{self._prefix}throttle:{key}"
        answer = self._throttle([stamps, f"{stamps}:w"], [rate, repr(window), who])
        return (None, -answer) if answer < 0 else (answer / 1e6, 0)

    def restamp(self, key: str, number: int, window: float, ahead: float) -> bool:
        """Move a call to *ahead* seconds from now; False if its window has passed."""
        stamps = f"{self._prefix}throttle:{key}"
        return bool(self._restamp([stamps], [number, repr(window), repr(ahead)]))

    def leave(self, key: str, who: str) -> None:
        """Leave a throttle's queue without being counted."""
        self._client.zrem(f"{self._prefix}throttle:{key}:w", who)
