"""What the decorators return, as type checkers see it.

At run time these are plain functions with attributes, so that methods bind, FastAPI sees
whether they are async, and calls are fast. Call ``options`` of a method on the class:
``Class.method.options(...)(instance, ...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeAlias, TypeVar, Unpack, overload

from framework._records.ids import TaskId
from framework._tasks.options import (
    COPY,
    RETRY,
    THROTTLE,
    CopyOptions,
    RetryOptions,
    ThrottleOptions,
)

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)


class Decorated(Protocol[P, C_co, F_co]):
    """A decorated function, or a decorated method that is bound to its instance."""

    __name__: str

    @property
    def fn(self) -> F_co:
        """The undecorated function, which takes the instance first if it is a method."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the function as its decorator says."""
        ...


BackgroundCall: TypeAlias = Decorated[P, TaskId[T], R]
"""A `BackgroundFunction`, or such a method that is bound to its instance."""


class Unbound(Decorated[P, C_co, Callable[P, R_co]], Protocol[P, C_co, R_co]):
    """A decorated function, which binds to an instance if it is in a class."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(
        self: Unbound[Concatenate[S, Q], C, R], instance: S, owner: type[Any] | None = None
    ) -> Decorated[Q, C, Callable[Concatenate[S, Q], R]]: ...


class Submitted(Unbound[P, C_co, R_co], Protocol[P, C_co, R_co]):
    """A function whose call is a task."""

    @COPY.spelled_out_in_copies
    def options(self, **options: Unpack[CopyOptions]) -> Self:
        """Return a copy with other options; None keeps the current value.

        A copy with a *task_id* can be called once. A second call raises ``ValueError`` as
        long as the first task is known.

        Args:
            **options: See `CopyOptions`.
        """
        ...


class BackgroundFunction(Submitted[P, TaskId[T_co], R_co], Protocol[P, T_co, R_co]):
    """A function whose call submits a task and returns its id immediately."""


class AwaitableFunction(Submitted[P, Coroutine[Any, Any, T_co], R_co], Protocol[P, T_co, R_co]):
    """A function whose call runs as a task; await the call to get the result."""


class RetriedFunction(Unbound[P, T_co, T_co], Protocol[P, T_co]):
    """A function that is called again if it fails; it returns the same result."""

    @RETRY.spelled_out_in_copies
    def options(self, **options: Unpack[RetryOptions]) -> Self:
        """Return a copy with other options; omitted options keep their value.

        Args:
            **options: See `RetryOptions`.
        """
        ...


class ThrottledFunction(Unbound[P, T_co, T_co], Protocol[P, T_co]):
    """A function that is called if its rate limit allows it; it returns the same result."""

    @THROTTLE.spelled_out_in_copies
    def options(self, **options: Unpack[ThrottleOptions]) -> Self:
        """Return a copy with other options and its own windows.

        Args:
            **options: See `ThrottleOptions`.
        """
        ...


class ScheduledFunction(Decorated[[], T_co, Callable[[], T_co]], Protocol[T_co]):
    """A function that the framework runs on a schedule; called directly, it is as undecorated."""


class DueFunction(Protocol[T_co]):
    """A function that takes the due time of its run."""

    def __call__(self, due: datetime) -> T_co:
        """Run for a due time."""
        ...


class ScheduledDueFunction(DueFunction[T_co], Protocol[T_co]):
    """A `ScheduledFunction` that takes the due time of its run."""

    __name__: str

    @property
    def fn(self) -> Callable[[datetime], T_co]:
        """The undecorated function."""
        ...


class BackgroundDecorator(Protocol):
    """``background_task(...)`` before it is put on a function."""

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /
    ) -> BackgroundFunction[P, T, Coroutine[object, object, T]]: ...

    @overload
    def __call__(self, fn: Callable[P, T], /) -> BackgroundFunction[P, T, T]: ...


class AwaitableDecorator(Protocol):
    """``async_task(...)`` before it is put on a function."""

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AwaitableFunction[P, T, Coroutine[object, object, T]]: ...

    @overload
    def __call__(self, fn: Callable[P, T], /) -> AwaitableFunction[P, T, T]: ...


class RetryDecorator(Protocol):
    """``retry_task(...)`` before it is put on a function."""

    def __call__(self, fn: Callable[P, T], /) -> RetriedFunction[P, T]:
        """Decorate *fn*."""
        ...


class ThrottleDecorator(Protocol):
    """``throttled_task(...)`` before it is put on a function."""

    def __call__(self, fn: Callable[P, T], /) -> ThrottledFunction[P, T]:
        """Decorate *fn*."""
        ...


class ScheduleDecorator(Protocol):
    """``scheduled_task(...)`` before it is put on a function."""

    @overload
    def __call__(self, fn: Callable[[], T], /) -> ScheduledFunction[T]: ...

    @overload
    def __call__(self, fn: DueFunction[T], /) -> ScheduledDueFunction[T]: ...
