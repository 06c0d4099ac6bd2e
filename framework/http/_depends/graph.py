"""Graphs of dependencies: what each needs, and whether a task can have that.

FastAPI's own solver is not used: it needs a request, changes its parameters from version to
version, and runs sync dependencies on threads that the whole app shares. What is used is
``Depends`` with its ``dependency`` and ``use_cache``, and FastAPI's classes of parameters.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final  # dependencies return anything

from fastapi import BackgroundTasks, Response, params
from fastapi.security import SecurityScopes
from pydantic.fields import FieldInfo
from starlette.background import BackgroundTasks as StarletteBackgroundTasks
from starlette.requests import HTTPConnection
from starlette.responses import Response as StarletteResponse

from framework._tasks.functions import is_async, name_of, signature_of, without_partials
from framework._tasks.injection import annotation_of, declared

_OF_A_REQUEST: Final[tuple[tuple[type, str], ...]] = (
    (HTTPConnection, "the request"),
    (Response, "the response"),
    (StarletteResponse, "the response"),
    (BackgroundTasks, "the background tasks"),
    (StarletteBackgroundTasks, "the background tasks"),
    (SecurityScopes, "the security scopes"),
)
_SOURCES: Final[tuple[tuple[type, str], ...]] = (
    (params.Path, "path parameter"),
    (params.Header, "header"),
    (params.Cookie, "cookie"),
    (params.Query, "query parameter"),
    (params.File, "file"),
    (params.Form, "form field"),
    (params.Body, "body"),
)


@dataclass(frozen=True, slots=True)
class Node:
    """One use of a function that provides a value, and what it needs for that.

    Attributes:
        call: The function, class or callable object.
        chain: The names of the functions that lead to it, from the task's on, and its own.
        use_cache: Whether it takes the value that another use of the same function has.
        is_async: Whether its call, or its context manager, is async.
        context: Returns a context manager around its ``yield``; None if it has none.
        needs: Its own dependencies by parameter name.
        defaults: Return the values of the parameters that a request would have; by name.
        optional: What a request may have for it, such as ``the header 'x-tenant'``, and a task has
            not.
    """

    call: Callable[..., Any]
    chain: tuple[str, ...]
    use_cache: bool
    is_async: bool
    context: Callable[..., Any] | None
    needs: Mapping[str, Node]
    defaults: Mapping[str, Callable[[], Any]]
    optional: Sequence[str]


def nodes_of(dependencies: Mapping[str, Any], chain: tuple[str, ...]) -> dict[str, Node]:
    """Return what FastAPI's ``Depends`` lead to, by parameter name.

    Args:
        dependencies: The ``Depends`` by parameter name.
        chain: The names of the functions that lead to them.

    Raises:
        TypeError: If one of them needs what a task does not have.
    """
    return {
        name: node_of(depends.dependency, chain, depends.use_cache)
        for name, depends in dependencies.items()
    }


def node_of(call: Callable[..., Any], chain: tuple[str, ...], use_cache: bool) -> Node:
    """Return what *call* needs; see `nodes_of`."""
    name = _shown(call)
    if len(chain) > _DEEPEST:
        raise TypeError(f"the dependencies of {chain[0]} go round in a circle, through {name}")
    chain = (*chain, name)
    dependencies = declared(call)
    signature = signature_of(call)
    defaults, optional = {}, []
    for parameter in () if signature is None else signature.parameters.values():
        is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_variable or parameter.name in dependencies:
            continue
        annotation, info = _declaration(call, parameter)
        wanted = _wanted(parameter.name, annotation, info)
        default = _default(parameter, info, wanted, chain)
        if default is not None:
            defaults[parameter.name] = default
        optional.append(wanted)
    is_generator = _is(call, inspect.isgeneratorfunction)
    is_async_generator = _is(call, inspect.isasyncgenfunction)
    context: Callable[..., Any] | None = None
    if is_async_generator:
        context = asynccontextmanager(call)
    elif is_generator:
        context = contextmanager(call)
    return Node(
        call,
        chain,
        use_cache,
        is_async_generator or (not is_generator and is_async(call)),
        context,
        nodes_of(dependencies, chain),
        defaults,
        optional,
    )


def optional_of(nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
    """Yield what a request may have for dependencies: the names that lead there, and what it is."""
    for node in nodes.values():
        yield from ((" > ".join(node.chain[1:]), text) for text in node.optional)
        yield from optional_of(node.needs)


_DEEPEST: Final = 100
"""More functions than this, each the dependency of the next, are taken for a circle."""


def _is(call: Callable[..., Any], test: Callable[[object], bool]) -> bool:
    """Whether *test* holds for the function that *call* calls, as FastAPI looks for it."""
    call = without_partials(call)
    if inspect.isclass(call):
        return False
    method = getattr(call, "__call__", None)  # noqa: B004  # asks for its kind
    return any(test(one) for one in (call, inspect.unwrap(call), method))


def _shown(call: object) -> str:
    return name_of(call).rpartition(".")[2]


def _default(
    parameter: inspect.Parameter, info: FieldInfo | None, wanted: str, chain: tuple[str, ...]
) -> Callable[[], Any] | None:
    """Return what makes the value of a parameter; None if Python's own default does.

    Raises:
        TypeError: If only a request would have the value.
    """
    default = parameter.default
    if isinstance(default, FieldInfo):
        assert info is not None
        default = parameter.empty
        if info.default is not ... and not info.is_required():
            return functools.partial(info.get_default, call_default_factory=True)
    elif default is not parameter.empty:
        return None
    elif info is not None and info.default_factory is not None:
        return functools.partial(info.get_default, call_default_factory=True)
    raise TypeError(
        f"{chain[0]} cannot run as a task, because its dependency {' > '.join(chain[1:])} needs "
        f"{wanted}, which a task does not have: use that dependency in the route, and pass its "
        "value to the task as an argument"
    )


def _declaration(
    call: Callable[..., Any], parameter: inspect.Parameter
) -> tuple[Any, FieldInfo | None]:
    """Return the type of a parameter, and what its default or annotation declares to FastAPI."""
    whole = annotation_of(call, parameter)
    is_annotated = typing.get_origin(whole) is typing.Annotated
    annotation, *more = typing.get_args(whole) if is_annotated else (whole,)
    if isinstance(parameter.default, FieldInfo):
        return annotation, parameter.default
    return annotation, next((one for one in reversed(more) if isinstance(one, FieldInfo)), None)


def _wanted(name: str, annotation: Any, info: FieldInfo | None) -> str:
    """Return which part of a request a parameter gets, with its article."""
    if inspect.isclass(annotation):
        for kind, text in _OF_A_REQUEST:
            if issubclass(annotation, kind):
                return text
    for kind, text in _SOURCES:
        if info is not None and isinstance(info, kind):
            shown = info.alias or name
            if isinstance(info, params.Header) and not info.alias and info.convert_underscores:
                shown = name.replace("_", "-")
            return f"the {text} {shown!r}"
    return f"the parameter {name!r} of a request"
