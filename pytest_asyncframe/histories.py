"""Histories of operations, which a test records and compares with a model."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, TypeVar, cast

from framework import TaskCancelledError, TaskInterruptedError, current_task
from pytest_asyncframe._histories.orders import Budget, TooManyStatesError, is_explained
from pytest_asyncframe._histories.record import NEVER, Outcome, Raised, Record, Returned, snapshot
from pytest_asyncframe._histories.shortest import shortest
from pytest_asyncframe._histories.told import told

__all__ = ["History", "Operation"]

T = TypeVar("T")

_UNKNOWN = (TimeoutError, TaskCancelledError, TaskInterruptedError)
"""Errors that do not say whether what was asked took effect."""

_SPECIAL = ("__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__", "__call__")
"""The special methods that `History.watch` records."""


class Operation:
    """One operation of a history: it begins and ends with the ``with`` or ``async with`` block.

    If the block raises an error, the model has to raise one of the same class, or of a class
    that it derives from. If it is cancelled or times out (`TimeoutError`), the operation may
    have taken effect or not, like one that never ends.

    Attributes:
        result: What it has returned, to be set inside the block; the model has to return
            something equal. None if it is not set.
    """

    result: Any

    def __init__(
        self,
        record: Record,
        begin: Callable[[Record], object],
        end: Callable[[Record, Outcome], object],
    ) -> None:
        self._record = record
        self._begin = begin
        self._end = end
        self._is_unknown = False

    def unknown(self) -> None:
        """Say that nobody knows whether it takes effect, as after a lost response."""
        self._is_unknown = True

    def __enter__(self) -> Operation:
        """Begin it."""
        self._begin(self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        if self._is_unknown or isinstance(error, _UNKNOWN):
            return
        if error is None:
            given = "result" in self.__dict__
            outcome = Returned(snapshot(self.result) if given else None, given)
            self._end(self._record, outcome)
        elif isinstance(error, Exception):
            self._end(self._record, Raised(error))

    async def __aenter__(self) -> Operation:
        """Begin it."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self.__exit__(kind, error, traceback)


