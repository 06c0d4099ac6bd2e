"""The seams: what a framework is put together from, and what a test may replace.

Each is chosen per framework, never globally. A class need not inherit from these; one
that does gets the default behaviour of what it leaves out.

The functions at the end put calls, results, errors and records into JSON, for an engine or a
store that passes them to another process or keeps them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from framework._tasks import exports
from framework._tasks.engine_task import EngineTask, TaskFunction, TaskWaiter
from framework._tasks.facts import dump_record, load_record
from framework._tasks.records import Kind, TaskEvent, TaskRecord, TaskStatus
from framework._tasks.registry import find_function
from framework._tasks.wire import (
    decode_call,
    decode_error,
    decode_result,
    encode_call,
    encode_error,
    encode_result,
)

__all__ = [
    "Clock",
    "EngineHost",
    "EngineTask",
    "EventSink",
    "Interceptor",
    "Kind",
    "RemoteEngine",
    "Run",
    "SharedDirectory",
    "SharedStore",
    "StoreHost",
    "TaskEngine",
    "TaskEvent",
    "TaskFunction",
    "TaskRecord",
    "TaskRules",
    "TaskStatus",
    "TaskStore",
    "TaskWaiter",
    "TimerHandle",
    "decode_call",
    "decode_error",
    "decode_result",
    "dump_record",
    "encode_call",
    "encode_error",
    "encode_result",
    "find_function",
    "load_record",
]


class Run(Protocol):
    """What an engine does with a task that it was given; safe to call twice."""

    def __call__(self, task: EngineTask, /) -> bool:
        """Run a task to its end (thread) or start it (loop); False if it has ended."""
        ...

    def drop(self, task: EngineTask, error: BaseException | None, /) -> None:
        """End a task that will never run: FAILED with *error*, CANCELLED without one."""


class TimerHandle(Protocol):
    """A timer that has not fired yet.

    Attributes:
        background: Whether nobody waits for it; its owner may change it at any time.
    """

    background: bool

    def cancel(self) -> None:
        """Keep the timer from firing; harmless once it has fired. Any thread."""


@runtime_checkable
class Clock(Protocol):
    """All the time there is: the framework reads and waits through nothing else."""

    def time(self) -> float:
        """Return the wall clock in seconds since the epoch; for stamps shown to people."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; for every duration, window and deadline."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for *seconds*, 0 or more."""

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for *seconds*, 0 or more."""

    def call_at(
        self, when: float, fn: Callable[[], object], *, background: bool = False
    ) -> TimerHandle:
        """Call *fn* at monotonic second *when*, or at once if that has passed.

        It may be called on any thread and must neither block nor raise. A *background*
        timer is one that nobody waits for.
        """
        ...

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait as ``Condition.wait``; the condition is held. False if *timeout* passed."""
        ...

    def hold(self) -> None:
        """Note that work is about to be queued: virtual time stands still until released."""
        return None

    def release(self) -> None:
        """Note that queued work has ended and all its completions have run."""
        return None


class TaskEngine(Protocol):
    """Where tasks run: the one door through which every queued task starts.

    Thread rule: every method may be called from any thread, none may block.
    """

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """See to it that ``run(task)`` is called once, later.

        Never call it on the caller's stack. A ``"thread"`` run may be called on any
        thread that may block; a ``"loop"`` run on the thread of the task's loop.

        Raises:
            Exception: If the task cannot be started; it ends FAILED with this error.
        """

    def withdraw(self, task: EngineTask) -> None:
        """Forget a task that will not be run any more, such as a cancelled one."""
        return None

    def abandon(self, task: EngineTask) -> None:
        """Give up the thread that runs a task past its limit: it may never come back."""
        return None

    def run_inline(self, task: EngineTask) -> bool:
        """Run a queued task on the calling thread, which must wait for it anyway.

        Returns:
            Whether it was run here; False if the thread is none of the engine's or the
            task is not queued.
        """
        return False


class TaskStore(Protocol):
    """Where finished tasks are kept until they are too old or too many.

    Thread rule: every method may be called from any thread.
    """

    def put(self, record: TaskRecord) -> None:
        """Keep a record that has just become final.

        It is not changed any more, but for ``read`` and ``still_running``.
        """

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task, or None if it is not kept here."""
        ...

    def list(self, status: TaskStatus | None = None) -> Iterable[TaskRecord]:
        """Return the kept records in the order in which they ended, as a snapshot."""
        ...

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Iterable[TaskRecord]]:
        """Remove the oldest records.

        Args:
            ended_before: Remove those that ended before or at this monotonic second;
                None for no bound of age.
            keep: Remove the oldest until at most so many remain; None for no bound.
            completed: Whether those that COMPLETED are to be returned as well.

        Returns:
            How many were removed, and the records; a store need not return those that
            COMPLETED if they are not asked for.
        """
        ...


