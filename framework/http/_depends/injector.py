"""The injector: makes a function whose calls get values for its dependencies."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any  # a task's function may take and return anything

from framework._decorators.dressing import Dress
from framework._records.statuses import TaskStatus
from framework._tasks.functions import is_async, name_of, signature_of
from framework._tasks.injection import LAYER
from framework._tasks.live import current_home, current_record
from framework.exceptions import TaskInterruptedError, TaskTimeoutError
from framework.http._depends.drivers import Companion, Threads, close_later, finish
from framework.http._depends.graph import Node, nodes_of, optional_of
from framework.http._depends.scope import Scope, Take


def inject(fn: Callable[..., Any], dependencies: Mapping[str, Any]) -> Any:
    """Return *fn* without its dependencies; see `injection.Injector`.

    A call opens them, calls *fn*, and closes them when it has ended, whatever its end.

    Raises:
        TypeError: If a task cannot have one of them.
    """
    signature = signature_of(fn)
    assert signature is not None
    name = name_of(fn).rpartition(".")[2]
    needs = nodes_of(dependencies, (name,))
    attempts = _Attempts(fn, is_async(fn), needs, _places(name, signature, dependencies))
    run, run_async = attempts.run, attempts.run_async

    # Neither finds a name of this module: the dress gives them the globals of the function.
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        return run(args, kwargs)

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        return await run_async(args, kwargs)

    inner: Any = async_inner if attempts.is_async else sync_inner
    assert isinstance(inner, types.FunctionType)
    rest = [one for name, one in signature.parameters.items() if name not in dependencies]
    dress = Dress(fn, LAYER, signature=signature.replace(parameters=rest))
    optional = tuple(optional_of(needs))
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


@dataclass(frozen=True, slots=True)
class _Attempts:
    """Calls a function with its dependencies.

    Attributes:
        fn: The function.
        is_async: Whether it is ``async def``.
        needs: Its dependencies.
        places: The places of those that may be positional, in order.
    """

    fn: Callable[..., Any]
    is_async: bool
    needs: Mapping[str, Node]
    places: tuple[tuple[int, str], ...]

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one attempt on a thread."""
        companion = Companion()
        try:
            return _given(*finish(self._outcome(args, kwargs, companion.take)))
        finally:
            companion.end()

    async def run_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one attempt on an event loop."""
        return _given(*await self._outcome(args, kwargs, Threads().take))

    async def _outcome(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], take: Take
    ) -> tuple[Any, BaseException | None]:
        """Make one attempt, and return its result, and the error with which it ends."""
        home = current_home.get()
        app = None if home is None else home.app
        scope = Scope(getattr(app, "dependency_overrides", None) or {}, take)
        failure: BaseException | None = None
        early = result = None
        try:
            values = await scope.open(self.needs)
            result = self.fn(*self._placed(args, values), **kwargs, **values)
            if self.is_async:
                result = await result
            failure = early = _early_end()
        except BaseException as error:  # told to the dependencies, and raised by the caller
            if self.is_async and isinstance(error, GeneratorExit):
                close_later(scope, error)
                raise
            failure = error
        try:
            failure = await scope.close(failure)
            # The task has ended already; what is raised then could only cause a retry.
            return result, None if failure is early else failure
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            del failure, early

    def _placed(self, args: tuple[Any, ...], values: dict[str, Any]) -> tuple[Any, ...]:
        """Return positional arguments with the values that stand between them.

        Those that are placed are taken out of *values*.
        """
        placed = list(args)
        for place, name in self.places:
            if place < len(placed):
                placed.insert(place, values.pop(name))
        return tuple(placed)


def _given(result: Any, failure: BaseException | None) -> Any:
    """Return the result of an attempt, or raise its failure."""
    try:
        if failure is not None:
            raise failure
        return result
    finally:
        # As above.
        del failure


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
