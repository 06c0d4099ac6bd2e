"""What the decorators return, as type checkers see it.

At run time these are plain functions with attributes, so that methods bind, FastAPI sees
whether they are async, and calls are fast. Call ``options`` of a method on the class:
``Class.method.options(...)(instance, ...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

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
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)


class BackgroundCall(Protocol[P, T_co, F_co]):
    """A `BackgroundFunction`, or such a method that is bound to its instance."""

    __name__: str

    @property
    def fn(self) -> F_co:
        """The undecorated function, which takes the instance first if it is a method."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> TaskId[T_co]:
        """Submit the call as a task and return its id immediately."""
        ...


class BoundCall(Protocol[P, R_co, F_co]):
    """A method with one of the other decorators, bound to its instance."""

    __name__: str

    @property
    def fn(self) -> F_co:
        """The undecorated function, which takes the instance first."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the method of this instance."""
        ...


class BackgroundFunction(BackgroundCall[P, T_co, Callable[P, R_co]], Protocol[P, T_co, R_co]):
    """A function whose call submits a task and returns its id."""

    @property
    def fn(self) -> Callable[P, R_co]:
        """The undecorated function."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(
        self: BackgroundFunction[Concatenate[S, Q], T, R],
        instance: S,
        owner: type[Any] | None = None,
    ) -> BackgroundCall[Q, T, Callable[Concatenate[S, Q], R]]: ...

    @COPY.spelled_out_in_copies
    def options(self, **options: Unpack[CopyOptions]) -> Self:
        """Return a copy with other options; None keeps the current value.

        A copy with a *task_id* can be called once. A second call raises ``ValueError`` as
        long as the first task is known.

        Args:
            **options: See `CopyOptions`.
        """
        ...


class AwaitableFunction(Protocol[P, T_co, R_co]):
    """A function whose call runs as a task; await the call to get the result."""

    __name__: str

    @property
    def fn(self) -> Callable[P, R_co]:
        """The undecorated function."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Run the call as a task; await it to get the result."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(
        self: AwaitableFunction[Concatenate[S, Q], T, R],
        instance: S,
        owner: type[Any] | None = None,
    ) -> BoundCall[Q, Coroutine[Any, Any, T], Callable[Concatenate[S, Q], R]]: ...

    @COPY.spelled_out_in_copies
    def options(self, **options: Unpack[CopyOptions]) -> Self:
        """Return a copy with other options; see `BackgroundFunction.options`."""
        ...


class RetriedFunction(Protocol[P, T_co]):
    """A function that is called again if it fails; it returns the same result."""

    __name__: str

    @property
    def fn(self) -> Callable[P, T_co]:
        """The undecorated function."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function, again if it fails."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(
        self: RetriedFunction[Concatenate[S, Q], T],
        instance: S,
        owner: type[Any] | None = None,
    ) -> BoundCall[Q, T, Callable[Concatenate[S, Q], T]]: ...

    @RETRY.spelled_out_in_copies
    def options(self, **options: Unpack[RetryOptions]) -> Self:
        """Return a copy with other options; omitted options keep their value.

        Args:
            **options: See `RetryOptions`.
        """
        ...


class ThrottledFunction(Protocol[P, T_co]):
    """A function with a rate limit; it returns the same result."""

    __name__: str

    @property
    def fn(self) -> Callable[P, T_co]:
        """The undecorated function."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function, if the rate limit allows it."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(
        self: ThrottledFunction[Concatenate[S, Q], T],
        instance: S,
        owner: type[Any] | None = None,
    ) -> BoundCall[Q, T, Callable[Concatenate[S, Q], T]]: ...

    @THROTTLE.spelled_out_in_copies
    def options(self, **options: Unpack[ThrottleOptions]) -> Self:
        """Return a copy with other options and its own windows.

        Args:
            **options: See `ThrottleOptions`.
        """
        ...


class ScheduledFunction(Protocol[T_co]):
    """A function that the framework runs on a schedule."""

    __name__: str

    @property
    def fn(self) -> Callable[[], T_co]:
        """The undecorated function."""
        ...

    def __call__(self) -> T_co:
        """Call the function directly, as if it were undecorated."""
        ...


class DueFunction(Protocol[T_co]):
    """A function that takes the due time of its run."""

    def __call__(self, due: datetime) -> T_co:
        """Run for a due time."""
        ...


class ScheduledDueFunction(Protocol[T_co]):
    """A `ScheduledFunction` that takes the due time of its run."""

    __name__: str

    @property
    def fn(self) -> Callable[[datetime], T_co]:
        """The undecorated function."""
        ...

    def __call__(self, due: datetime) -> T_co:
        """Call the function directly, as if it were undecorated."""
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
