"""Convert any value to strict JSON, for status endpoints that must never answer 500."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, TypeAlias
from uuid import UUID

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_MAX_DEPTH = 32
_MAX_VALUES = 100_000
_FEW_VALUES = 500
_NUMBERS = (int, float, bool, type(None))
_TEXT_OF_A_VALUE = 100  # characters that take as long as a value
_CUT = f"<cut after {_MAX_VALUES} values>"
_MAX_REPR = 200
_MAX_KEY = 60
# What a user's text may raise: the last two would end a server that only shows a task.
_RAISED = (Exception, SystemExit, KeyboardInterrupt)
SHORT_INT = 2_048  # bits; fit into 640 digits, the lowest limit that Python accepts
_AS_TEXT = (UUID, Decimal, PurePath)
_AS_ISO = (datetime, date, time)
_SEQUENCES = (list, tuple, set, frozenset)


def jsonable(value: object) -> JSON:
    """Convert any *value* to what ``json.dumps(..., allow_nan=False)`` accepts.

    Models, dataclasses, enums, dates, UUIDs, decimals, paths, sets and tuples become their
    usual JSON. A text in angle brackets replaces what JSON cannot express: NaN and infinity,
    bytes, cycles, nesting deeper than 32 levels, and all after the first 100,000 values. An
    object of any other type becomes its ``repr``, cut at 200 characters; an error that
    ``repr`` raises is named in its place.
    """
    return examined(value)[0]


def examined(value: object) -> tuple[JSON, str | None]:
    """Convert any *value* as `jsonable` does, and say what the JSON lacks.

    Returns:
        The JSON; and None, or that an object is there as its ``repr`` only, or that two keys of
        a mapping have become one.
    """
    converter = _Converter()
    return converter.convert(value, frozenset(), 0), converter.problem


def key_text(key: object) -> str:
    """Return the text that a key of a mapping has in JSON."""
    return _Converter().key(key)


def is_small(value: object) -> bool:
    """Return whether `jsonable` takes less than about a millisecond for *value*."""
    left, pending = _FEW_VALUES, [value]
    try:
        while pending and left >= 0:
            one = pending.pop()
            if type(one) in _NUMBERS:
                continue
            if isinstance(one, str):
                left -= len(one) // _TEXT_OF_A_VALUE
                continue
            inside = (
                one if isinstance(one, (*_SEQUENCES, Mapping)) else getattr(one, "__dict__", ())
            )
            left -= 1 + len(inside)
            if left >= 0:
                pending += inside.values() if isinstance(inside, Mapping) else inside
    except _RAISED:  # nobody knows then
        return False
    return left >= 0


class _Converter:
    """One conversion. It counts values, since shared parts are written out each time.

    Attributes:
        problem: The first thing that JSON could not express as it is; see `examined`.
    """

    def __init__(self) -> None:
        self._left = _MAX_VALUES
        self.problem: str | None = None

    def convert(self, value: object, above: frozenset[int], depth: int) -> JSON:
        """Convert *value*, at *depth* levels; *above* has the ids of the objects around it."""
        self._left -= 1
        try:
            simple = _simple(value)
            if simple is not _NOT_SIMPLE:
                return simple  # type: ignore[return-value]  # the sentinel is excluded above
            if id(value) in above:
                return f"<cycle: {type(value).__name__}>"
            if depth >= _MAX_DEPTH:
                return f"<nested too deeply: {type(value).__name__}>"
            return self._compound(value, above | {id(value)}, depth + 1)
        except _RAISED:  # a model, mapping or iterator that raises must not break an endpoint
            return self._text_of(value)

    def _compound(self, value: object, above: frozenset[int], depth: int) -> JSON:
        if isinstance(value, Mapping):
            return self._object(value.items(), above, depth)
        if isinstance(value, _SEQUENCES):
            return self._array(value, above, depth)
        if isinstance(value, Enum):
            return self.convert(value.value, above, depth)
        if isinstance(value, timedelta):
            return timedelta.total_seconds(value)
        if isinstance(value, _AS_ISO):
            return _encodable(str(value.isoformat()))
        if isinstance(value, _AS_TEXT):
            return _encodable(str(value))
        dump = getattr(value, "model_dump", None)
        if callable(dump) and not isinstance(value, type):
            return self.convert(_dumped(dump), above, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return self._object(fields, above, depth)
        leaf = _subclass_of_leaf(value)
        return self._text_of(value) if leaf is _NOT_SIMPLE else leaf  # type: ignore[return-value]  # a leaf

    def _text_of(self, value: object) -> str:
        self.problem = self.problem or (
            f"a value of type {_encodable(type(value).__name__)} has no form in JSON: its repr is "
            "shown"
        )
        return safe_repr(value)

    def _array(self, items: Iterable[Any], above: frozenset[int], depth: int) -> list[JSON]:
        array: list[JSON] = []
        for item in items:
            if self._left <= 0:
                array.append(_CUT)
                break
            array.append(self.convert(item, above, depth))
        return array

    def _object(
        self, items: Iterable[tuple[Any, Any]], above: frozenset[int], depth: int
    ) -> dict[str, JSON]:
        found: dict[str, JSON] = {}
        for key, item in items:
            if self._left <= 0:
                found[_CUT] = _CUT
                break
            name, before = self.key(key), len(found)
            found[name] = self.convert(item, above, depth)
            if len(found) == before:
                self.problem = self.problem or (
                    f"two keys of a mapping are {cut(name, _MAX_KEY)!r} in JSON: one of their "
                    "values is lost"
                )
        return found

    def key(self, key: object) -> str:
        """Return the text of a key, of leaves and tuples the same as in a store."""
        if type(key) is bool:
            return "true" if key else "false"
        if type(key) is tuple:
            self._left -= len(key)
            return _CUT if self._left <= 0 else ",".join(map(self.key, key))
        simple = _simple(key)
        if simple is _NOT_SIMPLE:
            simple = self.convert(key, frozenset(), _MAX_DEPTH - 1)
        return simple if isinstance(simple, str) else str(simple)


_NOT_SIMPLE = object()


def _simple(value: object) -> object:
    """Return the JSON of a leaf, or the sentinel if *value* is not a leaf."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return _integer(value)  # type: ignore[arg-type]  # kind is int
    if kind is str:
        return _encodable(value)  # type: ignore[arg-type]  # kind is str
    if kind is float:
        return value if math.isfinite(value) else f"<{value}>"  # type: ignore[arg-type]  # kind is float
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{kind.__name__}: {len(value)} bytes>"
    return _NOT_SIMPLE


