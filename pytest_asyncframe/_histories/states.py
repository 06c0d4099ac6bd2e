"""The state of a model as a value that can be compared and kept in a set.

Guarantees: states that differ in anything that `copy.deepcopy` keeps have different values.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Hashable
from typing import Any

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""Types of values that cannot change."""

_FIXED = (type, types.BuiltinFunctionType, types.ModuleType)
"""Types of objects that are what they are, whatever they refer to."""


class UnknownStateError(Exception):
    """Raised for a state that cannot be compared, such as that of an open file."""


def frozen(state: object, known: Collection[int]) -> Hashable:
    """Return a value that equals that of every equal state.

    Args:
        state: A model, with all that belongs to it.
        known: The `id` of objects that are the same in all states.

    Raises:
        UnknownStateError: If it has a part that cannot be compared.
    """
    try:
        return _Freezer(known).frozen(state)
    except (UnknownStateError, RecursionError):
        raise UnknownStateError from None
    except Exception as error:  # of a user's class that cannot be copied
        raise UnknownStateError from error


class _Freezer:
    def __init__(self, known: Collection[int]) -> None:
        self._known = known
        # Numbers of what was met, so that it matters whether two parts are the same object.
        # The objects are kept, since the `id` of a freed one may be that of another.
        self._met: dict[int, tuple[int, object]] = {}

    def frozen(self, value: Any) -> Hashable:
        kind = type(value)
        if kind in _PLAIN:
            # A float that is no number equals nothing, not even itself.
            return kind, repr(value) if kind in (float, complex) else value
        if id(value) in self._known:
            return "known", id(value)
        if isinstance(value, _FIXED):
            # Not its `id`: that of a freed object may be that of another one.
            return "fixed", value
        if kind is tuple:
            return (kind, *map(self.frozen, value))
        number = self._met.get(id(value), (None,))[0]
        if number is not None:
            return "met", number
        self._met[id(value)] = (len(self._met), value)
        if kind is list:
            return (kind, *map(self.frozen, value))
        if kind is dict:
            # In its order, which a model may go by.
            return (kind, *((self.frozen(key), self.frozen(one)) for key, one in value.items()))
        if kind in (set, frozenset) and all(self._is_fixed(one) for one in value):
            return kind, frozenset(map(self.frozen, value))
        if kind is types.FunctionType:
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return (
                value.__code__,
                *map(self.frozen, (value.__defaults__, value.__kwdefaults__, cells)),
            )
        return self._reduced(value)

    def _is_fixed(self, value: object) -> bool:
        return type(value) in _PLAIN or id(value) in self._known

    def _reduced(self, value: Any) -> Hashable:
        """Freeze what would be copied of an object."""
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return "global", type(value), reduced
        make, args, *rest = reduced
        parts = (None if one is None else _listed(one) for one in rest)
        return (self.frozen(type(value)), *map(self.frozen, (make, args, *parts)))


def _listed(part: Any) -> Any:
    """Return the items of an iterator as a list, and anything else as it is."""
    return list(part) if hasattr(part, "__next__") else part
