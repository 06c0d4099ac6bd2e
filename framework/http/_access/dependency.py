"""Owners that a dependency of FastAPI finds out, as in ``task_router(owner=Depends(user_id))``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress
from types import UnionType
from typing import (
    Any,  # dependencies and routes are of any type
    Final,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

from fastapi import Depends, Request, params
from fastapi.routing import APIRoute

from framework._records import checks
from framework._tasks.current import current_scope
from framework.http._access.routes import options_of, remake

_KEEPS: Final = "__asyncframe_keeps__"
"""The attribute of the dependency that keeps what another one returns: the `OwnerDependency`."""

_OWNER: Final = "asyncframe.owner"
"""The key in a request's scope for the owner that was found."""


class OwnerDependency:
    """A function of a request that returns the owner whom a dependency has found out for it.

    A task is submitted in one step, where no dependency can be called. So each route that depends
    on the user's function, itself or by another dependency, keeps in its request what that returns.
    FastAPI calls it once for a request, and other routes as it did before. For a request to one of
    these there is no owner.

    Args:
        depends: The dependency.

    Attributes:
        depends: The same.
        keeping: The dependency of the routes that keeps what it returns.

    Raises:
        TypeError: If it has no function, or one that returns no string.
    """

    def __init__(self, depends: params.Depends) -> None:
        self.depends = depends
        _require_text(depends.dependency)

        # The second parameter is for FastAPI, which calls the user's function for it.
        async def keep(request: Request, owner: Any = depends) -> None:
            found = checks.owner(f"what {self} returns", owner)
            # A middleware may have copied the scope of which a submission knows.
            for scope in (request.scope, current_scope.get()):
                if scope is not None:
                    scope[_OWNER] = found

        setattr(keep, _KEEPS, self)
        self.keeping: params.Depends = Depends(keep)

    def __call__(self, request: Request) -> str | None:
        """Return the owner; None if the route does not depend on the function."""
        found: str | None = request.scope.get(_OWNER)
        return found

    def __eq__(self, other: object) -> bool:
        # Two routers may have a Depends each, of the same function.
        if not isinstance(other, OwnerDependency):
            return NotImplemented
        return self.depends.dependency == other.depends.dependency

    def __hash__(self) -> int:
        return hash(self.depends.dependency)

    def __str__(self) -> str:
        return getattr(self.depends.dependency, "__name__", repr(self.depends.dependency))

    def __repr__(self) -> str:
        return f"Depends({self})"

    def keep_in(self, routes: Iterable[Any]) -> bool:
        """Let routes that depend on the function keep what it returns; True if one was changed.

        Args:
            routes: Routes of an app, each with all that it depends on.
        """
        changed = False
        places: dict[int, tuple[APIRoute, list[list[Any]]]] = {}
        for route in routes:
            original = getattr(route, "original_route", route)
            if isinstance(original, APIRoute):
                calls = list(_calls(getattr(route, "dependant", None)))
                places.setdefault(id(original), (original, []))[1].append(calls)
        for original, those in places.values():
            # A router may be included twice, and need no login in one of the two places.
            everywhere = all(self.depends.dependency in calls for calls in those)
            keeps = any(getattr(call, _KEEPS, None) == self for calls in those for call in calls)
            if everywhere and not keeps:
                options = options_of(original)
                options["dependencies"] = [*original.dependencies, self.keeping]
                remake(original, original.endpoint, options)
                changed = True
        return changed


def _calls(dependant: Any) -> Iterable[Any]:
    """Yield the functions of all dependencies below one."""
    for one in getattr(dependant, "dependencies", ()):
        yield one.call
        yield from _calls(one)


def _require_text(function: Any) -> None:
    """Refuse a dependency that is none, or whose annotation says that it returns no string."""
    if function is None:
        raise TypeError("owner must be Depends(...) of a function, not Depends()")
    unwrapped = inspect.unwrap(function)
    found: object = function if isinstance(function, type) else None
    # A name may not exist at runtime, and an object has none; a generator returns what it yields.
    with suppress(Exception):
        if not (inspect.isgeneratorfunction(unwrapped) or inspect.isasyncgenfunction(unwrapped)):
            found = found or get_type_hints(unwrapped).get("return")
    for kind in get_args(found) if get_origin(found) in (Union, UnionType) else [found]:
        if isinstance(kind, type) and not issubclass(kind, (str, type(None))):
            name = getattr(function, "__name__", repr(function))
            text = "str(user)" if issubclass(kind, (int, UUID)) else "str(user.id)"
            raise TypeError(
                f"owner must be a dependency that returns a string or None, but {name} returns "
                f"{kind.__qualname__}: use another one, such as user_id(user=Depends({name})), "
                f"which returns {text}"
            )