def _dumped(dump: Callable[..., object]) -> object:
    try:
        return dump(mode="json")
    except _RAISED:  # such as a field that pydantic cannot convert to JSON, but we can
        return dump()


def _subclass_of_leaf(value: object) -> object:
    """Convert a ``str``, ``int`` or ``float`` subclass to its base; or return the sentinel."""
    if isinstance(value, str):
        return _encodable(str.__str__(value))
    if isinstance(value, int):
        return _integer(int.__int__(value))
    if isinstance(value, float):
        return _simple(float.__float__(value))
    return _NOT_SIMPLE


def _encodable(text: str) -> str:
    """Return *text* with ``?`` for lone surrogates, which UTF-8 cannot encode."""
    # Called on the class: a repr may return a subclass of str that overrides it.
    return str.encode(text, "utf-8", "replace").decode("utf-8")


def _integer(value: int) -> int | str:
    """Return *value*, or a marker if it has more digits than Python converts to text."""
    if value.bit_length() <= SHORT_INT:
        return value
    try:
        int.__repr__(value)
    except ValueError:
        return f"<int: {value.bit_length()} bits>"
    return value


def safe_repr(value: object, limit: int = _MAX_REPR) -> str:
    """Return ``repr(value)``, cut at *limit* characters; never raises.

    Args:
        value: Any object.
        limit: Longest text to return, in characters, 10 or more.
    """
    try:
        text = repr(value)
    except _RAISED as error:  # the caller is about to log, raise or answer with the text
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return cut(_encodable(text), limit)


LONGEST_TEXT: Final = 2_000
"""Characters of an error's message, a description or a message of progress; the rest is cut."""


def safe_str(value: BaseException, limit: int = LONGEST_TEXT) -> str:
    """Return ``str(value)`` of an exception, cut at *limit* characters; never raises."""
    try:
        text = str(value)
    except _RAISED:  # as in safe_repr
        return safe_repr(value)
    return cut(_encodable(text), limit)


def cut(text: str, limit: int) -> str:
    """Return *text* with at most *limit* characters; three dots stand for what was cut."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
