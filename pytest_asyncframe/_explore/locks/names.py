"""What a lock is called in messages, and where it was made.

Relies on: the line of code that made it, to find the name that the lock was given.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import re
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType

_TARGET = re.compile(r"\s*([\w.\[\]'\"]+)\s*(?::[^=]+)?=(?!=)")
"""What a line assigns to: a name, an attribute or an item, maybe with an annotation."""


class Origin:
    """The name of a lock, and where it was made.

    Args:
        name: Its name, such as ``app.stock_lock``.
        place: Returns where it was made, as ``file:line``; "" if that is not known.
        has_points: Whether others may be let run where it is taken and released.

    Attributes:
        name: See above.
        has_points: See above.
        acquire: What an actor is about to do at the point before it takes the lock.
        released: What it has done at the point after it has released the lock.
    """

    __slots__ = ("_place", "acquire", "has_points", "name", "released")

    def __init__(self, name: str, place: Callable[[], str], *, has_points: bool = True) -> None:
        self.name: str = name
        self._place = place
        self.has_points: bool = has_points
        self.acquire: str = f"acquire {name}"
        self.released: str = f"released {name}"

    def __str__(self) -> str:
        """Return the name, and where the lock was made unless the name says it."""
        place = self._place()
        return f"{self.name}, made at {place}" if place and place not in self.name else self.name


OF_A_HANDLER = Origin("the lock of a logging handler", lambda: "", has_points=False)
"""Held while the user's code formats a record, so that a task may pause with it."""


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
    frame = frame if outer is None else outer
    code, module = frame.f_code, str(frame.f_globals.get("__name__"))
    is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)
    scope = code.co_qualname
    return _made_at(kind, code.co_filename, frame.f_lineno, module, scope, is_function)


@functools.cache  # the same line makes many locks in many runs
def _made_at(kind: str, file: str, line: int, module: str, scope: str, is_function: bool) -> Origin:
    place = f"{Path(file).name}:{line}"
    found = _TARGET.match(linecache.getline(file, line))
    if found is None:
        return Origin(f"{kind} made at {place}", lambda: place)
    target = found[1]
    owner, _, attribute = target.partition(".")
    if scope == "<module>":
        target = f"{module}.{target}"
    elif not is_function:
        target = f"{_inner(scope)}.{target}"
    elif owner in ("self", "cls") and attribute:
        target = f"{_inner(scope.rpartition('.')[0])}.{attribute}"
    return Origin(target, lambda: place)


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
