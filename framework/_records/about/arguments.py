"""Arguments of a task as people may see them: as JSON, cut, and without secrets.

What JSON can say is said; of any other object the name of its class alone, since its ``repr`` may
have anything. A model is read field by field: what it dumps may have its secrets as they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from framework._records.jsonsafe import JSON, cut, jsonable, key_text

MASK: Final = "**********"
"""Stands for a secret, as in the texts of pydantic."""

MOST_CHARACTERS: Final = 4_000
"""How long the JSON of all arguments of a task is, at most."""

_LONGEST_TEXT: Final = 200
_LONGEST_KEY: Final = 60
_MOST_ITEMS: Final = 20
_MAX_DEPTH: Final = 5
_SEQUENCES: Final = (list, tuple, set, frozenset)
_SIMPLE: Final = (
    *(type(None), bool, int, float, bytes, bytearray, memoryview, UUID, Decimal),
    *(PurePath, date, time, timedelta, Enum),
)


def arguments_text(arguments: Mapping[str, object]) -> str | None:
    """Return arguments by the names of their parameters as JSON; None if there are none.

    A secret is `MASK`: a ``SecretStr`` or ``SecretBytes`` of pydantic, wherever it is, and a field
    of a model or a dataclass that its ``repr``, or all that it dumps, leaves out. Texts are
    cut at 200 characters, lists and mappings after 20 items, and what is nested deeper than five
    levels is left out. Arguments that would make the whole too long are replaced by a text in
    angle brackets.

    Args:
        arguments: The values, which are not changed; iterators are not read.
    """
    if not arguments:
        return None
    left, shown = MOST_CHARACTERS, dict[str, JSON]()
    for name, value in arguments.items():
        found = _shown(value, 0)
        size = len(json.dumps(found))
        fits = size <= left
        shown[name] = found if fits else "<too long>"
        left -= size if fits else 0
    return json.dumps(shown)


def arguments_of(text: str | None) -> dict[str, JSON]:
    """Return the arguments that a text has; empty for None."""
    found: dict[str, JSON] = json.loads(text) if text else {}
    return found


def _shown(value: object, depth: int) -> JSON:
    try:
        return _read(value, depth)
    except Exception:  # whatever an object of the user's does, it is submitted
        return f"<{type(value).__name__}>"


def _read(value: object, depth: int) -> JSON:
    if callable(getattr(type(value), "get_secret_value", None)):
        return MASK
    if isinstance(value, str) and not isinstance(value, Enum):
        return cut(str(jsonable(str.__str__(value))), _LONGEST_TEXT)
    if isinstance(value, _SIMPLE):
        found = jsonable(value)
        return cut(found, _LONGEST_TEXT) if isinstance(found, str) else found
    if depth >= _MAX_DEPTH:
        return "<nested too deeply>"
    if isinstance(value, Mapping):
        return _object(((key_text(key), one) for key, one in value.items()), len(value), depth)
    if isinstance(value, _SEQUENCES):
        items = [_shown(one, depth + 1) for one in islice(value, _MOST_ITEMS)]
        return [*items, *_more(len(value))]
    fields = _fields_of(value)
    if fields is None:
        return f"<{type(value).__name__}>"
    return _object(((name, one) for name, one in fields.items()), len(fields), depth)


def _object(pairs: Iterable[tuple[str, object]], size: int, depth: int) -> dict[str, JSON]:
    found: dict[str, JSON] = {
        cut(name, _LONGEST_KEY): one if one is MASK else _shown(one, depth + 1)
        for name, one in islice(pairs, _MOST_ITEMS)
    }
    return found | dict.fromkeys(_more(size), "")


def _more(size: int) -> list[str]:
    return [f"<{size - _MOST_ITEMS:,} more>"] if size > _MOST_ITEMS else []


def _fields_of(value: Any) -> dict[str, object] | None:  # Any: any object
    """Return the fields of a model or a dataclass, each secret one as `MASK`; None for others."""
    kind = type(value)
    # The second one before 2.10 of pydantic.
    known = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "model_fields", None)
    if isinstance(known, dict):
        secret = {name for name, one in known.items() if one.exclude or not one.repr}
        names = [*known, *(getattr(value, "__pydantic_extra__", None) or ())]
    elif dataclasses.is_dataclass(kind):
        secret = {one.name for one in dataclasses.fields(kind) if not one.repr}
        names = [one.name for one in dataclasses.fields(kind)]
    else:
        return None
    return {name: MASK if name in secret else getattr(value, name, None) for name in names}
