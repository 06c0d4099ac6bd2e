"""The points of one run at which its process can die, and those at which it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Points:
    """Counts the points of one run.

    Args:
        deaths: The names of those at which the process dies, in their order.

    Attributes:
        met: The names of the points so far: what happens, and the how manyth time.
        died_at: Those at which the process has died.
    """

    def __init__(self, deaths: Sequence[str]) -> None:
        self.met: list[str] = []
        self.died_at: list[str] = []
        self._deaths = list(deaths)
        self._seen: Counter[str] = Counter()
        self._unseen = 0

    @property
    def missed(self) -> list[str]:
        """The names of the points at which the process was to die, and that it has not met."""
        return self._deaths

    def meet(self, what: str) -> bool:
        """Count a point; return whether the process dies there."""
        if self._unseen:
            return False
        self._seen[what] += 1
        name = f"{what} #{self._seen[what]}"
        self.met.append(name)
        if not self._deaths or self._deaths[0] != name:
            return False
        self.died_at.append(self._deaths.pop(0))
        return True

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Count no points inside the block."""
        self._unseen += 1
        try:
            yield
        finally:
            self._unseen -= 1
