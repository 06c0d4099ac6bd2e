"""Events: what happens to tasks, for the sinks that have subscribed to it.

Guarantees: the events of one task are published one at a time and in the order in which
they happened, whichever threads they happened on; the error of a sink is logged, and the
other sinks are called all the same; events without a sink cost nothing.
Relies on: the caller of `enqueue` still holding the lock with which it made the change.
Lock order: `lock` guards the subscriptions, and in the ledger everything else; sinks are
called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from framework._records.records import TaskEvent, TaskRecord
from framework._records.statuses import END_KINDS, TaskStatus
from framework._tasks.live import CARRIED, LiveTask, Outbox
from framework._threads.loggers import SafeLogger
from framework.protocols import Clock, EventSink, StepTracer, TaskTracer

_LOGGER = SafeLogger("asyncframe")


class Events:
    """The subscriptions of one manager.

    Args:
        clock: Time for stamps.

    Attributes:
        sinks: The sinks of each kind of event; empty if there are no sinks.
        tracers: The sinks that are tracers as well.
        step_tracers: Those that are also told of steps.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.sinks: dict[str, tuple[EventSink, ...]] = {}
        self.tracers: tuple[TaskTracer, ...] = ()
        self.step_tracers: tuple[StepTracer, ...] = ()
        self._subscriptions: dict[object, tuple[EventSink, Collection[str]]] = {}

    def enqueue(self, task: LiveTask, kind: str, **more: Any) -> None:
        """Add an event to the outbox of *task*, if its kind has a sink; `flush` publishes it.

        Called with the lock held, so that events are in the order of the changes.
        """
        if kind not in self.sinks:
            return
        outbox = task.outbox
        if outbox is None:
            outbox = task.outbox = Outbox()
        outbox.entries.append((kind, task.status, task.attempts, more))

    def flush(self, task: LiveTask) -> None:
        """Publish the events in the outbox of *task*, which must have one; without the lock.

        If another thread, or a sink further up on this thread's stack, is doing so already,
        it will publish the new events as well.
        """
        outbox = task.outbox
        assert outbox is not None
        # Checked again after the release, for this order: 1 this thread finds the outbox
        # empty, 2 another one adds an event and cannot acquire, 3 this thread releases.
        while outbox.entries:
            if not outbox.publishing.acquire(blocking=False):
                return
            try:
                while outbox.entries:
                    kind, status, attempts, more = outbox.entries.pop(0)
                    self.emit(kind, task, status, attempts, **more)
            finally:
                outbox.publishing.release()

    def publish_evicted(self, record: TaskRecord) -> None:
        """Publish that a finished task was removed; comes after the event of its end."""
        if isinstance(record, LiveTask):
            with self.lock:
                self.enqueue(record, "evicted")
            if record.outbox is not None:
                self.flush(record)
        else:
            self.emit("evicted", record, record.status, record.attempts)

    def emit(
        self, kind: str, record: TaskRecord, status: TaskStatus, attempts: int, **more: Any
    ) -> None:
        """Publish an event of *record* now, with the status and attempts that it had then."""
        if kind not in self.sinks:
            return
        if kind in END_KINDS and record.started is not None and record.ended is not None:
            more["wait_time"] = record.started - record.queued
            more["duration"] = record.ended - record.started
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
        """Call every sink of this kind of event; the error of a sink is logged."""
        for sink in self.sinks.get(event.kind, ()):
            try:
                sink(event)
            except BaseException:  # a user's sink must not end a thread or a loop
                _LOGGER.exception("an event sink raised an error on %r", event.kind)

    def subscribe(self, sink: EventSink, kinds: Collection[str]) -> Callable[[], None]:
        """Add a sink for some kinds of events; return a function that removes it."""
        # Not by the sink, which may be subscribed twice.
        key = object()
        with self.lock:
            self._subscriptions[key] = sink, kinds
            self._arrange()

        def unsubscribe() -> None:
            with self.lock:
                if self._subscriptions.pop(key, None) is not None:
                    self._arrange()

        return unsubscribe

    def _arrange(self) -> None:
        """Sort the subscriptions by kind, and find the tracers; with the lock held."""
        chosen: dict[str, tuple[EventSink, ...]] = {}
        tracers, step_tracers = [], []
        for sink, kinds in self._subscriptions.values():
            for kind in kinds:
                chosen[kind] = (*chosen.get(kind, ()), sink)
            # The method first: the check of a protocol takes long.
            if hasattr(sink, "starting") and isinstance(sink, TaskTracer):
                tracers.append(sink)
            if hasattr(sink, "starting_step") and isinstance(sink, StepTracer):
                step_tracers.append(sink)
        self.tracers, self.step_tracers = tuple(tracers), tuple(step_tracers)
        if self.tracers:
            # They are called together with these events, even if they did not ask for them.
            chosen = {"submitted": (), "started": ()} | chosen
        self.sinks = chosen

    # -- tracers

    def flush_submitted(self, task: LiveTask) -> None:
        """Publish that a task was submitted, in the context of the caller; as `flush` does."""
        restart = None if task.rest is None else task.restart
        # Where it was submitted in a transaction, they were told already.
        if restart is None or not restart.carried:
            carried = self.carried_by(task)
            context = task.context
            if self.tracers and context is not None:
                context.run(CARRIED.set, carried)
            if restart is not None:
                restart.carried = carried
        self.flush(task)

    def carried_by(self, task: LiveTask) -> dict[str, str]:
        """Tell the tracers that a task is submitted here, and return what travels with it."""
        carried: dict[str, str] = {}
        self._tell(lambda tracer: carried.update(tracer.submitted(task) or {}))
        return carried

    def flush_started(self, task: LiveTask) -> None:
        """Publish that a task starts here, and let the tracers prepare its context.

        Called before the context is entered. In a second run of the same task, which only the
        fault of a test makes, another thread may be in its context.
        """
        context = task.context
        self.flush(task)
        if self.tracers and task.bodies == 1 and context is not None:
            carried = context.get(CARRIED)
            self._tell(lambda tracer: context.run(tracer.starting, task, carried))

    def tell_leaving(
        self, task: LiveTask, kind: str, delay: float, error: BaseException | None
    ) -> None:
        """Tell the tracers that a task goes on in another process."""
        self._tell(lambda tracer: tracer.leaving(task, kind, delay, error))

    @contextmanager
    def step(self, record: TaskRecord, name: str) -> Iterator[None]:
        """Tell the tracers of steps that the body of one runs inside the block, and how it ends."""
        ends: list[Callable[[BaseException | None], object]] = []
        for tracer in self.step_tracers:
            with _logged():
                ends.append(tracer.starting_step(record, name))
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            # What one has set in the context, it takes back before those around it do.
            for end in reversed(ends):
                with _logged():
                    end(error)

    def _tell(self, call: Callable[[TaskTracer], object]) -> None:
        """Call each tracer; an error is logged."""
        for tracer in self.tracers:
            with _logged():
                call(tracer)


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except Exception:  # a user's tracer must not keep a task from running
        _LOGGER.exception("a tracer raised an error")
