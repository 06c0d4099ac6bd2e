"""The public errors of the framework.

Each class takes typed fields, passes them on positionally (so that it can be pickled)
and builds its message in ``__str__``.
"""

from __future__ import annotations

import math
import queue
from typing import Any

from starlette.exceptions import HTTPException

__all__ = [
    "BrokerUnavailableError",
    "DeadlockError",
    "DuplicateTaskError",
    "FrameworkError",
    "FrameworkNotStartedError",
    "MessageRefusedError",
    "NoWorkersError",
    "QueueFullError",
    "RateLimitExceededError",
    "RemoteTaskError",
    "RunAgainError",
    "ScheduleBusyError",
    "ScheduleNotFoundError",
    "StepInterruptedError",
    "StepMismatchError",
    "StepTakenError",
    "StoreUnavailableError",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskInterruptedError",
    "TaskNotFoundError",
    "TaskTimeoutError",
]


class FrameworkError(Exception):
    """Base class of all errors that the framework raises."""


class _AnsweredError(FrameworkError, HTTPException):
    """An error that a route answers by itself.

    Args:
        status: The status of the response.
        detail: What it says.
        args: The arguments of the error, so that it can be pickled.
        retry_after: When to try again, in seconds, above 0; None to say nothing of that.
    """

    def __init__(
        self, status: int, detail: str, args: tuple[Any, ...], retry_after: float | None = None
    ) -> None:
        # Whole seconds, rounded up (RFC 9110, 10.2.3).
        pause = None if retry_after is None else str(max(1, math.ceil(retry_after)))
        headers = None if pause is None else {"Retry-After": pause}
        HTTPException.__init__(self, status, detail, headers)
        self.args = args

    def __repr__(self) -> str:
        return Exception.__repr__(self)


class FrameworkNotStartedError(FrameworkError, RuntimeError):
    """Raised when no framework is running, or when it is stopping or has stopped.

    Attributes:
        state: The state of the framework: ``"not started"``, ``"stopping"``, ``"stopped"``,
            ``"forked"`` or ``"ambiguous"``.
    """

    def __init__(self, state: str = "not started") -> None:
        super().__init__(state)
        self.state = state

    def __str__(self) -> str:
        return _NOT_STARTED.get(self.state, _NOT_STARTED["not started"])


_CURE = (
    "add it to the app that is served (FastAPI(lifespan=setup_async_framework)), as one that is "
    "mounted in it has no lifespan, enter it yourself "
    "('async with setup_async_framework(app):'), or in a test use 'with TestClient(app)' "
    "or the fixture task_manager of the pytest plugin"
)
_NOT_STARTED = {
    "not started": f"no task framework is running here: {_CURE}",
    "stopping": "the task framework is shutting down and accepts no new tasks: "
    "submit before the lifespan ends, or answer 503",
    "stopped": f"this task framework has stopped; start a new one: {_CURE}",
    "forked": "this process was forked from the process that runs the task framework, whose "
    "threads do not exist here: start another framework in the child process",
    "ambiguous": "several task frameworks are running, and this code does not run inside one of "
    "them: call it from a request or a task of the app that you mean, or use that app's "
    "'app.state.task_manager'",
}


class QueueFullError(_AnsweredError, queue.Full):
    """Raised when the task queue is full; a route answers 503.

    Attributes:
        queue_size: How many tasks may wait, 1 or more.
        retry_after: When to try again, in seconds, above 0. The framework gives whole seconds
            from 1 to 60, estimated from how fast the queue has emptied since it began to refuse
            tasks.
    """

    def __init__(self, queue_size: int, retry_after: float = 1.0) -> None:
        super().__init__(503, "Task queue is full", (queue_size, retry_after), retry_after)
        self.queue_size = queue_size
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"the task queue is full: {self.queue_size} tasks are waiting; try again in "
            f"{self.retry_after:g} s, or increase 'queue_size' or 'max_workers'"
        )


