"""Scopes: the values of one attempt, and what must be closed when the attempt ends.

A scope says which step comes next, and its driver takes the step where it belongs: on a thread or
on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias  # dependencies return anything

from framework.http._depends.graph import Edge, node_of


class Step(NamedTuple):
    """A call that a scope wants to be made.

    Attributes:
        call: The call; it returns an awaitable if the step is async.
        is_async: Whether it belongs on the event loop, and not on a thread.
        closes: Whether it closes something.
        undo: Called with an error, closes what the call has opened if its scope never knows;
            None for nothing.
    """

    call: Callable[[], Any]
    is_async: bool
    closes: bool = False
    undo: Callable[[BaseException], object] | None = None


Steps: TypeAlias = Generator[Step, Any, Any]
"""Yields steps, and is sent their results, or thrown their errors."""


class Scope:
    """The dependencies of one attempt.

    Args:
        edges: The dependencies of the task's function, by parameter name.
        overrides: What is called in place of a dependency: ``app.dependency_overrides``.
    """

    __slots__ = ("_edges", "_exits", "_overrides", "_solved")

    def __init__(
        self, edges: Mapping[str, Edge], overrides: Mapping[Callable[..., Any], Callable[..., Any]]
    ) -> None:
        self._edges = edges
        self._overrides = overrides
        self._solved: dict[Hashable, Any] = {}
        self._exits: list[tuple[Any, bool]] = []

    def open(self) -> Steps:
        """Return the steps that get all values; their result is a dict by parameter name."""
        return self._solve(self._edges)

    def _solve(self, edges: Mapping[str, Edge]) -> Steps:
        values = {}
        for name, edge in edges.items():
            values[name] = yield from self._value(edge)
        return values

    def _value(self, edge: Edge) -> Steps:
        node = edge.node
        key = _key(node.call)
        if edge.use_cache and key in self._solved:
            return self._solved[key]
        if self._overrides and (override := self._overrides.get(node.call)) is not None:
            node = node_of(override, edge.chain)
        values = yield from self._solve(node.edges)
        for name, default in node.defaults.items():
            values[name] = default()
        if node.context is None:
            value = yield Step(partial(node.call, **values), node.is_async)
        else:
            entered = node.context(**values)
            enter = entered.__aenter__ if node.is_async else entered.__enter__
            value = yield Step(enter, node.is_async, undo=partial(_leave, entered))
            self._exits.append((entered, node.is_async))
        # As in FastAPI, the first value is kept, also that of a use without the cache.
        self._solved.setdefault(key, value)
        return value

    def close(self, error: BaseException | None) -> Steps:
        """Return the steps that close what was opened, the latest first.

        Each is told the error, and all are closed. One that catches the error does not undo it:
        an attempt that failed has failed.

        Args:
            error: What ended the attempt; None if it succeeded.

        Returns:
            Steps whose result is the error with which the attempt ends, or None.
        """
        while self._exits:
            entered, is_async = self._exits.pop()
            try:
                yield Step(partial(_leave, entered, error), is_async, closes=True)
            except BaseException as raised:  # the others are closed all the same
                error = raised
        return error


def _leave(entered: Any, error: BaseException | None) -> Any:
    """Leave a context manager; return the awaitable of an async one."""
    leave = getattr(entered, "__aexit__", None) or entered.__exit__
    if error is None:
        return leave(None, None, None)
    return leave(type(error), error, error.__traceback__)


def _key(call: Callable[..., Any]) -> Hashable:
    try:
        hash(call)
    except TypeError:  # an object that can be called, but that is no key
        return id(call)
    return call
