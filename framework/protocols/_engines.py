"""Engines: where tasks run, in this process or in others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from framework._records.records import Kind, TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks.places import PlaceRequest
from framework.protocols._clock import Clock


class TaskFunction(Protocol):
    """The function of a task, with its options.

    All tasks of a decorated function share one. ``submit(timeout=...)`` and ``.options(...)``
    create another one with the same ``fn``.

    Attributes:
        engine_note: Belongs to the engine; None at first. It may keep here what it found out
            about the function, for the next task. Several engines may see one function, so
            the note should say whose it is. Any thread.
    """

    engine_note: Any

    @property
    def fn(self) -> Callable[..., Any]:
        """The function, including its retry and throttle decorators."""
        ...

    @property
    def name(self) -> str:
        """The name in records and logs."""
        ...

    @property
    def description(self) -> str:
        """A text for people; "" if there is none."""
        ...

    @property
    def kind(self) -> Kind:
        """Where it runs: ``"loop"`` for an ``async def`` function, else ``"thread"``."""
        ...

    @property
    def timeout(self) -> float | None:
        """Its own limit in seconds; None to use the app's, infinity for no limit."""
        ...

    @property
    def priority(self) -> str:
        """Which task starts first if several wait: ``"high"``, ``"normal"`` or ``"low"``."""
        ...


class TaskWaiter(Protocol):
    """A thread or coroutine that waits for a task."""

    def nudge(self) -> None:
        """Wake it, since the task is queued now, so that it can run the task itself. Any thread."""


class Item(Protocol):
    """What the threads of a pool run: a task, or a call of the pool itself.

    Attributes:
        handler: Called with the item to run it; a `Run`, or for a call the same with calls.
    """

    handler: Any

    @property
    def name(self) -> str:
        """The name in records and logs."""
        ...

    @property
    def status(self) -> TaskStatus:
        """The status; PENDING of a task in ``admit`` and ``start``."""
        ...

    @property
    def queued(self) -> float:
        """When the engine got it, in monotonic seconds of the framework's clock."""
        ...

    @property
    def started(self) -> float | None:
        """When its function first started, in the same seconds; None if it has not."""
        ...

    @property
    def ended(self) -> float | None:
        """When it ended, in the same seconds; None if it has not."""
        ...


class EngineTask(Item, Protocol):
    """A task as an engine sees it: what it may read, and the few things that it may set.

    An engine gets the same object in every call about a task, from `RemoteEngine.admit` or
    `TaskEngine.start` until the task has ended; it should then drop the object. Any thread may
    read it. The status changes only through `Run` or `EngineHost`, at any time and on any
    thread.

    Attributes:
        limit: Seconds that the task may run, counted from its start; None for no limit. An
            engine may change it in ``admit``, but not later. `Run` enforces it; for the tasks
            of a remote engine, the engine does.
        handler: Belongs to the engine; None at first. An engine that queues tasks may keep the
            `Run` from ``start`` here, at no cost.
        engine_note: Belongs to the engine; None at first, for anything else. Each task with a
            note needs a dict for it.
    """

    limit: float | None
    handler: Any
    engine_note: Any

    @property
    def task_id(self) -> str:
        """The id; it never changes."""
        ...

    @property
    def spec(self) -> TaskFunction:
        """The function that the task runs, with its options."""
        ...

    @property
    def description(self) -> str:
        """A text for people; "" if there is none."""
        ...

    @property
    def owner(self) -> str | None:
        """Whom it belongs to; None for no owner. It has to travel with the task, as `carried`."""
        ...

    @property
    def label(self) -> str | None:
        """What it is about; None if nobody has said it. It has to travel with the task, too."""
        ...

    @property
    def meta(self) -> str | None:
        """The columns of the app's own, as JSON; None for none. It has to travel likewise."""
        ...

    @property
    def arguments(self) -> str | None:
        """The arguments as people see them, as JSON; None for none. It has to travel likewise."""
        ...

    @property
    def args(self) -> tuple[Any, ...] | None:
        """The positional arguments; None once the task has ended, unless they are kept."""
        ...

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The keyword arguments; None if there are none, or `args` is None."""
        ...

    @property
    def carried(self) -> Mapping[str, str]:
        """What has to travel with the task to another process, for its `protocols.TaskTracer`.

        It is empty without a tracer, and once the task has ended.
        """
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop for an ``async def`` task in this process; None if there is none."""
        ...

    @property
    def reason(self) -> str:
        """Why the task waits or how it ended, as text for people; often ""."""
        ...

    @property
    def created_at(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        ...

    @property
    def cancel_requested(self) -> bool:
        """Whether its cancellation was requested."""
        ...

    @property
    def waiters(self) -> Collection[TaskWaiter] | None:
        """The waiters for the task; None if there are none.

        An engine with its own `TaskEngine.run_inline` must nudge each of them after it has
        queued the task.
        """
        ...


class Run(Protocol):
    """Runs a task for an engine; safe to call twice."""

    def __call__(self, task: EngineTask, /) -> bool:
        """Run a sync task to its end, or start an async one; False if it has ended."""
        ...

    def drop(self, task: EngineTask, error: BaseException | None, /) -> None:
        """End a task that will never run: FAILED with *error*, CANCELLED without one."""


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
        return

    def abandon(self, task: EngineTask) -> None:
        """Give up the thread that runs a task past its time limit; it may never return."""
        return

    def run_inline(self, task: EngineTask) -> bool:
        """Run a queued task on the calling thread, which would otherwise wait for it.

        Returns:
            Whether it ran; False if the thread does not belong to the engine, or the task is
            not queued.
        """
        return False


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

    def live_count(self) -> int:
        """Return about how many tasks have not ended, without looking at each."""
        ...

    def waiting(self, task_id: str, reason: str) -> None:
        """Report why a task is still waiting; "" if it only waits for its turn."""

    def asked_to_cancel(self, task_id: str) -> None:
        """Report that a process, this one or another, has asked to cancel a task."""

    def started(self, task_id: str, at: float, attempt: int, slept: float = 0.0) -> None:
        """Report that a worker has started a task, or another attempt of it.

        *slept* is for how many seconds it has waited since its first start, as after `announce`.
        """

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
class KeepingEngine(Protocol):
    """Optional members of a `RemoteEngine` that also has the tasks that wait for their start.

    Attributes:
        durable: Whether ``await submit(...)``, and a submission from a thread, return only when
            the task outlives this process; see `SharedStore.durable`.
    """

    durable: bool

    def keep(self, task: EngineTask, due: float | None, requests: Sequence[PlaceRequest]) -> bool:
        """Note an admitted task that was not started yet; never blocks.

        The engine answers for the task from now on: others find and cancel it as they do a
        started one, and if this process dies or closes the engine, another one starts it, once it
        is due and has its places. As long as this process lives, it calls ``start`` then. If the
        task ends here before that, it calls ``withdraw``.

        Args:
            task: The task.
            due: Wall second before which it must not start; None for no delay.
            requests: The places that it needs.

        Returns:
            Whether the engine does this. If not, the task waits in the memory of this process.
        """
        ...

    def secure(self, task: EngineTask, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* with None when a task that was kept or started outlives this process.

        If that takes more than five seconds, call it with the error. Never blocks; *told* may be
        called on any thread, also at once.
        """


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