class RateLimitExceededError(_AnsweredError):
    """Raised when a throttled function is called too often; a route answers 429.

    Attributes:
        name: Name of the throttled function.
        rate_limit: How many calls a window allows.
        time_window: Length of the window in seconds.
        retry_after: Seconds until the next call is allowed, above 0.
    """

    def __init__(self, name: str, rate_limit: int, time_window: float, retry_after: float) -> None:
        told = (name, rate_limit, time_window, retry_after)
        super().__init__(429, "Rate limit exceeded", told, retry_after)
        self.name = name
        self.rate_limit = rate_limit
        self.time_window = time_window
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"{self.name} may be called {self.rate_limit} times in {self.time_window:g} s; "
            f"try again in {self.retry_after:.3f} s, or use when_limited='wait'"
        )


class DuplicateTaskError(_AnsweredError):
    """Raised when a task of a unique function exists already; a route answers 409.

    Attributes:
        name: Name of the task.
        task_id: The id of the task that is pending or running.
    """

    def __init__(self, name: str, task_id: str) -> None:
        super().__init__(409, "This task exists already", (name, task_id))
        self.name = name
        self.task_id = task_id

    def __str__(self) -> str:
        return (
            f"{self.name} is unique, and task {_cut(self.task_id)} of it has not ended yet: wait "
            "for that one, or use on_duplicate='return' or 'replace'"
        )


class _TaskError(FrameworkError):
    """An error about one task, with its id and name."""

    def __init__(self, task_id: str, name: str = "") -> None:
        super().__init__(task_id, name)
        self.task_id = task_id
        self.name = name

    def _who(self) -> str:
        return f"task {_cut(self.task_id)}" + (f" ({self.name})" if self.name else "")


class TaskNotFoundError(_TaskError, _AnsweredError, LookupError):
    """Raised when no task has this id; a route answers 404.

    It was never accepted, or has been evicted.
    """

    def __init__(self, task_id: str, name: str = "") -> None:
        _AnsweredError.__init__(self, 404, "Task not found", (task_id, name))
        self.task_id = task_id
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self._who()} is unknown: the id is wrong, or the finished task was forgotten "
            "(see 'result_ttl' and 'max_finished_tasks')"
        )


class TaskCancelledError(_TaskError):
    """Raised when you wait for a task that was cancelled, and inside the task."""

    def __str__(self) -> str:
        return f"{self._who()} was cancelled"


class TaskInterruptedError(_TaskError):
    """Raised when you wait for a task that a shutdown or a crash interrupted."""

    def __str__(self) -> str:
        return f"{self._who()} was interrupted before it could end; it may have run in part"


class TaskFailedError(_TaskError):
    """Raised instead of a task's exception that would end or confuse the waiting code.

    The task's own exception (``SystemExit``, ``KeyboardInterrupt``, ``GeneratorExit``,
    ``StopIteration``, ``StopAsyncIteration``, either ``CancelledError``, or a
    ``BaseExceptionGroup`` with one that ends the code) is its cause.
    """

    def __str__(self) -> str:
        return f"{self._who()} failed with {self.__cause__!r}"


class RunAgainError(_TaskError, ValueError):
    """Raised by `TaskManager.run_again` if the task cannot be run again.

    Attributes:
        task_id: The task's id.
        name: The task's name.
        reason: Why it cannot, and what to do.
    """

    def __init__(self, task_id: str, name: str, reason: str) -> None:
        super().__init__(task_id, name)
        # All three, so that it can be pickled.
        self.args: tuple[Any, ...] = (task_id, name, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self._who()} cannot be run again: {self.reason}"


class TaskTimeoutError(FrameworkError, TimeoutError):
    """Raised when you wait for a task that ran past its time limit.

    Attributes:
        task_id: The task's id, or "" for a call of `pool.submit`.
        name: The task's name.
        limit: The time limit in seconds.
    """

    def __init__(self, task_id: str, name: str, limit: float) -> None:
        super().__init__()
        # OSError would take three arguments for errno, text and file name.
        self.args: tuple[Any, ...] = (task_id, name, limit)
        self.task_id = task_id
        self.name = name
        self.limit = limit

    def __str__(self) -> str:
        who = f"task {_cut(self.task_id)} ({self.name})" if self.task_id else self.name
        return f"{who} ran past its time limit of {self.limit:g} s"


