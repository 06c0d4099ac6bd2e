"""Meta: the columns of an app's own that a task carries, as one line of JSON.

The text is the same wherever it is made of the same values: sorted by name, without blanks. So
every store finds tasks by it in one way: each pair that is asked for is a part of the text.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Final, Protocol, TypeAlias
from uuid import UUID

from framework._records import checks
from framework._records.jsonsafe import jsonable


class AnyDataclass(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class AnyModel(Protocol):
    """An instance of a model of pydantic, which is not imported for that."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]:
        """Return its fields."""
        ...


MetaValue: TypeAlias = str | int | float | bool | None
"""A value as it is stored and shown."""

Meta: TypeAlias = (
    Mapping[str, MetaValue | UUID | Decimal | date | time | Enum] | AnyModel | AnyDataclass
)
"""What an app may give."""

MOST_NAMES: Final = 20
MOST_BYTES: Final = 2_000
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_UNKEPT: Final = frozenset(map(chr, (0, *range(0xD800, 0xE000))))
_AS_TEXT: Final = (UUID, Decimal, date, time, Enum)
_WHAT: Final = "a mapping, a model of pydantic or an instance of a dataclass"


def meta_text(option: str, value: object) -> str | None:
    """Return what an app gave as the meta of a task, as JSON; None if it is empty.

    Args:
        option: Who gave it, for the message.
        value: A mapping, a model or a dataclass.

    Raises:
        TypeError: If it is none of these, or one of its names or values has another type.
        ValueError: If a name or a value is out of range, or they are too many.
    """
    text = _text({name: _value(option, name, one) for name, one in _given(option, value)})
    size = len(text.encode()) if text else 0
    if size > MOST_BYTES:
        raise ValueError(f"{option} must have at most {MOST_BYTES:,} bytes as JSON, not {size:,}")
    return text


def meta_filter(option: str, value: object) -> tuple[str, ...]:
    """Return what the texts of tasks must have that have each of these pairs; see `holds`.

    Raises:
        TypeError: Like `meta_text`.
        ValueError: Like `meta_text`, and if a text is no JSON.
    """
    asked = _of_json(option, value) if isinstance(value, str) else value
    pairs = {name: _value(option, name, one) for name, one in _given(option, asked)}
    return tuple(f",{(_text({name: pairs[name]}) or '')[1:-1]}," for name in sorted(pairs))


def holds(text: str | None, wanted: tuple[str, ...]) -> bool:
    """Return whether a meta has each pair of a `meta_filter`.

    No pair is found within a value: there each quote has a backslash before it.
    """
    if text is None:
        return not wanted
    pairs = f",{text[1:-1]},"
    return all(one in pairs for one in wanted)


def meta_of(text: str | None) -> dict[str, MetaValue]:
    """Return the meta that a text has; empty for None."""
    found: dict[str, MetaValue] = json.loads(text) if text else {}
    return found


def _of_json(option: str, text: str) -> object:
    try:
        found: object = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    raise ValueError(
        f'{option} must be an object of JSON, such as {{"tenant_id": 7}}, not {checks.show(text)}'
    )


def _text(pairs: dict[str, MetaValue]) -> str | None:
    if not pairs:
        return None
    return json.dumps(pairs, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _given(option: str, value: object) -> list[tuple[str, object]]:
    pairs: object = value
    if isinstance(value, type):
        pairs = None
    elif callable(dump := getattr(value, "model_dump", None)):
        pairs = dump(mode="json")
    elif dataclasses.is_dataclass(value):
        pairs = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if not isinstance(pairs, Mapping):
        raise TypeError(f"{option} must be {_WHAT}, not {checks.show(value)}")
    if len(pairs) > MOST_NAMES:
        raise ValueError(f"{option} must have at most {MOST_NAMES} names, not {len(pairs)}")
    for name in pairs:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise (ValueError if isinstance(name, str) else TypeError)(
                f"{option} must have names of up to 63 ASCII letters, digits and underscores, as "
                f"columns do, not {checks.show(name)}"
            )
    return list(pairs.items())


def _value(option: str, name: str, value: object) -> MetaValue:
    where = f"{option}[{name!r}]"
    found: object = jsonable(value) if isinstance(value, _AS_TEXT) else value
    if isinstance(found, (str, int, float)) and type(found) not in (str, int, float, bool):
        found = jsonable(found)
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError(f"{where} must be a finite number, not {found}")
    if isinstance(found, int) and not -(2**63) <= found < 2**63:
        raise ValueError(f"{where} must be an integer of 64 bits, not {checks.show(found)}")
    if isinstance(found, str) and not _UNKEPT.isdisjoint(found):
        raise ValueError(
            f"{where} must have no NUL and no lone surrogates, which databases cannot store, not "
            f"{checks.show(found)}"
        )
    if found is None or isinstance(found, (str, int, float)):
        return found
    has_parts = isinstance(value, Collection) or hasattr(value, "model_dump")
    has_parts = has_parts or dataclasses.is_dataclass(value)
    cure = (
        "store its parts under names of their own"
        if has_parts and not isinstance(value, (bytes, bytearray))
        else "store it as a string or a number"
    )
    raise TypeError(
        f"{where} must be a string, number, bool or None, not {checks.show(value)}: {cure}"
    )
