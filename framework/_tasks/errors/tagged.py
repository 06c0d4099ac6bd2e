"""Plain data that JSON has no types for, such as a Decimal: as text that says its type.

Only types of the standard library whose values are made of nothing but their text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

_SCALARS: Final = (type(None), bool, int, float, str)
_TAG: Final = "$"
_DEEPEST: Final = 8

_SINGLE: Final[dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    Decimal: (str, Decimal),
    UUID: (str, UUID),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
    time: (time.isoformat, time.fromisoformat),
    timedelta: (lambda one: [one.days, one.seconds, one.microseconds], lambda one: timedelta(*one)),
    bytes: (lambda one: base64.b64encode(one).decode(), base64.b64decode),
}
_GROUPS: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
_MADE_BY: Final = {cls.__name__: make for cls, (_, make) in _SINGLE.items()}
_GROUPED_BY: Final = {cls.__name__: make for cls, make in _GROUPS.items()}


def tagged(value: object, deepest: int = _DEEPEST) -> Any:
    """Return what JSON can hold of a value, from which `untagged` makes an equal one.

    Raises:
        ValueError: If it is no plain data, or is nested too deep.
    """
    kind = type(value)
    # One of a class of its own, such as the id of a task, is equal to what JSON makes of it.
    if isinstance(value, _SCALARS):
        return value
    if deepest:
        if kind in _SINGLE:
            return {_TAG: kind.__name__, "is": _SINGLE[kind][0](value)}
        if isinstance(value, (list, tuple, set, frozenset)) and (kind is list or kind in _GROUPS):
            inside = [tagged(one, deepest - 1) for one in value]
            return inside if kind is list else {_TAG: kind.__name__, "is": inside}
        if isinstance(value, dict) and kind is dict and _has_names(value):
            return {key: tagged(one, deepest - 1) for key, one in value.items()}
    raise ValueError(f"a {kind.__qualname__} is no plain data")


def untagged(data: Any) -> Any:
    """Return the value that was given to `tagged`.

    Raises:
        ValueError: If *data* has a tag that is not known, or one without its value.
    """
    if isinstance(data, list):
        return [untagged(one) for one in data]
    if not isinstance(data, dict):
        return data
    if _TAG not in data:
        return {key: untagged(one) for key, one in data.items()}
    name: Any = data[_TAG]
    inside: Any = data.get("is")
    try:
        if name in _GROUPED_BY:
            return _GROUPED_BY[name](map(untagged, inside))
        return _MADE_BY[name](inside)
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"no plain data of type {name!r}") from error


def _has_names(value: dict[Any, Any]) -> bool:
    return _TAG not in value and all(type(key) is str for key in value)
