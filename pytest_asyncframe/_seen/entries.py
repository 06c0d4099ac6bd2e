"""What a recorder keeps: submissions with arguments, starts, moments and snapshots."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from framework.protocols import TaskEvent, TaskRecord, TaskStatus
from framework.testing import Call, function_name, layer_of, signature_of

OWN_ENDS = (TaskStatus.COMPLETED, TaskStatus.FAILED)
"""How the function of a task ends it; every other end comes from outside."""


@dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """An error that ended the test, or the ``with`` block of a client.

    Attributes:
        error: The error.
        who: What it ended, for messages: the test or its client.
    """

    error: BaseException
    who: str


@dataclass(frozen=True, slots=True, eq=False)
class Injected:
    """A planned fault that took place.

    Attributes:
        text: What happened.
        location: The line that planned it, ``file:line in function``; "" if it was searched.
        error: The error that it raises in the function's place; None if it raises none.
    """

    text: str
    location: str
    error: BaseException | None = None

    def __str__(self) -> str:
        planned = f" (planned at {self.location})" if self.location else ""
        return f"fault: {self.text}{planned}"


What: TypeAlias = TaskEvent | int | str | Failure | Injected


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The function that a test asks about; see `names.Names`.

    Attributes:
        name: The name used in the test.
        labels: Names of the tasks and functions that match.
        fn: The function without decorators; None if only the names count.
        callees: The matching functions, for their parameters.
        args: Positional arguments bound to the function, such as the object of a method.
        kwargs: Keyword arguments bound to it by a partial.
    """

    name: str
    labels: frozenset[str]
    fn: Callable[..., Any] | None
    callees: tuple[Callable[..., Any], ...]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """One accepted task.

    Attributes:
        record: The task, which changes until it has ended.
        call: The function that it calls, with the arguments.
    """

    record: TaskRecord
    call: Call

    def is_of(self, target: Target) -> bool:
        """Whether it is a task of *target*."""
        if target.fn is not None:
            return bool(unwrapped(self.call.fn)[0] == target.fn)
        return self.record.name in target.labels or function_name(self.call.fn) in target.labels

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by parameter name, with defaults."""
        return by_name(self.call.fn, self.call.args, self.call.kwargs)


# Not frozen, for speed; see `Moment`.
@dataclass(slots=True, eq=False)
class Start:
    """One start of a function's body, after its throttle if it has one.

    Attributes:
        at: When it started, in seconds of the test's clock.
        task: The task that runs the body; None for a direct call.
        throttled: The name of the throttled function; None if it is not throttled.
    """

    at: float
    task: Submission | None
    throttled: str | None = None

    def is_of(self, target: Target) -> bool:
        """Whether it is a start of *target*."""
        if self.task is not None and self.task.is_of(target):
            return True
        return self.throttled is not None and self.throttled in target.labels


# Not frozen, which makes creating one four times as fast: each sleep does.
@dataclass(slots=True, eq=False)
class Moment:
    """One thing that happened in a test.

    Attributes:
        at: When it happened, in seconds of the test's clock.
        lane: Where it happened: ``test``, ``loop``, ``clock`` or the name of a thread.
        record: The task that it happened to; None if there is none.
        what: An event, the number of an attempt that started, a text, a fault, or the error
            that ended the test or a client.
        location: The line where it happened, ``file:line in function``; "" if unknown.
    """

    at: float
    lane: str
    record: TaskRecord | None
    what: What
    location: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class UnfinishedTask:
    """A task that had not ended when a snapshot was taken.

    Attributes:
        record: The task.
        status: Its status then.
        lane: The last known `Moment.lane`.
        location: The line that it was at, ``file:line in function``; "" if unknown.
        last: The last thing that had happened to it; None for nothing.
    """

    record: TaskRecord
    status: TaskStatus
    lane: str
    location: str
    last: Moment | None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The unfinished tasks and pending timers at one moment.

    Attributes:
        at: When it was taken, in seconds of the test's clock.
        error: The error that was being raised; None if there was none.
        tasks: The unfinished tasks, in the order of their submission.
        timers: The result of `VirtualClock.explain`; "" where time is real.
    """

    at: float
    error: BaseException | None
    tasks: list[UnfinishedTask]
    timers: str


# -- the arguments of calls


Function: TypeAlias = Callable[..., Any]


def unwrapped(fn: Function) -> tuple[Function, tuple[Any, ...], dict[str, Any]]:
    """Return the function behind *fn*, and the arguments bound by *fn*.

    Decorators of the framework are removed. Methods bind their object, partials their
    arguments.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    inner: Any = fn
    while True:
        if isinstance(inner, functools.partial):
            if any(arg is _PLACEHOLDER for arg in inner.args):
                return inner, args, kwargs
            args, kwargs = (*inner.args, *args), {**inner.keywords, **kwargs}
            inner = inner.func
        elif isinstance(inner, types.MethodType):
            args = (inner.__self__, *args)
            inner = inner.__func__
        elif layer_of(inner) is not None:
            inner = inner.fn
        else:
            return inner, args, kwargs


_PLACEHOLDER = getattr(functools, "Placeholder", object())
"""Leaves a place for a later argument, from Python 3.14 on."""


def by_name(fn: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by parameter name, with defaults.

    If the function has no signature, they are under ``args`` and ``kwargs``.

    Raises:
        TypeError: If they do not match the signature.
    """
    inner, first, named = unwrapped(fn)
    args, kwargs = (*first, *args), {**named, **kwargs}
    signature = signature_of(inner)
    if signature is None:
        return {"args": args, "kwargs": kwargs}
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def equal(given: Any, wanted: Any) -> bool:
    """Whether two arguments are the same or equal; False if they cannot be compared."""
    if given is wanted:
        return True
    try:
        # In this order, so that the test's own value decides: mock.ANY or approx(), say.
        return bool(wanted == given)
    except Exception:  # arrays, for instance, have no truth value
        return False
