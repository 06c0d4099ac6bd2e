"""Bytes in JSON, which has no type for them: encoded as base64, or refused.

By default pydantic decodes bytes as UTF-8, so bytes that happen to be text are accepted and
others are not. Here the annotation alone decides whether bytes are accepted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from framework._records.jsonsafe import key_text

_BYTES: Final = (bytes, bytearray, memoryview)
_BASE64: Final[Any] = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}
_MODELS: Final = frozenset(("model", "dataclass", "typed-dict"))
_LONGEST_KEY: Final = 60
_FLAT: Final = frozenset((type(None), bool, int, float, str))
_NO_SCHEMA: Final = frozenset(("cls", "config", "default", "function", "metadata"))


class BytesAdapter:
    """A pydantic adapter for an annotation with bytes, which it encodes as base64.

    Args:
        annotation: The annotation.
    """

    def __init__(self, annotation: Any) -> None:  # Any: annotations are anything
        from pydantic import TypeAdapter

        # In a tuple, since an adapter of a dataclass alone may not be given a config.
        boxed: Any = tuple[annotation]
        self._tuple: TypeAdapter[Any] = TypeAdapter(boxed, config=_BASE64)
        self.core_schema: Any = self._tuple.core_schema

    def dump_python(self, value: Any, **options: Any) -> Any:
        """Convert a value to what ``json`` accepts."""
        return self._tuple.dump_python((value,), **options)[0]

    def validate_python(self, value: Any) -> Any:
        """Convert a value to the annotated type."""
        return self._tuple.validate_python((value,))[0]

    def validate_json(self, text: str, **options: Any) -> Any:
        """Return the value of the annotated type that JSON *text* stands for."""
        return self._tuple.validate_json(f"[{text}]", **options)[0]


def has_bytes(schema: Any) -> bool:
    """Return whether a core schema has bytes that no custom serializer handles."""
    return next(_owners(schema, {}, ""), None) is not None


def unencoded(schema: Any) -> list[str]:
    """Return the models in a `BytesAdapter`'s core schema that treat bytes as UTF-8."""
    return sorted({owner for owner, config in _owners(schema, _BASE64, "") if not _encodes(config)})


def _owners(node: Any, config: dict[str, Any], owner: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the model around each bytes schema, and the config that applies there."""
    parts: Iterable[Any] = node if isinstance(node, (list, tuple)) else ()
    if isinstance(node, dict):
        kind = node.get("type")
        if not isinstance(kind, str):  # a mapping of fields, whose names the user chose
            parts = node.values()
        elif node.get("serialization") is None:
            parts = [part for name, part in node.items() if name not in _NO_SCHEMA]
        if kind == "bytes" and parts:
            yield owner, config
        if kind in _MODELS:
            config, owner = node.get("config") or {}, _name(node, owner)
    for part in parts:
        yield from _owners(part, config, owner)


def _name(node: dict[str, Any], default: str) -> str:
    name: str = getattr(node.get("cls"), "__qualname__", default)
    return name


def _encodes(config: dict[str, Any]) -> bool:
    way = config.get("ser_json_bytes")
    return way in ("base64", "hex") and config.get("val_json_bytes") == way


def bytes_in(value: object) -> list[bytes]:
    """Return all bytes in *value*, its containers, dataclasses and models, sorted.

    Raises:
        ValueError: If there is a file, a generator or another iterator: it can be read
            only once, and pydantic may read it twice. Or if two keys of a dict are the same in
            JSON, so that one of their values would be lost.
    """
    found: list[bytes] = []
    pending: list[Iterable[Any]] = [[value]]
    seen: set[int] = set()
    while pending:
        for item in pending.pop():
            if isinstance(item, _BYTES):
                found.append(bytes(item))
                continue
            kind = type(item)
            if hasattr(kind, "__next__"):
                raise ValueError("files, generators and iterators cannot be sent: pass a list")
            inside = _inside(item, kind)
            if _FLAT.issuperset(map(type, inside)) or id(item) in seen:
                continue
            seen.add(id(item))
            pending.append(inside)
    return sorted(found)


def secrets_in(value: object) -> list[str]:
    """Return the texts of all secrets of pydantic in what `bytes_in` looks into, sorted."""
    found: list[str] = []
    pending, seen = [value], set[int]()
    while pending:
        item = pending.pop()
        if hasattr(type(item), "get_secret_value"):
            secret: Any = item
            found.append(repr(secret.get_secret_value()))
        elif id(item) not in seen:
            seen.add(id(item))
            pending += [one for one in _inside(item, type(item)) if type(one) not in _FLAT]
    return sorted(found)


def _require_distinct(keys: Iterable[object]) -> None:
    seen: set[str] = set()
    for key in keys:
        text = key_text(key)
        if text in seen:
            raise ValueError(f"two keys of a dict are {text[:_LONGEST_KEY]!r} in JSON: rename one")
        seen.add(text)


def _inside(item: Any, kind: type) -> Iterable[Any]:
    """Return what a container, dataclass or model contains; nothing for other objects."""
    if isinstance(item, dict):
        kinds = set(map(type, item))
        if len(kinds) > 1 or tuple in kinds:
            _require_distinct(item)
        values = item.values()
        return values if kinds <= _FLAT else [*item, *values]
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return item
    for fields in ("__dataclass_fields__", "__pydantic_fields__"):
        names: Iterable[str] | None = getattr(kind, fields, None)
        if names is not None:
            return [getattr(item, name, None) for name in names]
    return ()
