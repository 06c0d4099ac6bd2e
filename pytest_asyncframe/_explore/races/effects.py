"""What the methods and operators of Python's containers read and write in them."""

from __future__ import annotations

import enum
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Hashable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import NamedTuple, TypeAlias


class Whole(enum.Enum):
    """A part of a container that is no single item.

    What is added at an end, and what is taken out, do not get into each other's way: each of the
    two is one call, and a queue of a deque is made of them.
    """

    ALL = "all of it"
    ADDED = "what is added"
    TAKEN = "what is taken out"


class Item(NamedTuple):
    """An item of a container, by its key or index."""

    key: Hashable


Part: TypeAlias = Whole | Item | None
"""What is read or written of something: a part of a container; None for a name."""

WEAK: tuple[type, ...] = (weakref.WeakValueDictionary,)
DICTS: tuple[type, ...] = (dict, defaultdict, OrderedDict, Counter, *WEAK)
CONTAINERS: tuple[type, ...] = (*DICTS, list, deque, set)

_PLAIN: tuple[type, ...] = (int, float, complex, bool, str, bytes, type(None), range, frozenset)
_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)

_READ_ALL = frozenset(
    {
        *("copy", "count", "index", "items", "keys", "values", "most_common", "elements"),
        *("isdisjoint", "issubset", "issuperset", "union", "difference", "intersection"),
    }
)
_WRITE_ALL = frozenset(
    {
        *("clear", "update", "popitem", "insert", "remove", "sort", "reverse", "rotate"),
        *("difference_update", "intersection_update", "symmetric_difference_update", "subtract"),
    }
)
_ADD = frozenset({"append", "appendleft", "extend", "extendleft"})
_TAKE = frozenset({"pop", "popleft"})


class Effect(NamedTuple):
    """What a call does to a container.

    Attributes:
        part: Of what.
        writes: Whether it changes that.
        checks: Whether it looks first whether it is to be changed, in the same call.
    """

    part: Part
    writes: bool
    checks: bool = False


def is_code(value: object) -> bool:
    """Whether a value is a function, a class or a module."""
    # Not `isinstance`, which may ask the object.
    return issubclass(type(value), _CODE)


def is_plain(value: object) -> bool:
    """Whether a value cannot be changed."""
    return type(value) in _PLAIN


def is_key(value: object) -> bool:
    """Whether the hash and the comparison of a value are Python's own."""
    if type(value) is tuple:
        return all(map(is_key, value))
    if issubclass(type(value), enum.Enum):
        return not any("__eq__" in vars(one) for one in type(value).__mro__[:-1])
    return type(value) in (int, str, bytes, bool, type(None))


def overlap(one: Part, other: Part) -> bool:
    """Whether two parts of the same have something in common."""
    if one is Whole.ALL or other is Whole.ALL or one == other:
        return True
    # What is taken out of a list moves its items.
    pair = {type(one), type(other)}
    return pair == {Item, Whole} and Whole.TAKEN in (one, other)


def effect_of(container: object, method: str, arguments: Sequence[object]) -> Effect | None:
    """Return what a call of a method does; None if that is not known.

    Args:
        container: Of one of the types of `CONTAINERS`.
        method: The method's name.
        arguments: The values of its arguments, as far as they are known.
    """
    kind = type(container)
    if kind in DICTS and method in ("get", "setdefault", "pop", "move_to_end"):
        return _of_item(method, arguments)
    if kind is set and method in ("add", "discard", "remove"):
        return _of_item(method, arguments)
    if method in _READ_ALL:
        return Effect(Whole.ALL, writes=False)
    if method in _WRITE_ALL or (kind is set and method == "pop"):
        return Effect(Whole.ALL, writes=True)
    if method in _ADD:
        return Effect(Whole.ADDED, writes=True)
    return Effect(Whole.TAKEN, writes=True) if method in _TAKE else None


def _of_item(method: str, arguments: Sequence[object]) -> Effect | None:
    if not arguments or not is_key(arguments[0]):
        return None
    checks = method in ("setdefault", "discard") or (method == "pop" and len(arguments) > 1)
    return Effect(Item(arguments[0]), method != "get", checks)
