"""What hears the events of each framework that a test has: a process that dies gets another one."""

from __future__ import annotations

from collections.abc import Callable, Collection

from framework import TaskManager
from framework.protocols import EventSink


class Sinks:
    """Sinks that are subscribed to one framework after the other."""

    def __init__(self) -> None:
        self._kinds: dict[EventSink, Collection[str] | None] = {}
        self._ends: dict[EventSink, Callable[[], object]] = {}
        self._manager: TaskManager | None = None

    def attach(self, manager: TaskManager) -> None:
        """Subscribe all of them to a framework, which takes the place of the one before."""
        self._manager = manager
        for sink in self._kinds:
            self._begin(sink)

    def add(self, sink: EventSink, kinds: Collection[str] | None = None) -> Callable[[], None]:
        """Subscribe one of them, to a framework that is there and to those after it.

        Args:
            sink: Called with each event.
            kinds: The kinds of events; None for all.

        Returns:
            Ends it.
        """
        self._kinds[sink] = kinds
        self._begin(sink)

        def end() -> None:
            del self._kinds[sink]
            self._ends.pop(sink)()

        return end

    def _begin(self, sink: EventSink) -> None:
        assert self._manager is not None
        self._ends[sink] = self._manager.subscribe(sink, kinds=self._kinds[sink])