class History:
    """The operations of one test on something that several tasks, threads or requests share.

    They are compared with a model, which does one operation after the other. The history is
    linearizable if the results are those of the model in some order, in which an operation
    that had ended before another one began comes first. This is checked by `check`, and at the
    end of a test that has not failed. Record on any thread and in any event loop.

    Args:
        model: Makes a model in its first state, such as a class.
        key: The name of the parameter that says which of several independent objects an
            operation concerns; None for one object.
        states: How many states of the model a check may look at.
        elapsed: Returns the seconds since the test began.
        undivided: Context manager in which nobody else runs.
        location: The line that made it; "" if unknown.
    """

    def __init__(
        self,
        model: Callable[[], object],
        *,
        key: str | None,
        states: int,
        elapsed: Callable[[], float],
        undivided: Callable[[], AbstractContextManager[object]],
        location: str,
    ) -> None:
        self._make = model
        self._key = key
        self._states = states
        self._elapsed = elapsed
        self._undivided = undivided
        self._location = location
        self._signatures: dict[str, inspect.Signature | None] = {}
        self._name = getattr(model, "__name__", type(model).__name__)
        if not isinstance(model, type):
            self._name = type(_made(model)).__name__
        self._methods = _methods(_made(model))
        self._numbers = itertools.count()
        self._records: list[Record] = []
        # What the latest check has seen: how many beginnings and ends there were.
        self._checked = 0
        self._changes = 0

    def __repr__(self) -> str:
        return f"<history of {len(self._records)} operations, model {self._name}>"

    # -- recording

    def operation(self, name: str, /, *args: Any, **kwargs: Any) -> Operation:
        """Return an operation, to be used once in ``with`` or ``async with``.

        Args:
            name: The name of the model's method that does the same.
            args: The positional arguments of that method.
            kwargs: Its keyword arguments.

        Raises:
            AttributeError: If the model has no such method.
            TypeError: If the method does not take these arguments.
        """
        __tracebackhide__ = True
        return Operation(self._record(name, args, kwargs), self._begin, self._end)

    def watch(self, real: T) -> T:
        """Return a stand-in for *real* whose calls of the model's methods are recorded.

        All else of it is that of *real*. Methods may be ``async def`` where the model's are
        not. What the methods of *real* call on itself is not recorded. Special methods are:
        ``[]``, ``in``, ``len()`` and calls.

        Args:
            real: The object that is used by several.

        Raises:
            TypeError: If *real* has none of the model's methods.
        """
        __tracebackhide__ = True
        shared = [name for name in self._methods if callable(getattr(real, name, None))]
        if not shared:
            raise TypeError(
                f"{real!r} has none of the methods of {self._name}: {', '.join(self._methods)}"
            )
        return cast("T", _stand_in(self, real, shared))

    def _record(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Record:
        __tracebackhide__ = True
        method = self._methods.get(name)
        if method is None:
            raise AttributeError(
                f"{self._name} has no method {name!r}; it has {', '.join(self._methods)}"
            )
        if name not in self._signatures:
            self._signatures[name] = _signature(method)
        signature = self._signatures[name]
        if signature is not None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self._name}.{name}(): {error}") from None
        if self._key is not None:
            self._key_of(self._key, name, args, kwargs)
        return Record(name, snapshot(args), snapshot(dict(kwargs)), _who(), -1)

    def _begin(self, record: Record) -> None:
        if record.called >= 0:
            raise RuntimeError(f"the operation {record.name} has begun before: make a new one")
        record.called_at = self._elapsed()
        record.called = next(self._numbers)
        # Before it is called, and in this order, whatever other threads do.
        self._records.append(record)
        self._changes += 1

    def _end(self, record: Record, outcome: Outcome) -> None:
        record.returned = next(self._numbers)
        record.returned_at = self._elapsed()
        # Last: another thread may be checking.
        record.outcome = outcome
        self._changes += 1

    # -- checking

    def check(self) -> None:
        """Check that some order of the operations so far explains their results.

        Operations that have not ended may have taken effect or not. Call it again, or let the
        end of the test check what comes later.

        Raises:
            AssertionError: If there is no such order. The message tells the shortest part of
                the history that was found to have none.
            RuntimeError: If no operation was recorded, or after so many states that the
                history is neither explained nor shown to be wrong.
        """
        __tracebackhide__ = True
        found = self._found()
        if found is not None:
            raise found

    def finding(self) -> str:
        """Return what a check at the end of the test finds; "" for nothing."""
        if self._checked and self._checked == self._changes:
            return ""
        found = self._found()
        made = self._location and f"\nthe history was made at {self._location}"
        return "" if found is None else f"{found}{made}"

    def _found(self) -> Exception | None:
        # As they are now, though others may run.
        records = [one.cut(NEVER) for one in sorted(self._records, key=lambda one: one.called)]
        self._checked = self._changes
        if not records:
            return RuntimeError(
                f"no operation was recorded to be compared with {self._name}: use operation() "
                "around each one, or let the app use what watch() returns"
            )
        with self._undivided():
            for part in self._parts(records):
                found = self._found_in(part)
                if found is not None:
                    return found
        return None

    def _parts(self, records: list[Record]) -> list[list[Record]]:
        """Return the operations of each key, which are independent of the others."""
        key = self._key
        if key is None:
            return [records]
        parts: dict[Any, list[Record]] = {}
        for one in records:
            parts.setdefault(self._key_of(key, one.name, one.args, one.kwargs), []).append(one)
        return list(parts.values())

    def _key_of(self, key: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        __tracebackhide__ = True
        signature = self._signatures[name]
        if signature is None or key not in signature.parameters:
            raise TypeError(
                f"{self._name}.{name}() has no parameter {key!r}, so it concerns all of "
                f"them: leave out key={key!r}"
            )
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[key]

    def _found_in(self, records: list[Record]) -> Exception | None:
        try:
            if is_explained(records, self._make, Budget(self._states)):
                return None
        except TooManyStatesError:
            return RuntimeError(
                f"gave up after {self._states:,} states: {len(records)} operations of "
                f"{self._name} overlap so much that neither an order was found nor shown to be "
                "missing; record fewer, name the parameter of independent objects with key=, or "
                "raise states="
            )
        least, left_out = shortest(records, self._make, self._states)
        return AssertionError(told(least, left_out, self._name, self._make))


def _made(make: Callable[[], object]) -> object:
    """Make a model, to check that this gives a new one each time.

    Raises:
        TypeError: If it does not.
    """
    __tracebackhide__ = True
    if not callable(make):
        raise TypeError(f"model must be a class, or a function that makes a model, not {make!r}")
    model = make()
    if model is make():
        raise TypeError(f"model must make a new model each time, but {make!r} returns the same")
    return model


def _methods(model: object) -> dict[str, Callable[..., Any]]:
    """Return the methods of a model that can be operations, by name.

    Raises:
        TypeError: If there is none, or one is a coroutine function.
    """
    __tracebackhide__ = True
    found: dict[str, Callable[..., Any]] = {}
    for name in dir(type(model)):
        if name.startswith("_") and (name not in _SPECIAL or isinstance(model, type)):
            continue
        method = getattr(model, name)
        if not callable(method):
            continue
        if inspect.iscoroutinefunction(method):
            raise TypeError(
                f"{type(model).__name__}.{name}() is a coroutine function, but a model does one "
                "operation at a time: make it a plain method"
            )
        found[name] = method
    if not found:
        raise TypeError(f"the model {model!r} has no method that could be an operation")
    return found


def _signature(method: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(method)
    except (TypeError, ValueError):  # of C code, which may have none
        return None


def _who() -> str:
    """Return the name of the task, the coroutine or the thread that runs here."""
    task = current_task()
    if task is not None:
        return f"{task.name.rpartition('.')[2]}#{task.task_id[:8]}"
    try:
        running = asyncio.current_task()
    except RuntimeError:
        running = None
    if running is None:
        thread = threading.current_thread()
        return "test" if thread is threading.main_thread() else thread.name
    name = getattr(running.get_coro(), "__name__", "")
    return f"{name} ({running.get_name()})" if name else running.get_name()


# -- stand-ins


def _stand_in(history: History, real: Any, names: list[str]) -> object:
    """Return an object that records calls of some methods of *real*, and is it in all else."""
    recorded = {name: _recording(history, name, getattr(real, name)) for name in names}

    class StandIn:
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            return recorded[name] if name in recorded else getattr(real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(real, name, value)

        def __delattr__(self, name: str) -> None:
            delattr(real, name)

        def __repr__(self) -> str:
            return f"<{real!r}, recorded>"

    for name in (*_SPECIAL, *("__iter__", "__bool__", "__eq__", "__hash__")):
        if name in recorded:
            setattr(StandIn, name, _forwarding(recorded[name]))
        elif callable(getattr(real, name, None)):
            setattr(StandIn, name, _forwarding(getattr(real, name)))
    return StandIn()


def _forwarding(method: Callable[..., Any]) -> Callable[..., Any]:
    def forwarded(_: object, *args: Any) -> Any:
        return method(*args)

    return forwarded


def _recording(history: History, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return *method*, each call of which is an operation."""

    async def ended(operation: Operation, result: Awaitable[Any]) -> Any:
        with ExitStack() as stack:
            stack.push(operation)
            operation.result = await result
        return operation.result

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def async_inner(*args: Any, **kwargs: Any) -> Any:
            with history.operation(name, *args, **kwargs) as operation:
                operation.result = await method(*args, **kwargs)
            return operation.result

        return async_inner

    @functools.wraps(method)
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            operation = stack.enter_context(history.operation(name, *args, **kwargs))
            operation.result = result = method(*args, **kwargs)
            if inspect.isawaitable(result):
                # It goes on until the result is there.
                stack.pop_all()
                return ended(operation, result)
        return result

    return sync_inner
