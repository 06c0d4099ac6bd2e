"""What a lock is called in messages, and where it was made.

Relies on: the line of code that made it, to find the name that the lock was given.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import linecache
import re
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, ModuleType

_TARGET = re.compile(r"\s*([\w.\[\]'\"]+)\s*(?::[^=]+)?=(?!=)")
"""What a line assigns to: a name, an attribute or an item, maybe with an annotation."""

_ASSIGNED = re.compile(r"([\w.]+(?:\[[^\]=]*\])?)\s*(?::[^=:]+)?=[\s(\[{]*$")
"""What the text before a call assigns to; a container of several locks is named too."""


class Origin:
    """The name of a lock, and where it was made.

    Args:
        name: Its name, such as ``app.stock_lock``.
        location: Returns where it was made, as ``file:line``; "" if that is not known.
        has_points: Whether others may be let run where it is taken and released.

    Attributes:
        name: See above.
        has_points: See above.
        acquire: What an actor is about to do at the point before it takes the lock.
        released: What it has done at the point after it has released the lock.
    """

    __slots__ = ("_location", "acquire", "has_points", "name", "released")

    def __init__(self, name: str, location: Callable[[], str], *, has_points: bool = True) -> None:
        self.name: str = name
        self._location = location
        self.has_points: bool = has_points
        self.acquire: str = f"acquire {name}"
        self.released: str = f"released {name}"

    def __str__(self) -> str:
        """Return the name, and where the lock was made unless the name says it."""
        made_at = self._location()
        is_said = not made_at or made_at in self.name
        return self.name if is_said else f"{self.name}, made at {made_at}"


OF_A_HANDLER = Origin("the lock of a logging handler", lambda: "", has_points=False)
"""Held while the user's code formats a record, so that a task may pause with it."""


OF_A_FUTURE = Origin("the lock of a future", lambda: "", has_points=False)


def made_by(kind: str, frame: FrameType) -> Origin:
    """Return the origin of a lock that *frame* makes.

    Args:
        kind: What it is called if its line gives it no name, such as "Lock".
        frame: The frame of the code that makes it.
    """
    outer: FrameType | None = frame
    # Generated code, such as the constructor of a dataclass, has no lines.
    while outer is not None and outer.f_code.co_filename.startswith("<"):
        outer = outer.f_back
    # What the caller of such code assigns to is the instance, and not the lock.
    named, frame = outer is frame, frame if outer is None else outer
    module = str(frame.f_globals.get("__name__"))
    return _made_at(kind, frame.f_code, frame.f_lasti, module, named)


@functools.lru_cache(4096)  # the same line makes many locks in many runs
def _made_at(kind: str, code: CodeType, lasti: int, module: str, named: bool) -> Origin:
    line, _, column, _ = next(itertools.islice(code.co_positions(), lasti // 2, None))
    location = f"{Path(code.co_filename).name}:{line}"
    # Up to the call, which another statement or call may surround.
    before = linecache.getline(code.co_filename, line or 0).encode()[:column]
    found = _ASSIGNED.search(before.decode()) if named else None
    if found is None:
        return Origin(f"{kind} made at {location}", lambda: location)
    return Origin(_qualified(found[1], module, code), lambda: location)


def _qualified(target: str, module: str, code: CodeType) -> str:
    """Return the target of an assignment, with the module of a global or the class around it."""
    scope = code.co_qualname
    owner, _, attribute = target.partition(".")
    if scope == "<module>":
        return f"{module}.{target}"
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return f"{_inner(scope)}.{target}"
    if owner in ("self", "cls") and attribute:
        return f"{_inner(scope.rpartition('.')[0])}.{attribute}"
    return target


def _inner(scope: str) -> str:
    """Return the qualified name of a class without the functions that it is defined in."""
    return scope.rpartition("<locals>.")[2]


def found_in(module: ModuleType | None, name: str) -> Origin:
    """Return the origin of a lock that was found.

    Args:
        module: The module from which the way leads to it; None for none.
        name: The way to the lock, such as ``app.shop.lock``.
    """
    file = "" if module is None else str(module.__file__)
    is_global = module is not None and name.removeprefix(f"{module.__name__}.").isidentifier()
    return Origin(name, lambda: _assigned_in(file, name, is_global) if file else "")


@functools.cache
def _assigned_in(file: str, name: str, is_global: bool) -> str:
    """Return the only line of *file* that can have made a lock, as ``file:line``; else ""."""
    last = re.findall(r"\w+", name)[-1]
    lines = [
        number
        for number, line in enumerate(linecache.getlines(file), 1)
        if line[:1].isspace() != is_global
        and (found := _TARGET.match(line)) is not None
        and found[1] in (last, f"self.{last}")
    ]
    return f"{Path(file).name}:{lines[0]}" if len(lines) == 1 else ""