class StoreHost(Protocol):
    """What a framework does for its `SharedStore`; every method from any thread."""

    clock: Clock

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a copy of a live record that is consistent in itself."""
        ...

    def cancel(self, task_id: str) -> None:
        """Cancel a task of this process, since another process has asked for it."""

    def interrupt(self, reason: str) -> None:
        """End every live task INTERRUPTED: the others have given this process up."""

    def adopt(self, records: Sequence[TaskRecord]) -> None:
        """Follow from now on live remote tasks whose own process is gone."""


@runtime_checkable
class SharedStore(TaskStore, Protocol):
    """A store that several processes share and that outlives each of them.

    ``get``, ``list`` and ``remove`` of such a store never block: they speak of what it
    has found out of all processes, the live tasks of this one left out.

    Attributes:
        durable: Whether ``await submit(...)``, and a submission from a thread, return
            only once the record is safe.
    """

    durable: bool

    def open(self, host: StoreHost) -> None:
        """Begin to write and to follow the other processes; blocks.

        Raises:
            StoreUnavailableError: If it cannot be reached, or is of no use.
        """

    def close(self, patience: float) -> None:
        """Write what waits, for at most *patience* seconds, and leave; blocks."""

    def note(self, record: TaskRecord) -> None:
        """Take in that a live record is new or has changed; quick.

        Raises:
            StoreUnavailableError: If the record is new and too many wait to be written.
        """

    def secure(self, record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* once the record as it is now is safe, or with why it is not."""

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return a result as every process will read it.

        Raises:
            Exception: If it cannot be kept; the task then ends FAILED with this.
        """

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what is known of these ids now; may block."""
        ...

    def request_cancel(self, task_id: str) -> bool:
        """Ask a live task's process to cancel it; False if there is none. May block."""
        ...

    def figures(self) -> dict[str, int]:
        """Return how many records there are of each status, and the store's own counters.

        This process's live ones are left out.
        """
        ...


@runtime_checkable
class SharedDirectory(Protocol):
    """What a `SharedStore` or a `RemoteEngine` may have as well, to answer unknown ids better.

    An id that nobody knows may be that of a task that another process has just accepted, so
    it is asked for again for a second. One that has these methods can say when that is in
    vain. Both may block.
    """

    def is_alone(self) -> bool:
        """Return whether no other process can have a task that ``fetch`` does not find yet."""
        ...

    def doubt(self) -> Exception | None:
        """Return why ``fetch`` may miss tasks that other processes have; None if all is well.

        Whoever asks for an unknown id gets it as an error then.
        """
        ...


