"""Protocols of the parts of a framework that you can replace.

Each framework has its own parts; nothing is replaced globally. A class does not have to
inherit from these protocols. If it does, it inherits the methods that have a default.

The functions convert calls, results, errors and records to JSON and back, for an engine or
store that stores them or sends them to another process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from framework._tasks import exports
from framework._tasks.engine_task import EngineTask, TaskFunction, TaskWaiter
from framework._tasks.facts import dump_record, load_record
from framework._tasks.pages import PageQuery
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework._tasks.records import Kind, TaskEvent, TaskRecord, TaskStatus
from framework._tasks.registry import find_function
from framework._tasks.restart import Restart
from framework._tasks.schedules import RunClaim, ScheduleState
from framework._tasks.windows import WindowAnswer, WindowRequest
from framework._tasks.wire import (
    decode_call,
    decode_error,
    decode_result,
    encode_call,
    encode_error,
    encode_result,
)

__all__ = [
    "CallStore",
    "Clock",
    "EngineHost",
    "EngineTask",
    "EventSink",
    "Fallible",
    "Interceptor",
    "Kind",
    "LargeStore",
    "LoggingWorkers",
    "PageQuery",
    "PagedStore",
    "PlaceAnswer",
    "PlaceRequest",
    "RemoteEngine",
    "RequeueStore",
    "Restart",
    "Run",
    "RunClaim",
    "ScheduleBook",
    "ScheduleState",
    "SharedDirectory",
    "SharedPlaces",
    "SharedStore",
    "SharedWindows",
    "StoreHost",
    "TaskEngine",
    "TaskEvent",
    "TaskFunction",
    "TaskRecord",
    "TaskRules",
    "TaskStatus",
    "TaskStore",
    "TaskTracer",
    "TaskWaiter",
    "Telemetry",
    "TimerHandle",
    "WindowAnswer",
    "WindowRequest",
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
    """Runs a task for an engine; safe to call twice."""

    def __call__(self, task: EngineTask, /) -> bool:
        """Run a sync task to its end, or start an async one; False if it has ended."""
        ...

    def drop(self, task: EngineTask, error: BaseException | None, /) -> None:
        """End a task that will never run: FAILED with *error*, CANCELLED without one."""


class TimerHandle(Protocol):
    """A timer.

    Attributes:
        background: Whether nobody waits for it. Its owner may change this at any time.
    """

    background: bool

    def cancel(self) -> None:
        """Cancel the timer; does nothing if it has fired. May be called on any thread."""


@runtime_checkable
class Clock(Protocol):
    """The framework's only source of time; it reads the time and waits only through it."""

    def time(self) -> float:
        """Return the wall clock in seconds since the epoch, for timestamps."""
        ...

    def monotonic(self) -> float:
        """Return a time in seconds that never goes back, for durations and deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for *seconds*, 0 or more."""

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for *seconds*, 0 or more."""

    def call_at(
        self, when: float, fn: Callable[[], object], *, background: bool = False
    ) -> TimerHandle:
        """Call *fn* at monotonic time *when*, or immediately if that has passed.

        *fn* may be called on any thread, and must not block or raise. A *background* timer
        is one that nobody waits for.
        """
        ...

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait like ``Condition.wait``, with the condition held; False on timeout."""
        ...

    def hold(self) -> None:
        """Called before work is queued; a virtual clock stands still until `release`."""
        return None

    def release(self) -> None:
        """Called when queued work has ended and its callbacks have run."""
        return None


