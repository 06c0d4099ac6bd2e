"""Records a test's tasks: their submissions with arguments, and everything that happened.

Relies on: events being sent on the thread where they happen, and the frames of threads and
coroutines, to say where a task is.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from framework import current_task
from framework.protocols import Interceptor, TaskEvent, TaskRecord
from framework.testing import call_of, call_to_replay, driver_of, function_name
from pytest_asyncframe._locations import at, inwards, location_of, outwards, users_frame
from pytest_asyncframe._seen import entries
from pytest_asyncframe._seen.entries import OWN_ENDS, Injected, Moment, Submission, unwrapped


class _VirtualClock(Protocol):
    """What the recorder needs of a `VirtualClock`."""

    on_sleep: Callable[[float], object] | None
    test: asyncio.Task[Any] | None
    label: Callable[[object], tuple[str, str]]

    @property
    def firing(self) -> bool: ...

    def explain(self) -> str:
        """Return the pending timers, a line each."""
        ...


class Injector(Protocol):
    """Injects faults into tasks; see `protocols.Interceptor` for what may be raised when."""

    def before_accept(self, one: Submission) -> None:
        """Called with a task that is about to be accepted."""

    def around_attempt(self, one: Submission, call: Callable[[], Any]) -> Any:
        """Run one attempt of a task."""

    def after_event(self, one: Submission, kind: str) -> None:
        """Called in a task after an event."""

    @property
    def is_searching(self) -> bool:
        """Whether faults may take place that no test has planned."""
        return False


class Recorder(Interceptor):
    """Records every task of one test.

    Args:
        monotonic: Returns the seconds of the test's clock.

    Attributes:
        submissions: The accepted tasks, in order.
        starts: The starts of function bodies, roughly in order.
        events: The events of tasks, in order.
        moments: Everything that happened, with where it happened.
        begun: When the test started, in seconds of its clock.
        snapshots: One for each error that ended the test or a client.
        pollers: Functions, or their names, whose tasks run until the app stops.
        injector: Injects faults; None if the test plans none.
        delivered_again: The tasks that were delivered twice, in the order of their starts.
        admit: Returns the record to keep of a task that is about to be accepted, or raises; None
            for its own.
        accepted: Called with a task that was accepted; None for nothing.
        to_replay: For each task that has begun, what `framework.testing.replay_tasks` needs; None
            if it is not to be replayed.
    """

    injector: Injector | None = None

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.pollers: tuple[Callable[..., Any] | str, ...] = ()
        self.submissions: list[Submission] = []
        self.starts: list[entries.Start] = []
        self.events: list[TaskEvent] = []
        self.moments: list[Moment] = []
        self.begun: float = 0.0
        self.snapshots: list[entries.Snapshot] = []
        self.delivered_again: dict[TaskRecord, None] = {}
        self.to_replay: dict[TaskRecord, str | None] = {}
        self.admit: Callable[[TaskRecord], TaskRecord] | None = None
        self.accepted: Callable[[TaskRecord], object] | None = None
        self._monotonic = monotonic
        self._clock: _VirtualClock | None = None
        self._offered: dict[str, Submission] = {}
        self._latest: dict[str, Submission] = {}
        self._bodies: dict[TaskRecord, weakref.ref[Any]] = {}
        self._last: dict[TaskRecord, Moment] = {}
        self._loops: dict[asyncio.AbstractEventLoop, str] = {}
        self._test_thread = threading.get_ident()
        self._watchers: dict[TaskRecord, list[Callable[[], object]]] = {}
        self._settling: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def begin(self, clock: _VirtualClock | None) -> None:
        """Start recording, sleeps too if the *clock* is virtual."""
        self.begun = self._monotonic()
        self._clock = clock
        if clock is not None:
            clock.on_sleep = self.slept
            clock.label = self.label

    # -- called by the framework

    def before_accept(self, record: TaskRecord) -> None:
        """Record a task that is about to be accepted."""
        call = call_of(record)
        # It becomes a submission with its event, since it may yet be refused.
        one = Submission(record if self.admit is None else self.admit(record), call)
        self._offered[record.task_id] = one
        if self.injector is not None:
            self.injector.before_accept(one)

    def around_attempt(
        self, record: TaskRecord, attempt: int, call: Callable[[], Any]
    ) -> Any:  # Any: whatever the task returns
        """Record the start of an attempt."""
        one = self._submission(record)
        if record not in self.to_replay:
            self.to_replay[record] = call_to_replay(record)
        if one is not None:
            if not one.call.throttled:
                self.starts.append(entries.Start(self._monotonic(), one))
            self._add(attempt, record)
        injector = self.injector
        made = call() if injector is None or one is None else injector.around_attempt(one, call)
        if inspect.iscoroutine(made):
            self._bodies[record] = weakref.ref(made)
        return made

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """Record the start of a throttled call."""
        one = None if record is None else self._submission(record)
        if one is not None and not (one.call.throttled and function_name(one.call.fn) == name):
            one = None
        self.starts.append(entries.Start(at, one, name))

    def after_event(self, record: TaskRecord, kind: str) -> None:
        """Let a fault end a task after an event."""
        one = None if self.injector is None else self._submission(record)
        if one is not None and self.injector is not None:
            self.injector.after_event(one, kind)

    def on_event(self, event: TaskEvent) -> None:
        """Record an event, and notify those who wait for the task; see `protocols.EventSink`."""
        if event.kind == "submitted":
            self._accept(event)
        self.events.append(event)
        record = None if event.task_id is None else self.record(event.task_id)
        location = ""
        if record is not None and event.duration is not None and event.status not in OWN_ENDS:
            _, on_thread = self._thread_locations().get(record, ("", ""))
            location = self._body_location(record) or on_thread
        self._add(event, record, location, event.at)
        if record is not None and event.status is not None and event.status.is_final:
            self.tell_end(record)

    def _accept(self, event: TaskEvent) -> None:
        one = self._offered.pop(str(event.task_id), None)
        if one is not None:
            self._latest[one.record.task_id] = one
            self.submissions.append(one)
            if self.accepted is not None:
                self.accepted(one.record)

    @contextmanager
    def watching(
        self, record: TaskRecord, call: Callable[[], object], *, both: bool = False
    ) -> Iterator[None]:
        """Call *call* once the task has ended, while the block lasts; at once if it has.

        It may be called twice, and on any thread.

        Args:
            record: The task.
            call: What to call.
            both: Whether not to call it at once while a task that was delivered twice still
                runs; its end is then another one.
        """
        with self._lock:
            self._watchers.setdefault(record, []).append(call)
        try:
            if record.status.is_final and not (both and self._is_running_again(record)):
                call()
            yield
        finally:
            # Nobody waits any more, and the waiter's loop may be closed when the task ends.
            with self._lock:
                left = self._watchers.get(record, [])
                if call in left:
                    left.remove(call)
                if not left:
                    self._watchers.pop(record, None)

    @contextmanager
    def settling(self, call: Callable[[], object]) -> Iterator[None]:
        """Call *call* when a task has ended and none is unsettled, while the block lasts.

        At once if none is now. So it is not called at the end of each task: who waits for all
        of them goes on once. It may be called several times, and on any thread.
        """
        with self._lock:
            self._settling.append(call)
        try:
            if not self.unsettled:
                call()
            yield
        finally:
            with self._lock:
                self._settling.remove(call)

    def forget(self, record: TaskRecord) -> None:
        """Drop a task that never was, and call what waits for it."""
        self.submissions = [one for one in self.submissions if one.record is not record]
        latest = self._latest.get(record.task_id)
        if latest is not None and latest.record is record:
            del self._latest[record.task_id]
        self.tell_end(record)

    def tell_end(self, record: TaskRecord) -> None:
        """Call what waits for a task that has ended, and for all if that was the last."""
        with self._lock:
            watchers = self._watchers.pop(record, [])
            settling = tuple(self._settling)
        for call in watchers:
            call()
        if settling and not self.unsettled:
            for call in settling:
                call()

    def wake_all(self) -> None:
        """Call what waits for any task, though none has ended."""
        with self._lock:
            calls = [call for some in self._watchers.values() for call in some] + self._settling
        for call in calls:
            call()

    def _is_running_again(self, record: TaskRecord) -> bool:
        """Whether a task that was delivered twice has ended, but not both runs of it."""
        return record in self.delivered_again and record.status.is_final and record.still_running

    # -- called by other parts of the plugin

    def injected(self, record: TaskRecord, fault: Injected) -> None:
        """Record a fault that took place."""
        self._add(fault, record)

    def fault_behind(self, record: TaskRecord) -> Injected | None:
        """Return the fault whose error a failed task has; None if there is none."""
        faults = (one.what for one in self.moments if one.record is record)
        injected = (one for one in faults if isinstance(one, Injected))
        return next((one for one in injected if one.error is record.error), None)

    def note(self, text: str, location: str = "") -> None:
        """Record a text for the calling thread, and for the task that it runs, if any."""
        task = current_task()
        self._add(text, None if task is None else self.record(task.task_id), location)

    def slept(self, seconds: float) -> None:
        """Record that the calling thread or coroutine is about to sleep."""
        frame = users_frame(sys._getframe(1))
        # Sleeps of libraries are left out.
        if frame is not None:
            self.note(f"sleeps {seconds:.9g} s", at(frame.f_code, frame.f_lineno))

    def take_snapshot(
        self, error: BaseException | None = None, who: str = "its client"
    ) -> entries.Snapshot:
        """Return the unfinished tasks and pending timers.

        Args:
            error: The error that is being raised, under which the snapshot is kept; None if
                there is none.
            who: What the error ends; see `Failure`.
        """
        for snapshot in self.snapshots:
            if snapshot.error is error:
                return snapshot
        on_threads = self._thread_locations()
        tasks = []
        for one in tuple(self.submissions):
            record, status = one.record, one.record.status
            if not status.is_final or record.still_running:
                last = self._last.get(record)
                lane, location = on_threads.get(record, ("" if last is None else last.lane, ""))
                location = location or self._body_location(record)
                tasks.append(entries.UnfinishedTask(record, status, lane, location, last))
        snapshot = entries.Snapshot(self._monotonic(), error, tasks, self._timers())
        if error is not None:
            self.snapshots.append(snapshot)
            self._add(entries.Failure(error, who), None)
        return snapshot

    def _timers(self) -> str:
        try:
            return "" if self._clock is None else self._clock.explain()
        except Exception as error:  # from a user's repr(); it must not hide the test's own error
            return f"t+? s {type(error).__name__} while the timers were listed"

    def watched(
        self, fn: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:  # Any: whatever a test returns
        """Return a test's coroutine function that takes a snapshot when it fails."""

        @functools.wraps(fn)
        async def async_inner(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if self._clock is not None:
                self._clock.test = asyncio.current_task()
            try:
                return await fn(*args, **kwargs)
            except BaseException as error:  # raised again, but all may be cancelled by then
                self.take_snapshot(error, "the test")
                raise

        return async_inner

    # -- queries

    @property
    def elapsed(self) -> float:
        """How many seconds of its clock ago the test has started."""
        return self._monotonic() - self.begun

    def of(self, target: entries.Target) -> list[Submission]:
        """Return the tasks of *target*, in the order of their submission."""
        return [one for one in self.submissions if one.is_of(target)]

    def record(self, task_id: str) -> TaskRecord | None:
        """Return the latest task with this id; None if there is none."""
        one = self._latest.get(task_id)
        return None if one is None else one.record

    @property
    def unfinished(self) -> list[Submission]:
        """The tasks that have not ended."""
        return [one for one in self.submissions if not one.record.status.is_final]

    @property
    def awaited(self) -> list[Submission]:
        """The tasks that have not ended, without pollers, which need not end."""
        return [one for one in self.unfinished if not self.is_poller(one)]

    @property
    def unsettled(self) -> list[TaskRecord]:
        """The tasks that `awaited` returns, and those of which a second run has not ended."""
        return [one.record for one in self.awaited] + self.running_again

    @property
    def running_again(self) -> list[TaskRecord]:
        """The tasks that have ended, but of which a second run has not."""
        return [one for one in tuple(self.delivered_again) if self._is_running_again(one)]

    def is_poller(self, one: Submission) -> bool:
        """Whether a task runs until the app stops."""
        # For speed: called for each unfinished task whenever one has ended.
        if not self.pollers:
            return False
        names = one.record.name, function_name(one.call.fn)
        return any(
            any(name == it or name.endswith(f".{it}") for name in names)
            if isinstance(it, str)
            else unwrapped(it)[0] == unwrapped(one.call.fn)[0]
            for it in self.pollers
        )

    def _submission(self, record: TaskRecord) -> Submission | None:
        one = self._latest.get(record.task_id)
        if one is None or one.record is record:
            return one
        # A later task has the same id.
        return next((it for it in reversed(self.submissions) if it.record is record), None)

    def _add(
        self,
        what: entries.What,
        record: TaskRecord | None,
        location: str = "",
        at: float | None = None,
    ) -> None:
        when = self._monotonic() if at is None else at
        moment = Moment(when, self._lane(), record, what, location)
        self.moments.append(moment)
        if record is not None:
            self._last[record] = moment

    def _lane(self) -> str:
        if self._clock is not None and self._clock.firing:
            # Timers fire on any thread, whichever stops last.
            return "clock"
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if threading.get_ident() == self._test_thread:
                return "test"
            return threading.current_thread().name
        known = self._loops.get(loop)
        if known is not None:
            return known
        with self._lock:
            number = len(self._loops) + 1
            return self._loops.setdefault(loop, "loop" if number == 1 else f"loop-{number}")

    def _body_location(self, record: TaskRecord) -> str:
        """Return the line that a task's coroutine is at; "" if it has none."""
        body = self._bodies.get(record)
        return "" if body is None else location_of(reversed(list(inwards(body()))))

    def label(self, where: object) -> tuple[str, str]:
        """Return which task runs on a thread or in an asyncio task, and the line it is at."""
        record, location = None, ""
        if isinstance(where, int):
            frames = outwards(sys._current_frames().get(where))
            record = next((it.f_locals["record"] for it in frames if it.f_code is _AROUND), None)
        else:
            unfinished = (one.record for one in self.unfinished)
            record = next((one for one in unfinished if driver_of(one) is where), None)
            location = "" if record is None else self._body_location(record)
        if record is None:
            return "", ""
        return f"{record.name.rpartition('.')[2]}#{record.task_id[:8]}", location

    def _thread_locations(self) -> dict[TaskRecord, tuple[str, str]]:
        """Return the thread that runs each sync task, and the line it is at."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        found = {}
        for ident, frame in sys._current_frames().items():
            inner: list[FrameType] = []
            for step in outwards(frame):
                if step.f_code is _AROUND:
                    # Frames further out belong to a task that waits for this one.
                    found[step.f_locals["record"]] = names.get(ident, ""), location_of(inner)
                    inner = []
                else:
                    inner.append(step)
        return found


_AROUND = Recorder.around_attempt.__code__