class EngineHost(Protocol):
    """Where a `RemoteEngine` tells of its tasks; every method from any thread.

    Ids that are unknown here, or final already, are ignored. *at* is in seconds since the
    epoch, by the clock of the machine where it happened.

    Attributes:
        clock: The framework's.
        shared: Whether the records are kept where other processes read them, too.
    """

    clock: Clock
    shared: bool

    def live(self) -> Collection[EngineTask]:
        """Return the tasks that are not final, as far as this process follows them."""
        ...

    def waiting(self, task_id: str, reason: str) -> None:
        """Say why a task still waits; "" if for nothing but its turn."""

    def started(self, task_id: str, at: float, attempt: int) -> None:
        """Say that a worker has begun with a task, or with a further attempt."""

    def progress(self, task_id: str, share: float, message: str) -> None:
        """Say how far a task is, from 0.0 to 1.0."""

    def announce(self, task_id: str, kind: str, delay: float, error: BaseException | None) -> None:
        """Say that a task waits: *kind* is ``retrying`` or ``throttled``."""

    def ended(
        self,
        task_id: str,
        status: TaskStatus,
        at: float,
        *,
        result: Any = None,
        error: BaseException | None = None,
        reason: str = "",
        attempts: int = 1,
    ) -> None:
        """Say how a task ended; *error* is needed if it FAILED."""


@runtime_checkable
class RemoteEngine(TaskEngine, Protocol):
    """An engine whose tasks run in other processes, and outlive the one that submits."""

    def open(self, host: EngineHost) -> None:
        """Begin to publish and to listen; blocks a moment.

        Raises:
            ValueError: If its settings would lose tasks or run them twice.
        """

    def close(self, patience: float) -> None:
        """Publish what waits, for at most *patience* seconds, and leave; blocks.

        What is not published by then ends CANCELLED.
        """

    def admit(self, task: EngineTask) -> None:
        """Look at a task before it is accepted; what this raises refuses it."""

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what is known of these ids now; may block."""
        ...

    def forget(self, task_ids: Collection[str]) -> None:
        """Drop what is known of finished tasks; may block."""

    def request_cancel(self, task_id: str) -> bool:
        """Cancel a task that no worker has, or ask its worker to; may block.

        Returns:
            False if the id is unknown, or final already.
        """
        ...


@runtime_checkable
class TaskRules(Protocol):
    """What an engine asks of tasks and makes of their values, whether or not it is open.

    An engine whose tasks leave the process has these as well, so that a test's framework,
    which takes its place, refuses what it would refuse. Every method from any thread.
    """

    def admit(self, task: EngineTask) -> None:
        """Look at a task before it is accepted; what this raises refuses it."""

    def received(self, task: EngineTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of an admitted task as its body gets them.

        Raises:
            Exception: If they cannot be read where the body runs.
        """
        ...

    def settle(self, task: EngineTask, result: Any) -> Any:
        """Return a result as whoever asks for it gets it.

        Raises:
            Exception: If it cannot be told; the task then ends FAILED with this.
        """


class EventSink(Protocol):
    """Hears every event; passive. Called on the thread where the event happens."""

    def __call__(self, event: TaskEvent, /) -> object:
        """Take in one event; must be quick. What it raises is logged."""


class Interceptor(Protocol):
    """Takes part in every task; active, and absent by default. Fault plans are one."""

    def before_accept(self, record: TaskRecord) -> None:
        """Look at a task that is about to be accepted; what it raises refuses the task."""
        return None

    def around_attempt(
        self, record: TaskRecord, attempt: int, call: Callable[[], Any]
    ) -> Any:  # whatever the task returns
        """Make one attempt of a task's function and return what it returned.

        Args:
            record: The task.
            attempt: Which attempt, from 1 on.
            call: Runs the function; for an ``async def`` one it gives a coroutine, and
                an awaitable is what must be returned.
        """
        return call()

    def around_delivery(self, record: TaskRecord, deliver: Callable[[], bool]) -> bool:
        """Let a worker begin on a task, by calling *deliver* (once, unless it is a fault)."""
        return deliver()

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """Hear of a call whose turn a throttle has let come, inside or outside a task.

        Called on the thread or loop where the body begins next, and for each attempt of a
        retry; a call that is refused, or gives up while it waits, never comes here. What
        this raises is raised in place of the call, which is counted all the same.

        Args:
            name: The throttled function's name, as its ``throttled`` events have it.
            record: The task that calls; None outside any.
            at: The monotonic second at which the call was counted.
        """
        return None


exports.pin(globals())
