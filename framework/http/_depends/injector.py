"""The injector: makes a function whose calls get values for its dependencies."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any  # a task's function may take and return anything

from framework._decorators.dressing import Dress
from framework._records.statuses import TaskStatus
from framework._tasks.current import current_home, current_record
from framework._tasks.functions import is_async, name_of, signature_of
from framework._tasks.injection import LAYER
from framework.exceptions import TaskInterruptedError, TaskTimeoutError
from framework.http._depends.drivers import (
    Companion,
    Threads,
    await_steps,
    close_later,
    take_steps,
)
from framework.http._depends.graph import Edge, edges_of, optional_of
from framework.http._depends.scope import Scope


def inject(fn: Callable[..., Any], dependencies: Mapping[str, Any]) -> Any:
    """Return *fn* without its dependencies; see `injection.Injector`.

    A call opens them, calls *fn*, and closes them when it has ended, whatever its end.

    Raises:
        TypeError: If a task cannot have one of them.
    """
    signature = signature_of(fn)
    assert signature is not None
    name = name_of(fn).rpartition(".")[2]
    edges = edges_of(dependencies, (name,))
    attempts = _Attempts(fn, edges, _places(name, signature, dependencies))
    run, run_async = attempts.run, attempts.run_async

    # Neither finds a name of this module: the dress gives them the globals of the function.
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        return run(args, kwargs)

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        return await run_async(args, kwargs)

    inner: Any = async_inner if is_async(fn) else sync_inner
    assert isinstance(inner, types.FunctionType)
    rest = [one for name, one in signature.parameters.items() if name not in dependencies]
    dress = Dress(fn, LAYER, signature=signature.replace(parameters=rest))
    optional = tuple(optional_of(edges))
    return dress.put_on(
        inner, __asyncframe_dependencies__=tuple(dependencies), __asyncframe_optional__=optional
    )


def _places(
    name: str, signature: inspect.Signature, dependencies: Mapping[str, Any]
) -> tuple[tuple[int, str], ...]:
    """Return the positions of dependencies before which a caller may pass arguments by position.

    Raises:
        TypeError: If one is positional only, which FastAPI has no way to pass.
    """
    found = []
    for place, parameter in enumerate(signature.parameters.values()):
        if parameter.name not in dependencies:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(
                f"the dependency {parameter.name!r} of {name} stands before '/', but dependencies "
                "are passed by name: move it behind the '/'"
            )
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            found.append((place, parameter.name))
    return tuple(found)


class _Attempts:
    """Calls a function with its dependencies.

    Args:
        fn: The function.
        edges: Its dependencies.
        places: The places of those that may be positional, in order.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        edges: Mapping[str, Edge],
        places: tuple[tuple[int, str], ...],
    ) -> None:
        self._fn = fn
        self._edges = edges
        self._places = places

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one attempt on a thread."""
        scope, companion = self._scope(), Companion()
        failure: BaseException | None = None
        early = result = None
        try:
            values = take_steps(scope.open(), companion)
            result = self._fn(*self._placed(args, values), **kwargs, **values)
            failure = early = _early_end()
        except BaseException as error:  # told to the dependencies, and raised below
            failure = error
        try:
            failure = take_steps(scope.close(failure), companion)
            companion.end()
            # The task has ended already; what is raised here could only cause a retry.
            if failure is not early:
                raise failure
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            del failure, early
        return result

    async def run_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one attempt on an event loop."""
        scope, threads = self._scope(), Threads()
        failure: BaseException | None = None
        early = result = None
        try:
            values = await await_steps(scope.open(), threads)
            result = await self._fn(*self._placed(args, values), **kwargs, **values)
            failure = early = _early_end()
        except GeneratorExit as closed:
            close_later(scope.close(closed), threads, closed)
            raise
        except BaseException as error:  # as above
            failure = error
        try:
            failure = await await_steps(scope.close(failure), threads)
            if failure is not early:
                raise failure
        finally:
            # As above.
            del failure, early
        return result

    def _scope(self) -> Scope:
        home = current_home.get()
        app = None if home is None else home.app
        return Scope(self._edges, getattr(app, "dependency_overrides", None) or {})

    def _placed(self, args: tuple[Any, ...], values: dict[str, Any]) -> tuple[Any, ...]:
        """Return positional arguments with the values that stand between them.

        Those that are placed are taken out of *values*.
        """
        placed = list(args)
        for place, name in self._places:
            if place < len(placed):
                placed.insert(place, values.pop(name))
        return tuple(placed)


def _early_end() -> Exception | None:
    """Return the error with which the task has ended before its function did; None if it lives.

    So a dependency does not commit the work of a task that has failed for everybody who asks,
    and that may have been run again meanwhile.
    """
    task = current_record.get()
    if task is None:
        return None
    if task.status is TaskStatus.TIMEOUT:
        return TaskTimeoutError(task.task_id, task.name, task.limit or 0.0)
    if task.status is TaskStatus.INTERRUPTED:
        return TaskInterruptedError(task.task_id, task.name)
    return None
