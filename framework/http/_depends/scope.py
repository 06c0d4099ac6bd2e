"""Scopes: the values of one attempt, and what must be closed when the attempt ends.

A scope says which step comes next, and what it was given takes the step where it belongs: on a
thread or on an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias  # dependencies return anything

from framework.http._depends.graph import Node, node_of


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


Take: TypeAlias = Callable[[Step], Awaitable[Any]]
"""Takes a step, and returns its result or raises its error."""


class Scope:
    """The dependencies of one attempt.

    Args:
        overrides: What is called in place of a dependency: ``app.dependency_overrides``.
        take: Takes its steps.
    """

    __slots__ = ("_exits", "_overrides", "_solved", "_take")

    def __init__(
        self,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]],
        take: Take,
    ) -> None:
        self._overrides = overrides
        self._take = take
        self._solved: dict[Hashable, Any] = {}
        self._exits: list[tuple[Any, bool]] = []

    async def open(self, nodes: Mapping[str, Node]) -> dict[str, Any]:
        """Return the values of dependencies, by parameter name."""
        return {name: await self._value(node) for name, node in nodes.items()}

    async def _value(self, node: Node) -> Any:
        key = _key(node.call)
        if node.use_cache and key in self._solved:
            return self._solved[key]
        if self._overrides and (override := self._overrides.get(node.call)) is not None:
            node = node_of(override, node.chain[:-1], node.use_cache)
        values = await self.open(node.needs)
        for name, default in node.defaults.items():
            values[name] = default()
        if node.context is None:
            value = await self._take(Step(partial(node.call, **values), node.is_async))
        else:
            entered = node.context(**values)
            enter = entered.__aenter__ if node.is_async else entered.__enter__
            undo = partial(_leave, entered)
            value = await self._take(Step(enter, node.is_async, undo=undo))
            self._exits.append((entered, node.is_async))
        # As in FastAPI, the first value is kept, also that of a use without the cache.
        self._solved.setdefault(key, value)
        return value

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Close what was opened, the latest first.

        Each is told the error, and all are closed. One that catches the error does not undo it:
        an attempt that failed has failed.

        Args:
            error: What ended the attempt; None if it succeeded.

        Returns:
            The error with which the attempt ends, or None.
        """
        while self._exits:
            entered, is_async = self._exits.pop()
            try:
                await self._take(Step(partial(_leave, entered, error), is_async, closes=True))
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