class TaskEngine(Protocol):
    """Runs tasks: every queued task starts through its engine.

    Thread rule: every method may be called from any thread, none may block.
    """

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Arrange that ``run(task)`` is called once, later.

        Do not call it before `start` returns. Call a ``"thread"`` run on any thread that may
        block, and a ``"loop"`` run on the thread of the task's event loop.

        Raises:
            Exception: If the task cannot be started; it ends FAILED with this error.
        """

    def withdraw(self, task: EngineTask) -> None:
        """Forget a task that does not have to run any more, such as a cancelled one."""
        return None

    def abandon(self, task: EngineTask) -> None:
        """Give up the thread that runs a task past its time limit; it may never return."""
        return None

    def run_inline(self, task: EngineTask) -> bool:
        """Run a queued task on the calling thread, which would otherwise wait for it.

        Returns:
            Whether it ran; False if the thread does not belong to the engine, or the task is
            not queued.
        """
        return False


class TaskStore(Protocol):
    """Keeps finished tasks until they are too old or there are too many.

    Thread rule: every method may be called from any thread.
    """

    def put(self, record: TaskRecord) -> None:
        """Keep the record of a task that has just ended.

        Only ``read``, ``logged`` and ``still_running`` change after this.
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
            ended_before: Remove records that ended at or before this monotonic time; None
                for any age.
            keep: Remove the oldest records until at most this many remain; None for no
                limit.
            completed: Whether to return COMPLETED records too.

        Returns:
            The number of removed records, and the records. If *completed* is false, a store
            may leave out COMPLETED ones. A `LargeStore` may leave out those that it does not
            hold in memory, see there.
        """
        ...


@runtime_checkable
class PagedStore(Protocol):
    """An optional method of a `TaskStore` that can read a few of its tasks without the others.

    Without it, each page costs a call of ``list``.
    """

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return the records that match *query*, in its order.

        A `SharedStore` also returns live tasks of other processes, and may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


class StoreHost(Protocol):
    """The framework, as its `SharedStore` sees it; call every method from any thread."""

    clock: Clock

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a consistent copy of a live record."""
        ...

    def cancel(self, task_id: str) -> None:
        """Cancel a task of this process because another process asked for it."""

    def interrupt(self, reason: str) -> None:
        """End every live task INTERRUPTED, because the others consider this process dead."""

    def adopt(self, records: Sequence[TaskRecord]) -> None:
        """Follow live remote tasks whose own process has died."""

    def call_of(self, record: TaskRecord, most: int) -> str | None:
        """Return the arguments of a task of this process, for a `CallStore` to keep.

        Args:
            record: The task.
            most: How many bytes they may take.

        Returns:
            The text of `encode_call`; or, as a JSON string, why there is none; or None if it
            has no arguments any more. It changes with the arguments, if the task changes them.
        """
        ...

    def room(self) -> int:
        """Return how many tasks of ended processes this one can take over now."""
        ...

    def take_over(self, records: Sequence[TaskRecord]) -> None:
        """Run tasks of ended processes here, whose rows belong to this process now.

        Args:
            records: PENDING tasks with their ``restart``. What cannot be taken over is
                released again.
        """

    def evicted(self, records: Sequence[TaskRecord]) -> None:
        """Report removed tasks that ``remove`` counted, but did not return.

        Their results are not needed.
        """


