"""Threads that run one at a time, and hand over where a schedule says so."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from tests.patience import PATIENCE

Calling = Callable[[Callable[[str, str], object]], AbstractContextManager[None]]


class Relay:
    """Runs functions on threads of their own, one at a time, the first one first.

    Args:
        functions: What to run.
        switches: The numbers of the points, from 0 in the order in which they come, at which
            the next thread runs on instead.
        begin_thread: Called on each thread first.

    Attributes:
        points: The kinds and names of the points that were reached.
        errors: What the functions have raised.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[], object]],
        switches: Sequence[int],
        begin_thread: Callable[[], object],
    ) -> None:
        self._functions = functions
        self._switches = switches
        self._begin_thread = begin_thread
        self._gates = [_thread.allocate_lock() for _ in functions]
        self._left = list(range(len(functions)))
        self._here = threading.local()
        self.points: list[tuple[str, str]] = []
        self.errors: list[BaseException] = []

    def run(self, calling: Calling) -> None:
        """Run all functions to their end."""
        for gate in self._gates:
            gate.acquire()
        numbers = range(len(self._functions))
        threads = [threading.Thread(target=self._run_one, args=(number,)) for number in numbers]
        with calling(self.point):
            for thread in threads:
                thread.start()
            self._gates[0].release()
            for thread in threads:
                thread.join(PATIENCE)

    def _run_one(self, number: int) -> None:
        self._here.number = number
        assert self._gates[number].acquire(timeout=PATIENCE)
        self._begin_thread()
        try:
            self._functions[number]()
        except BaseException as error:  # the test looks at it
            self.errors.append(error)
        others = self._others(number)
        self._left.remove(number)
        if others:
            self._gates[others[0]].release()

    def _others(self, number: int) -> list[int]:
        """Return those that have not ended, the next one first."""
        return [one for one in self._left if one > number] + [
            one for one in self._left if one < number
        ]

    def point(self, kind: str, what: str) -> None:
        """Let the next thread run on, if the schedule says so; do nothing on other threads."""
        number: int | None = getattr(self._here, "number", None)
        if number is None:
            return
        place = len(self.points)
        self.points.append((kind, what))
        others = self._others(number)
        if place in self._switches and others:
            self._gates[others[0]].release()
            assert self._gates[number].acquire(timeout=PATIENCE)


def schedules(run: Callable[[Sequence[int]], int], most: int) -> Iterator[Sequence[int]]:
    """Run all schedules with at most *most* switches; yield each one after it was run.

    Args:
        run: Runs a schedule; returns how many points it has reached.
        most: How many switches.
    """
    todo: list[tuple[int, ...]] = [()]
    while todo:
        switches = todo.pop()
        reached = run(switches)
        yield switches
        if len(switches) < most:
            first = switches[-1] + 1 if switches else 0
            todo += [(*switches, place) for place in range(first, reached)]
