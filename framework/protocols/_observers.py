"""Who hears of tasks and takes part in them: sinks, telemetry, interceptors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from framework._records.records import TaskEvent, TaskRecord


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
        return

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
        return


@runtime_checkable
class StepTracer(Protocol):
    """An optional method of an `EventSink` that knows in which context each step runs.

    `TaskManager.subscribe` finds it by its name. If it raises, the error is logged, and the step
    runs all the same.
    """

    def starting_step(
        self, record: TaskRecord, name: str
    ) -> Callable[[BaseException | None], object]:
        """Called on the thread or event loop of a task, just before the body of a step runs.

        It is called in the context of the body, so this sees the context variables that are set
        here. It is not called for a step that is recorded, nor for a sleep or a message.

        Args:
            record: The task.
            name: The module and the qualified name of the step.

        Returns:
            What is called when the body has ended, in the same context, with its error or None. A
            task that leaves its process or is cancelled ends it with a `CancelledError`.
        """
        ...


class Interceptor(Protocol):
    """Takes part in every task, for example to inject faults. There is none by default."""

    def before_accept(self, record: TaskRecord) -> None:
        """Check a task before it is accepted; raise an error to refuse it."""
        return

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

    def around_step(
        self, record: TaskRecord, name: str, call: Callable[[], Any]
    ) -> Any:  # whatever the step returns
        """Run the body of a step and return its result; not called for one that is recorded.

        Args:
            record: The task.
            name: The module and the qualified name of the step.
            call: Runs the body. For an ``async def`` step it returns a coroutine, and you must
                return an awaitable.
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
        return

    def after_event(self, record: TaskRecord, kind: str) -> None:
        """Called in a task after an event, on the thread or event loop where the task runs.

        If it raises, the error is raised inside the task, at the line that led to the event.
        So it can do what a sink cannot, since the errors of sinks are only logged.

        Args:
            record: The task.
            kind: ``progress``, ``retrying`` or ``throttled``.
        """
        return