@runtime_checkable
class SharedStore(TaskStore, Protocol):
    """A store that several processes share and that outlives each of them.

    ``get``, ``list`` and ``remove`` of such a store never block, unless it is a `LargeStore`.
    They return what the store already knows about all processes, without the live tasks of this
    process.

    Attributes:
        durable: Whether ``await submit(...)``, and a submission from a thread, return only
            when the record is stored safely.
    """

    durable: bool

    def open(self, host: StoreHost) -> None:
        """Start to write, and to follow the other processes; blocks.

        Raises:
            StoreUnavailableError: If the store cannot be used.
        """

    def close(self, patience: float) -> None:
        """Write waiting records for at most *patience* seconds, and close; blocks."""

    def note(self, record: TaskRecord) -> None:
        """Called when a live record is new or has changed; must be fast.

        Raises:
            StoreUnavailableError: If the record is new and too many records wait to be
                written.
        """

    def secure(self, record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* with None when the current record is stored safely, or with the error."""

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return a result in the form in which every process will read it.

        Raises:
            Exception: If it cannot be stored; the task then ends FAILED with this error.
        """

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the current records of these ids; may block."""
        ...

    def request_cancel(self, task_id: str) -> bool:
        """Ask the process of a live task to cancel it; False if there is none. May block."""
        ...

    def figures(self) -> dict[str, int]:
        """Return the number of records of each status, and the store's own counters.

        Live tasks of this process are not included.
        """
        ...


@runtime_checkable
class CallStore(Protocol):
    """Optional members of a `SharedStore` that keeps the arguments of tasks.

    It gets them from `StoreHost.call_of` when it first stores a live task, and may drop them
    once the task has COMPLETED. A `RemoteEngine` may have these members as well.

    Attributes:
        keep_arguments: How many bytes of JSON are kept of a task at most; 0 for none.
    """

    keep_arguments: int

    def fetch_call(self, task_id: str) -> str | None:
        """Return the arguments of a task for `decode_call`; may block.

        Returns:
            The text; None if the id is unknown, or the task has COMPLETED.

        Raises:
            ValueError: If its arguments were not kept; it says why.
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class RequeueStore(Protocol):
    """Optional methods of a `SharedStore` that lets other processes run tasks of an ended one.

    They are called for tasks whose record has a `Restart`: waiting ones, and running ones that
    are ``idempotent``. When a process ends or dies, the store gives such tasks to a process that
    knows their function, by `StoreHost.take_over`. What it stores for that are ``restart.call`` and
    ``restart.facts()``, from which `Restart.of` makes a new one.

    A task that has started must not start a second time, even if a process was only suspended
    and others believed that it was dead. So a start is stored first, if the task is still
    PENDING and belongs to this process. A store must never write a record whose
    ``restart.state`` is ``left``.
    """

    def start(self, record: TaskRecord, told: Callable[[bool], None]) -> None:
        """Store that a task starts, and call *told* when that is safe.

        Args:
            record: A PENDING task of this process.
            told: Called once, on another thread: with True when it is stored, with False if
                the task belongs to another process or the store is closed.
        """

    def release(self, record: TaskRecord) -> None:
        """Store that a task is PENDING and belongs to nobody; never blocks.

        Args:
            record: A copy of its last record; its ``restart.state`` is ``free``.
        """


@runtime_checkable
class LargeStore(Protocol):
    """Optional methods of a `SharedStore` that does not hold all its tasks in memory.

    Its ``get`` only returns what is in memory; the framework then calls ``fetch``, on a thread
    of its own. Its ``list`` returns all tasks, and may block. Its ``remove`` counts all tasks,
    and does not block. It does not have to return those that are not in memory: if *completed* is
    true, it reports them to `StoreHost.evicted` later, and otherwise not at all.
    """

    def active(self) -> Sequence[TaskRecord]:
        """Return the live tasks of other processes; never blocks."""
        ...

    def unread(self) -> Sequence[TaskRecord]:
        """Return the failed tasks of this process that nobody has heard of; never blocks.

        Their error was neither read nor logged. They must stay in memory until it is, or until
        they are removed.
        """
        ...

    def has(self, task_id: str) -> bool:
        """Return whether a finished task that is not in memory has this id; may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...


@runtime_checkable
class SharedDirectory(Protocol):
    """Optional methods of a `SharedStore` or `RemoteEngine` for unknown ids.

    An unknown id may belong to a task that another process has just accepted, so the
    framework keeps asking for it for a second. These methods tell it when that is pointless.
    Both may block.
    """

    def is_alone(self) -> bool:
        """Return whether no other process can have a task that ``fetch`` does not find yet."""
        ...

    def doubt(self) -> Exception | None:
        """Return why ``fetch`` may miss tasks of other processes; None if it does not.

        The framework raises this error when somebody asks for an unknown id.
        """
        ...


@runtime_checkable
class Fallible(Protocol):
    """An optional method of a `SharedStore` or `RemoteEngine`, for metrics and health checks."""

    def fault(self) -> str:
        """Return why it cannot be used now; "" while it works. Never blocks, on any thread."""
        ...


@runtime_checkable
class ScheduleBook(Protocol):
    """Optional methods of a `SharedStore` or `RemoteEngine` that keeps schedules for all processes.

    With a book, each due time is run once, by whichever process claims it first. Without one,
    every process runs its own schedules. If both the store and the engine have these methods, the
    framework asks the store.

    A run is identified by the name of its schedule and its due time, in seconds since the epoch.
    All processes compute the same due times, so their clocks may differ: the process whose clock is
    ahead claims a due time first, and the others are refused it. A name that is not known yet is
    entered by any of these calls.

    Every method may block, and may be called from any thread.

    Raises:
        StoreUnavailableError: Each method, if the store or broker does not answer. A claim may have
            had its effect all the same.
    """

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs, and return what is known about it.

        Args:
            name: Its name.
            timing: When it is due, for people; replaces what is known.
            now: The wall time of this process. It becomes ``last_due`` of a schedule that is not
                known yet, so a new schedule has missed nothing. The state is kept over restarts.
        """
        ...

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of a schedule for this process, in one atomic step.

        A claim for the task of the last run is claimed again: the caller repeats a call that
        failed, and may have had its effect. Apart from that, in this order:

        1. ``taken``: ``last_due`` is *due* or later, so this run was claimed or skipped already.
           A ``last_due`` that lies more than three hours after *due* does not count: it came from a
           clock that was wrong.
        2. ``paused``: the schedule is paused. Nothing changes.
        3. ``busy``: the task of the last run is live in any process, or its body is still running.
           With *skip*, ``last_due`` becomes *due* and ``skipped`` grows by one, so the due time is
           skipped once, whoever asks again. Without it, nothing changes.
        4. ``claimed``: ``last_due`` becomes *due*, ``task_id`` the id of *record*, and ``ran_at``
           its ``created_at``. In the same step *record* is stored as a live task of this
           process. If this process dies at the next moment, the task exists, and ends as every
           task of a dead process does.

        The framework accepts the task right after this. If it cannot, it puts the record as FAILED.

        Args:
            name: Its name.
            due: The due time; None for a run that was triggered by hand. That is neither taken
                nor paused, and leaves ``last_due`` as it is.
            record: The task to run: PENDING, and not accepted yet.
            skip: Whether the due time is skipped if the last run is still live.
        """
        ...

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause a schedule for all processes, or resume it.

        Resuming a paused schedule sets ``last_due`` to *now* unless it is later: what was due
        during the pause was not missed.

        Args:
            name: Its name.
            paused: Whether it is paused from now on. It is kept over restarts.
            now: The wall time of this process.

        Returns:
            Whether the name is known; False changes nothing.
        """
        ...

    def schedules(self) -> Sequence[ScheduleState]:
        """Return what is known about all schedules, of all processes, by name."""
        ...


@runtime_checkable
class SharedWindows(Protocol):
    """Optional methods of a `SharedStore`: windows of throttles that all processes share.

    Without these methods, each process has windows of its own. Both methods may be called from
    any thread, and must not block. The calls of one process take effect in their order.
    """

    def reserve(self, request: WindowRequest, told: Callable[[WindowAnswer], object]) -> None:
        """Count a call at the earliest time at which its window allows it.

        No half-open interval of the window's length may have more calls than its rate, by a clock
        that all processes share. Each call is counted after those before it, also if they
        are counted in the future.

        Args:
            request: The call. If it was counted already, this takes the place of that.
            told: Called once with the answer, on any thread. While the database fails, that
                takes until it works.
        """

    def give_back(self, key: str, entry: str) -> None:
        """Count a call no more, since its function is not called."""


@runtime_checkable
class SharedPlaces(Protocol):
    """Optional methods of a `RemoteEngine` or `SharedStore`: places that all processes share.

    Tasks of one key stand in a line, in which as many as the limit allows have a place, see
    `PlaceRequest`. Without these methods, unique tasks and ``max_running`` apply to each process
    separately. If both the engine and the store have them, the engine's are used.

    In all processes together, at any moment: no line has more tasks with a place than the limit
    that each of them asked for; and no task waits while the first of those that wait could have
    a place. Both methods may be called from any thread, and must not block. The calls of one
    process take effect in their order.

    A task loses its places when `leave` is called, and when its process dies, in the same step
    in which the others find that out. One that goes on elsewhere, as a task on a worker does,
    keeps them. A task that is final and whose function does not run any more must not be in the
    way of a later `join`, even if its `leave` is still on the way.
    """

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place.

        Args:
            request: The line, the task, and the limit. A request that is repeated, with the same
                key and task, gets the answer of the first one.
            told: Called once with the answer, on any thread and perhaps during this call. If the
                task enters the line and waits, it is called again once it has a place, unless it
                leaves before. While the database or broker fails, that takes until it works: the
                caller gives up by calling `leave`.
        """

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines, whether it has places or waits; does nothing twice.

        Whoever has a place then is told.
        """


class EngineHost(Protocol):
    """The framework, as a `RemoteEngine` sees it; call every method from any thread.

    Ids that are unknown in this process, or that have ended, are ignored. *at* is in seconds
    since the epoch, by the clock of the machine where it happened.

    Attributes:
        clock: The framework's clock.
        shared: Whether other processes can read the records too.
    """

    clock: Clock
    shared: bool

    def live(self) -> Collection[EngineTask]:
        """Return the tasks that have not ended, as far as this process follows them."""
        ...

    def waiting(self, task_id: str, reason: str) -> None:
        """Report why a task is still waiting; "" if it only waits for its turn."""

    def asked_to_cancel(self, task_id: str) -> None:
        """Report that a process, this one or another, has asked to cancel a task."""

    def started(self, task_id: str, at: float, attempt: int) -> None:
        """Report that a worker has started a task, or another attempt of it."""

    def progress(self, task_id: str, share: float, message: str) -> None:
        """Report the progress of a task, from 0.0 to 1.0."""

    def announce(self, task_id: str, kind: str, delay: float, error: BaseException | None) -> None:
        """Report that a task waits: *kind* is ``retrying`` or ``throttled``."""

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
        """Report how a task ended; *error* is required if it FAILED."""


@runtime_checkable
class RemoteEngine(TaskEngine, Protocol):
    """An engine whose tasks run in other processes, and may outlive the one that submits.

    The framework neither starts, times nor ends such a task: the engine reports all of it to
    its `EngineHost`, and enforces ``limit``. It must report an end for each task that it was
    given, whatever fails.
    """

    def open(self, host: EngineHost) -> None:
        """Start to publish and to listen; blocks for a moment.

        Raises:
            ValueError: If its settings would lose tasks or run them twice.
        """

    def close(self, patience: float) -> None:
        """Publish waiting tasks for at most *patience* seconds, and close; blocks.

        Report tasks that are not published by then as CANCELLED, and those that cannot
        outlive this process as INTERRUPTED. Tasks that are still live when this returns are
        expected to continue without this process.
        """

    def admit(self, task: EngineTask) -> None:
        """Check a task before it is accepted; raise an error to refuse it."""

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the current records of these ids; may block."""
        ...

    def forget(self, task_ids: Collection[str]) -> None:
        """Delete the data of finished tasks; may block."""

    def request_cancel(self, task_id: str) -> bool:
        """Cancel a task that no worker has, or ask its worker to cancel it; may block.

        Returns:
            False if the id is unknown, or the task has ended.
        """
        ...


@runtime_checkable
class LoggingWorkers(Protocol):
    """An optional attribute of a `RemoteEngine` whose workers have a log.

    A failure is logged once. Without this attribute the process that submitted the task logs it.

    Attributes:
        logs_failures: Whether a worker logs each failure of a task that it has started. The
            framework then logs only the failures of tasks that no worker has started.
    """

    logs_failures: bool


@runtime_checkable
class TaskRules(Protocol):
    """The rules of an engine for tasks and their values; they apply even if it is not open.

    An engine whose tasks leave the process should have these methods, so that tests, which
    replace the engine, refuse the same tasks. Every method may be called from any thread.
    """

    def admit(self, task: EngineTask) -> None:
        """Check a task before it is accepted; raise an error to refuse it."""

    def received(self, task: EngineTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of an admitted task as its function would receive them.

        Raises:
            Exception: If they cannot be read where the function runs.
        """
        ...

    def settle(self, task: EngineTask, result: Any) -> Any:
        """Return a result as the code that asks for it would receive it.

        Raises:
            Exception: If it cannot be sent; the task then ends FAILED with this error.
        """


class EventSink(Protocol):
    """Receives every event, on the thread where the event happens."""

    def __call__(self, event: TaskEvent, /) -> object:
        """Handle one event; must be fast. If it raises, the error is logged."""


class Telemetry(Protocol):
    """Reports on task managers; see ``setup_async_framework(telemetry=[...])``."""

    def attach(self, manager: Any, /) -> Callable[[], None]:  # a TaskManager, defined above
        """Begin to report on a manager that is about to start, or runs.

        It may be attached to several managers, and more than once to the same one.

        Returns:
            A function that ends it; may be called twice. `setup_async_framework` calls it when
            all tasks have ended.
        """
        ...


@runtime_checkable
class TaskTracer(Protocol):
    """Optional methods of an `EventSink` that knows in which context each task runs.

    A sink is only told what happens. These methods also carry something, such as the context
    of a trace, from the code that submits a task to the code that runs it, in this process or
    on a worker. `TaskManager.subscribe` finds them by their names. If one of them raises, the
    error is logged, and the task runs all the same.
    """

    def submitted(self, record: TaskRecord) -> Mapping[str, str] | None:
        """Called where a task is submitted, on the thread and in the context of the caller.

        It is not called for an ``async def`` task that runs where it is awaited.

        Returns:
            What travels with the task to `starting`, as text; None for nothing.
        """
        return None

    def starting(self, record: TaskRecord, carried: Mapping[str, str] | None) -> None:
        """Called on the thread or event loop of a task, just before its function is called.

        It is called in the context of the task, so the function sees the context variables
        that are set here. For further attempts of a retry in this process it is not called
        again. A worker calls it for each delivery, and `leaving` if the task does not end in it.

        Args:
            record: The task. It may have ended already, by a cancellation or a shutdown.
            carried: What `submitted` returned; None if it was not called.
        """
        return None

    def leaving(
        self, record: TaskRecord, kind: str, delay: float, error: BaseException | None
    ) -> None:
        """Called on a worker when a task leaves it without having ended.

        Args:
            record: The task.
            kind: ``retrying`` or ``throttled``, or ``interrupted`` if the worker is ending.
            delay: In how many seconds it goes on, on any worker.
            error: The error of the attempt; None if it did not fail.
        """
        return None


class Interceptor(Protocol):
    """Takes part in every task, for example to inject faults. There is none by default."""

    def before_accept(self, record: TaskRecord) -> None:
        """Check a task before it is accepted; raise an error to refuse it."""
        return None

    def around_attempt(
        self, record: TaskRecord, attempt: int, call: Callable[[], Any]
    ) -> Any:  # whatever the task returns
        """Run one attempt of a task's function and return its result.

        Args:
            record: The task.
            attempt: The number of the attempt, from 1.
            call: Runs the function. For an ``async def`` function it returns a coroutine, and
                you must return an awaitable.
        """
        return call()

    def around_delivery(self, record: TaskRecord, deliver: Callable[[], bool]) -> bool:
        """Start a task by calling *deliver*, once unless you inject a fault."""
        return deliver()

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """Called when a throttle has allowed a call, inside or outside a task.

        It is called on the thread or event loop where the function then starts, and for each
        attempt of a retry. It is not called for a call that is refused, or that stops waiting.
        If it raises, the error replaces the call, but the call still counts.

        Args:
            name: Name of the throttled function, as in its ``throttled`` events.
            record: The task that makes the call; None outside a task.
            at: The monotonic time at which the call was counted.
        """
        return None

    def after_event(self, record: TaskRecord, kind: str) -> None:
        """Called in a task after an event, on the thread or event loop where the task runs.

        If it raises, the error is raised inside the task, at the line that led to the event.
        So it can do what a sink cannot, since the errors of sinks are only logged.

        Args:
            record: The task.
            kind: ``progress``, ``retrying`` or ``throttled``.
        """
        return None


exports.pin(globals())
