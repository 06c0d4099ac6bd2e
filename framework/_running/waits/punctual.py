"""Calls whose functions begin a little after they were counted, and never much later.

Between the two a process may be held up for any time: by a slow answer, or because somebody
suspends it. A function that begins long after its call was counted falls into a window that others
have filled meanwhile. So such a call is counted anew before its function begins.
"""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 1.0
"""Seconds by which a call is counted ahead at most the first time; four times that the next."""

_GROWTH: Final = 4.0


class Punctual:
    """Decides whether one call may begin, or has to be counted anew.

    Args:
        margin: How many seconds after it was counted its function may begin.
    """

    __slots__ = ("_ahead", "_longest", "_margin")

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._ahead = 0.0
        self._longest = _LONGEST

    def ahead(self, late: float) -> float:
        """Return how many seconds ahead to count the call anew; 0.0 if it may begin now.

        That is twice what held it up, so that it is in time if the same holds it up again. But a
        process that was suspended for long is not held up as long again.

        Args:
            late: How many seconds ago it was counted, at most; below 0 for one in the future.
        """
        if late <= self._margin:
            return 0.0
        self._ahead = min(2 * (late + self._ahead), self._longest)
        self._longest *= _GROWTH
        return self._ahead