class RemoteTaskError(FrameworkError):
    """Raised instead of an exception from another process that cannot be rebuilt here.

    Attributes:
        type_name: Module and qualified name of its class.
        text: Its message, cut at 2,000 characters.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class _UnavailableError(_AnsweredError):
    """Something outside this process did not answer in time; a route answers 503."""

    def __init__(self, reason: str = "") -> None:
        # The reason may name hosts and users, which clients must not see.
        super().__init__(503, "Tasks are unavailable", (reason,), 1.0)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "no reason was given"


class ScheduleNotFoundError(FrameworkError, LookupError):
    """Raised when there is no schedule of this name.

    Attributes:
        name: The name.
        known: The names of the schedules that this process runs.
    """

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.known)) or "no schedules"
        return f"there is no schedule {self.name!r}; this process has {names}"


class ScheduleBusyError(FrameworkError, RuntimeError):
    """Raised when a schedule is to run by hand, and its last run has not ended.

    Attributes:
        name: The schedule.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"schedule {self.name!r} is running, and its runs do not overlap: wait for the run, "
            "or cancel it"
        )


class NoWorkersError(FrameworkError, RuntimeError):
    """Raised when a process without workers submits a task that no other process may run.

    Attributes:
        name: Name of the function.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name} cannot run in this process, which has max_workers=0 and only submits, "
            "nor in another one: declare it with @background_task(on_restart='requeue'), so that "
            "a worker may run it, or give this process workers"
        )


class MessageRefusedError(FrameworkError):
    """Raised when a message is sent that its task can never receive.

    Attributes:
        task_id: The task's id.
        name: The message's name.
        reason: Why, for people.
    """

    def __init__(self, task_id: str, name: str, reason: str) -> None:
        super().__init__(task_id, name, reason)
        self.task_id = task_id
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"message {self.name!r} to task {_cut(self.task_id)} is refused: {self.reason}"


class StepMismatchError(FrameworkError):
    """Raised by a call of a step that cannot be told from one whose arguments are made anew.

    Its task has recorded a call of this step with other arguments that this run has not asked for.

    Attributes:
        task_id: The task's id.
        name: The step's module and qualified name.
    """

    def __init__(self, task_id: str, name: str) -> None:
        super().__init__(task_id, name)
        self.task_id = task_id
        self.name = name

    def __str__(self) -> str:
        return (
            f"step {self.name} of task {_cut(self.task_id)} was not called with these arguments "
            "before, and a call with others is recorded: arguments must be the same in each run; "
            "make what is new, such as an id or the time, in a step of its own, or say with key= "
            "of the step what its work is"
        )


class StepInterruptedError(FrameworkError):
    """Raised by a step that runs once at most, and whose process has ended while it ran.

    Whether it has taken effect is not known here: ask whoever it has called.

    Attributes:
        task_id: The task's id.
        name: The step's module and qualified name.
    """

    def __init__(self, task_id: str, name: str) -> None:
        super().__init__(task_id, name)
        self.task_id = task_id
        self.name = name

    def __str__(self) -> str:
        return (
            f"step {self.name} of task {_cut(self.task_id)} had begun when its process ended, and "
            "is not run again: ask whoever it has called whether it has taken effect"
        )


class StepTakenError(FrameworkError):
    """Raised by a step whose task has ended, or was taken by another process meanwhile.

    A process is taken for dead if it stands still. What the step did is not recorded, so the other
    process does it again.

    Attributes:
        task_id: The task's id.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return (
            f"task {_cut(self.task_id)} has ended, or runs in another process by now: its steps "
            "are not stored here any more"
        )


class StoreUnavailableError(_UnavailableError):
    """Raised when the store could not write or read a task in time; a route answers 503.

    Attributes:
        reason: The error of the database, and what to do.
    """


class BrokerUnavailableError(_UnavailableError):
    """Raised when the broker does not answer; also the error of a task that could not be sent.

    A route answers 503.

    Attributes:
        reason: The error of the broker, since when, and what to do.
    """


class DeadlockError(FrameworkError, RuntimeError):
    """Raised by a wait that can never end, because the tasks wait for each other.

    Attributes:
        chain: Names of the tasks that wait for each other, the waiting one first.
    """

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__(chain)
        self.chain = chain

    def __str__(self) -> str:
        return (
            "deadlock: " + " waits for ".join(self.chain) + "; wait with a "
            "timeout, or return the task id and let the caller wait"
        )


def _cut(task_id: object) -> str:
    text = repr(task_id) if isinstance(task_id, str) else f"<{type(task_id).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}...'"
