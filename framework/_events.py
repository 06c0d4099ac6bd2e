"""Telling of what happens to tasks: to each sink, of the kinds that it wants to hear of.

Guarantees: a sink that raises is logged, and keeps the event from nobody else; what nobody
hears of costs nothing.
Lock order: `lock` guards subscriptions, and in the ledger everything else; sinks are
called without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from framework._records import TaskEvent, TaskRecord
from framework.protocols import Clock, EventSink

_LOGGER = logging.getLogger("asyncframe")


class Events:
    """The subscriptions of one manager.

    Args:
        clock: Time for stamps.

    Attributes:
        sinks: Who hears of each kind of event; empty while nobody hears of any.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.sinks: dict[str, tuple[EventSink, ...]] = {}
        self._subscriptions: list[_Subscription] = []

    def emit(self, kind: str, record: TaskRecord, **more: Any) -> None:
        """Tell of an event of *record*; call only if there are sinks."""
        if kind not in self.sinks:
            return
        self.publish(
            TaskEvent(
                kind,
                record.task_id,
                record.name,
                self.clock.monotonic(),
                self.clock.time(),
                attempt=record.attempts,
                status=record.status,
                origin=record.origin,
                **more,
            )
        )

    def publish(self, event: TaskEvent) -> None:
        """Tell every sink of its kind of *event*; one that raises is logged."""
        for sink in self.sinks.get(event.kind, ()):
            try:
                sink(event)
            except BaseException:  # a sink is a guest; it may end neither worker nor loop
                _LOGGER.exception("an event sink raised on %r", event.kind)

    def subscribe(self, sink: EventSink, kinds: Collection[str]) -> Callable[[], None]:
        """Add *sink* for some kinds of events; return what takes it off again."""
        # Told apart by identity: the same sink may be there twice.
        entry = _Subscription(sink, kinds)
        with self.lock:
            self._subscriptions.append(entry)
            self.sinks = _by_kind(self._subscriptions)

        def unsubscribe() -> None:
            with self.lock:
                if entry in self._subscriptions:
                    self._subscriptions.remove(entry)
                    self.sinks = _by_kind(self._subscriptions)

        return unsubscribe


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    sink: EventSink
    kinds: Collection[str]


def _by_kind(subscriptions: list[_Subscription]) -> dict[str, tuple[EventSink, ...]]:
    sinks: dict[str, tuple[EventSink, ...]] = {}
    for one in subscriptions:
        for kind in one.kinds:
            sinks[kind] = (*sinks.get(kind, ()), one.sink)
    return sinks
