"""Telling of what happens to tasks: to each sink, of the kinds that it wants to hear of.

Guarantees: the events of one task are told one after the other, in the order in which they
happened, whichever threads they happened on; a sink that raises is logged, and keeps the
event from nobody else; what nobody hears of costs nothing.
Relies on: `note` being called in the same hold of the lock as the change that it is about.
Lock order: `lock` guards subscriptions, and in the ledger everything else; sinks are
called without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from framework._tasks.live import LiveTask, Outbox
from framework._tasks.records import TaskEvent, TaskRecord, TaskStatus
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

    def enqueue(self, task: LiveTask, kind: str, **more: Any) -> None:
        """Note an event of *task*, if anybody hears of its kind; `tell` then tells of it.

        With the lock held, so that events stand in the order of the changes they are about.
        """
        if kind not in self.sinks:
            return
        outbox = task.outbox
        if outbox is None:
            outbox = task.outbox = Outbox()
        outbox.entries.append((kind, task.status, task.attempts, more))

    def flush(self, task: LiveTask) -> None:
        """Tell of what was noted of *task*; without the lock, and only after `note`.

        If another thread, or a sink further up on this one, is in the middle of it, that
        one goes on with what was noted since.
        """
        outbox = task.outbox
        assert outbox is not None
        # Looked at again after the teller has let go: 1 it finds nothing more, 2 another
        # thread notes something and leaves it to the teller, 3 the teller lets go.
        while outbox.entries:
            if not outbox.teller.acquire(blocking=False):
                return
            try:
                while outbox.entries:
                    kind, status, attempts, more = outbox.entries.pop(0)
                    self.emit(kind, task, status, attempts, **more)
            finally:
                outbox.teller.release()

    def emit(
        self, kind: str, record: TaskRecord, status: TaskStatus, attempts: int, **more: Any
    ) -> None:
        """Tell at once of an event of *record*, which had this status and so many attempts."""
        if kind not in self.sinks:
            return
        self.publish(
            TaskEvent(
                kind,
                record.task_id,
                record.name,
                self.clock.monotonic(),
                self.clock.time(),
                attempt=attempts,
                status=status,
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
                _LOGGER.exception("an event sink raised an error on %r", event.kind)

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
