"""The policy that runs all schedules, or all with few preemptions.

Source:
    M. Musuvathi, S. Qadeer, "Iterative Context Bounding for Systematic Testing of Multithreaded
    Programs", PLDI 2007; M. Musuvathi and others, "Finding and Reproducing Heisenbugs in
    Concurrent Programs", OSDI 2008.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_asyncframe._explore.policies.search import Level, Search
from pytest_asyncframe._explore.schedule import Default, Step, Strategy


class ExhaustivePolicy:
    """All schedules, those with fewer preemptions first.

    Which of several actors comes next, where none could go on by itself, is no preemption: all
    those choices are made at each bound.

    Args:
        most: The most preemptions of a schedule, 0 or more; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._search = Search(self._level, deep=True)
        self._begun = False

    def _level(self, deviations: int, preemptions: int) -> Level | None:
        if self._most is not None and preemptions > self._most:
            return None
        return (preemptions, 0)

    def next(self) -> Strategy | None:
        """Return the strategy of the next run; see `Policy`."""
        if not self._begun:
            self._begun = True
            return Default()
        return self._search.take()

    def ended(self, steps: Sequence[Step]) -> None:
        """Find the schedules that differ from the latest run behind its last deviation."""
        self._search.ended(steps)

    def proof(self, runs: int) -> str:
        """Say what *runs* runs without a failure prove; see `Policy`."""
        return self._search.proof(runs, "preemption")
