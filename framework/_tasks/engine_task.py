"""What an engine sees of a task; public as `framework.protocols` has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Protocol

from framework._tasks.records import Kind, TaskStatus


class TaskFunction(Protocol):
    """A function as its tasks have it, shared by all tasks that call it.

    ``submit(timeout=...)`` and ``.options(...)`` make another one of the same ``fn``.

    Attributes:
        engine_note: The engine's own, None at first. Whatever it found out about the
            function, for the next task. Two engines may meet in one process, so keep in it
            whose it is. Any thread.
    """

    engine_note: Any

    @property
    def fn(self) -> Callable[..., Any]:
        """The function as it was given, with any retry and throttle around it."""
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
        """Where the function runs in a process: ``"loop"`` for an ``async def`` one."""
        ...

    @property
    def timeout(self) -> float | None:
        """Its own limit in seconds; None for the app's, infinity for none."""
        ...


class TaskWaiter(Protocol):
    """A thread or coroutine that waits for a task."""

    def nudge(self) -> None:
        """Wake it to run the task inline, now that the task is queued. Any thread."""


class EngineTask(Protocol):
    """What an engine may see of a task, and the little that it may write.

    It is the same object in every call about that task, from `RemoteEngine.admit` or
    `TaskEngine.start` until the task has ended, and any thread may read it. A status
    changes only by `Run` or `EngineHost`, never here, and may do so at any moment on
    another thread. Drop the object when the task has ended.

    Attributes:
        limit: Seconds from its start that the task may run; None for any number. An engine
            may set it in ``admit``, and not later. `Run` keeps it by itself; a remote
            engine sees to it.
        handler: The engine's own, None at first: where one that queues tasks may keep the
            `Run` of ``start``. Costs nothing.
        engine_note: The engine's own: anything else, None at first. It costs a dict for
            each task that has one.
    """

    limit: float | None
    handler: Any
    engine_note: Any

    @property
    def task_id(self) -> str:
        """The id, which never changes."""
        ...

    @property
    def spec(self) -> TaskFunction:
        """What the task runs."""
        ...

    @property
    def name(self) -> str:
        """The name in records and logs, that of `spec`."""
        ...

    @property
    def description(self) -> str:
        """A text for people; "" if there is none."""
        ...

    @property
    def args(self) -> tuple[Any, ...] | None:
        """Positional arguments; None once the task has ended. Not to be changed."""
        ...

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """Keyword arguments; None for none, or once the task has ended."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where an ``async def`` task runs in this process; None if there is no loop."""
        ...

    @property
    def status(self) -> TaskStatus:
        """Where the task stands. PENDING in ``admit`` and ``start``."""
        ...

    @property
    def reason(self) -> str:
        """Why the task waits or how it ended, for people; often ""."""
        ...

    @property
    def created_at(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        ...

    @property
    def queued(self) -> float:
        """Monotonic second of the framework's clock at which it came to the engine."""
        ...

    @property
    def started(self) -> float | None:
        """Monotonic second at which its body first began; None if it has not."""
        ...

    @property
    def ended(self) -> float | None:
        """Monotonic second at which it became final; None if it has not."""
        ...

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked for its cancellation."""
        ...

    @property
    def waiters(self) -> Collection[TaskWaiter] | None:
        """Who waits for the task; None for nobody.

        An engine with `TaskEngine.run_inline` nudges each when it has queued the task.
        """
        ...
