"""A task as an engine sees it; public in `framework.protocols`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from framework._records.records import Kind
from framework._records.statuses import TaskStatus


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


class EngineTask(Protocol):
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
    def name(self) -> str:
        """The name in records and logs."""
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
    def status(self) -> TaskStatus:
        """The status; PENDING in ``admit`` and ``start``."""
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
