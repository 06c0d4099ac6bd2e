"""Which modules a test or an app has imported, and which functions belong to no module any more.

Guarantees: nothing is imported and no code of the user's runs: objects are looked at from
outside. What is imported inside of a function is not seen, so the modules may be too few.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from framework.testing import bare_function

_INNER = (
    "app",
    "router",
    "original_router",
    "routes",
    "endpoint",
    "lifespan_context",
    "on_startup",
    "on_shutdown",
)
"""Where apps, routers, routes and middlewares keep what they call."""


def modules_of(roots: Iterable[object], without: Collection[str]) -> set[str]:
    """Return the names of all modules that *roots* come from, and of all that these import.

    A module counts as imported if a global of the importing one is the module itself, or comes
    from it: a function, a class, an instance of one, a router with routes in it.

    Args:
        roots: Modules, apps, and other objects.
        without: Names of modules that do not count, and are not looked into.
    """
    found: set[str] = set()
    left = deque(name for root in roots for name in _homes(root))
    while left:
        name = left.popleft()
        module = sys.modules.get(name)
        is_standard = name != "__main__" and name.partition(".")[0] in sys.stdlib_module_names
        if module is None or name in found or name in without or is_standard:
            continue
        found.add(name)
        for value in tuple(vars(module).values()):
            left.extend(_homes(value))
    return found


def _homes(value: object) -> Iterator[str]:
    """Yield the names of the modules that *value* comes from."""
    left: list[Any] = [value]  # Any: whatever the user's modules have
    seen: set[int] = set()
    while left:
        one = left.pop()
        # Not isinstance, which asks the object itself, and a proxy may ask another one.
        kind = type(one)
        if issubclass(kind, (functools.partial, MethodType)):
            left.append(one.func if issubclass(kind, functools.partial) else one.__func__)
            continue
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept = attributes_of(one)
        if issubclass(kind, ModuleType):
            homes = [kept.get("__name__")]
        elif issubclass(kind, (FunctionType, type)):
            homes = [one.__module__]
        else:
            homes = [kind.__module__, kept.get("__module__")]
            for key in _INNER:
                inner = kept.get(key)
                left += inner if isinstance(inner, list) else [inner]
        yield from (home for home in homes if isinstance(home, str))


def attributes_of(value: object) -> dict[str, Any]:  # Any: whatever a user keeps under a name
    """Return the attributes of an object itself, so that none of its properties runs."""
    try:
        kept = object.__getattribute__(value, "__dict__")
    except Exception:  # a class may compute even that, and fail
        return {}
    return kept if type(kept) is dict else {}


def is_gone(fn: Callable[..., Any]) -> bool:
    """Whether the module that defined *fn* has been dropped, or replaced by another one.

    A namespace that is no module's, such as that of ``exec``, lasts as long as its functions.
    """
    bare = bare_function(fn)
    inner = inspect.unwrap(getattr(bare, "__func__", bare))
    space = getattr(inner, "__globals__", {})
    if "__spec__" not in space:
        return False
    now = sys.modules.get(space.get("__name__", ""))
    if now is None:
        # A module need not be in sys.modules; its own object refers to the namespace then.
        return not any(isinstance(one, ModuleType) for one in gc.get_referrers(space))
    spec = space["__spec__"]
    # A doctest runs in a copy of a module's namespace.
    return vars(now) is not space and (spec is None or getattr(now, "__spec__", None) is not spec)
