"""Parts: what a value holds, with names for messages.

No code of a value's class runs for it: proxies, lazy mappings and objects that raise errors are
looked at from outside. Any thread may change a container meanwhile.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from framework._manager.request_bound.kinds import PLAIN
from framework._tasks.functions import one_line

MOST: Final = 32
"""How many parts of a list, a dict or an object are looked at."""

Named = Iterator[tuple[str, Any]]

Part = tuple[str, Any]
"""The form of a part's name, and its key or attribute."""

_HIDDEN: Final = object()
"""The key of the items of a set, which have none."""


def parts_of(value: Any) -> Iterator[tuple[Part, Any]]:  # Any: of any type
    """Yield the first items of a container, or what an object or a function holds."""
    kind = type(value)
    # Copied at once, since a dict or a set may not change size while it is iterated over.
    if issubclass(kind, dict):
        yield from ((("[{}]", key), one) for key, one in tuple(islice(dict.items(value), MOST)))
        return
    for container in (list, tuple, set, frozenset):
        if issubclass(kind, container):
            items: Any = tuple(islice(container.__iter__(value), MOST))
            has_places = issubclass(container, (list, tuple))
            for place, one in enumerate(items):
                yield ("[{}]", place if has_places else _HIDDEN), one
            return
    yield from (((".{}", name), one) for name, one in islice(held_by(value), MOST))


def shown(part: Part) -> str:
    """Return the name of a part for a message, such as ``[0]`` or ``.name``."""
    form, key = part
    if form == "[{}]":
        key = one_line(repr(key), 40) if type(key) in PLAIN else "..."
    return form.format(key)


def held_by(value: Any) -> Named:  # Any: of any type
    """Yield what a function or an object holds."""
    kind = type(value)
    if issubclass(kind, functools.partial):
        yield from value.keywords.items()
        yield from ((str(place + 1), one) for place, one in enumerate(value.args))
        yield from held_by(value.func)
    elif kind is types.MethodType:
        yield "self", value.__self__
    elif kind is types.FunctionType:
        yield from _enclosed(value)
    elif not issubclass(kind, (type, types.ModuleType)):
        yield from _attributes(value, kind)


def _enclosed(function: types.FunctionType) -> Named:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _attributes(value: Any, kind: Any) -> Named:
    try:
        attributes = value.__dict__
    except Exception:  # it has none, or it is a proxy of nothing
        attributes = None
    if type(attributes) is dict:
        yield from tuple(islice(attributes.items(), MOST))
    for name, slot in _slots(kind):
        try:
            yield name, slot.__get__(value)
        except AttributeError:  # not assigned yet
            continue


@lru_cache(maxsize=1_024)
def _slots(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Return the slots of a class, which its objects have in place of a dict."""
    return tuple(
        (name, slot)
        for base in kind.__mro__
        if "__slots__" in vars(base)
        for name, slot in vars(base).items()
        if type(slot) is types.MemberDescriptorType
    )
