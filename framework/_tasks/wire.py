"""Arguments and results as JSON text, according to the function's annotations.

All data for a store or a worker is encoded here, and nothing is ever pickled. Data from
them is decoded by the annotations of the function, if this process knows it, or else stays
plain JSON.

Guarantees: decoding runs only code of annotated types. Texts have a maximal length.

Relies on: pydantic, which FastAPI depends on. It is imported when first needed.
"""

from __future__ import annotations

import functools
import inspect
import json
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from framework._records import json_bytes
from framework._records.jsonsafe import SHORT_INT, safe_str
from framework._tasks.functions import (
    Args,
    Kwargs,
    bare_function,
    name_of,
    signature_of,
    without_partials,
)
from framework._tasks.injection import as_task
from framework._tasks.task import SENT

Function: TypeAlias = Callable[..., Any]
Options: TypeAlias = dict[str, Any]
"""Options of a task that are sent with its call: numbers, texts and flags."""

MAX_RESULT: Final = 1 << 20
"""Longest JSON text of a result, in characters."""

MAX_CALL: Final = 1 << 20
"""Longest JSON text of a call's arguments, in characters."""

_SCALARS: Final = (type(None), bool, int, float, str)
# Made once: json.dumps() with options makes an encoder at each call.
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode
_ANY: Final = object()
"""In place of a missing annotation, or of one that pydantic cannot handle."""


_NO_BASE64: Final = (
    "JSON has no bytes, and these models would encode theirs as text: {}; give each "
    "model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')"
)
_NO_ANNOTATION: Final = (
    "JSON has no bytes, and they are accepted only where the annotation says bytes and nothing "
    "else, such as list[bytes]"
)


class _Codec:
    """Converts one parameter or result to JSON and back, by its annotation."""

    __slots__ = (
        "_adapter",
        "_has_bytes",
        "_has_sets",
        "_plain",
        "is_typed",
        "is_unknown",
        "refused",
    )

    def __init__(self, annotation: Any) -> None:  # Any: any annotation
        adapter = adapter_of(annotation)
        self._has_bytes = adapter is not None and json_bytes.has_bytes(adapter.core_schema)
        self._adapter = json_bytes.BytesAdapter(annotation) if self._has_bytes else adapter
        # Whether the annotation says what JSON is to become.
        self.is_typed = adapter is not None
        self.is_unknown = adapter is None and not _says_nothing(annotation)
        models = json_bytes.unencoded(self._adapter.core_schema) if self._has_bytes else []
        self.refused = _NO_BASE64.format(", ".join(models)) if models else ""
        self._has_sets: bool | None = None  # not known yet
        # Values of these types are the same in JSON, so pydantic can be skipped.
        self._plain = annotation if annotation in _SCALARS else None

    def dump(self, value: Any) -> Any:
        """Convert *value* to what ``json`` accepts.

        Raises:
            ValueError: If it does not fit the annotation, or JSON cannot express it.
        """
        kind = type(value)
        if kind is self._plain or (self._adapter is None and kind in _SCALARS):
            return value
        found = json_bytes.bytes_in(value)
        if not found and not self._has_bytes:
            return self._dump(value)
        if self.refused:
            raise ValueError(self.refused)
        try:
            data = self._dump(value)
            # Decoded again: nothing else shows whether the bytes will come back unchanged.
            fits = json_bytes.bytes_in(self.load(data)) == found
        except ValueError as error:
            if self._has_bytes and not isinstance(error, UnicodeDecodeError):
                raise  # the bytes are not the reason
            fits = False
        if not fits:
            raise ValueError(_NO_ANNOTATION)
        return data

    def send(self, value: Any) -> Any:
        """Convert as `dump` does, but only what `load` takes.

        Raises:
            ValueError: As `dump`, or if the annotation does not allow the value.
        """
        data = self.dump(value)
        if self._adapter is not None and type(value) is not self._plain:
            try:
                # Faster than to load it, since what is a model already is not looked at again.
                self._adapter.validate_python(value)
            except ValueError:
                self.load(data)
        return data

    def keeps(self, value: Any) -> bool:
        """Return whether *value*, a scalar, is the same in JSON."""
        try:
            return self.dump(value) is value
        except (ValueError, TypeError):
            return False

    def _dump(self, value: Any) -> Any:
        if self._adapter is None:
            from pydantic_core import to_jsonable_python

            return to_jsonable_python(value, inf_nan_mode="constants")
        dump = functools.partial(
            self._adapter.dump_python, mode="json", warnings="error", context=SENT
        )
        try:
            return dump(value)
        except ValueError:  # not exactly the annotated type, such as an int for a float
            return dump(self._adapter.validate_python(value))

    def dump_ordered(self, value: Any) -> Any:
        """Convert as `dump` does, but sets to lists that are the same in every process."""
        data = self.dump(value)
        if type(value) in _SCALARS:
            return data
        if self._has_sets is None:
            self._has_sets = self._adapter is None or _may_have_sets(self._adapter.core_schema)
        return _ordered(self._in_python(value), data) if self._has_sets else data

    def masks(self, value: Any) -> bool:
        """Return whether *value* has a secret that `dump` hides."""
        if type(value) in _SCALARS or not json_bytes.secrets_in(value):
            return False
        return bool(
            json_bytes.secrets_in(self.load(self.dump(value))) != json_bytes.secrets_in(value)
        )

    def _in_python(self, value: Any) -> Any:
        """Return a value made of containers of Python, as it is converted."""
        if self._adapter is None:
            return value
        dump = functools.partial(self._adapter.dump_python, warnings="error", context=SENT)
        try:
            return dump(value)
        except ValueError:  # as in `_dump`
            return dump(self._adapter.validate_python(value))
        except TypeError:  # a set of models, which would be one of dicts
            return value

    def load(self, data: Any) -> Any:
        """Convert plain JSON *data* to the annotated type.

        Raises:
            ValueError: If it does not fit the annotation.
        """
        if self._adapter is None or type(data) is self._plain:
            return data
        if self.refused:
            raise ValueError(self.refused)
        # What `dump` has written has the names of fields, and not their aliases.
        found = self._adapter.validate_json(json.dumps(data), **_by_name())
        # Of an Iterable pydantic makes what can be read only once.
        return list(found) if type(found).__name__ == "ValidatorIterator" else found


class FunctionCodec:
    """The codecs of one function's parameters and result.

    Attributes:
        name: The function's name, for messages.
        positional: Name and codec of each parameter that may be positional, in order.
        named: The codec of each parameter that may be a keyword, by name.
        rest: Name and codec of ``*args``.
        others: The codec of ``**kwargs``.
        result: The codec of the return value.
    """

    __slots__ = ("name", "named", "others", "positional", "result", "rest")

    def __init__(self, fn: Function | None) -> None:
        self.name = "a task" if fn is None else name_of(fn)
        hints = {} if fn is None else _hints(fn)
        self.positional: list[tuple[str, _Codec]] = []
        self.named: dict[str, _Codec] = {}
        self.rest: tuple[str, _Codec] = ("args", _Codec(_ANY))
        self.others = _Codec(_ANY)
        self.result = _Codec(hints.get("return", _ANY))
        signature = None if fn is None else signature_of(fn)
        kinds = inspect.Parameter
        for name, parameter in () if signature is None else signature.parameters.items():
            codec = _Codec(hints.get(name, _ANY))
            if parameter.kind is kinds.VAR_POSITIONAL:
                self.rest = (name, codec)
            elif parameter.kind is kinds.VAR_KEYWORD:
                self.others = codec
            else:
                if parameter.kind is not kinds.KEYWORD_ONLY:
                    self.positional.append((name, codec))
                if parameter.kind is not kinds.POSITIONAL_ONLY:
                    self.named[name] = codec

    def convert(self, args: Any, kwargs: Any, step: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments after ``send``, ``dump_ordered`` or ``load``, as *step* says.

        Raises:
            TypeError: If one does not fit. It names the function, parameter and type, but
                not the value, which may be a secret, and it has no cause for that reason.
        """
        known, rest = self.positional, self.rest
        many = len(known)
        try:
            found = []
            for index, value in enumerate(args):
                name, codec = known[index] if index < many else rest
                found.append(getattr(codec, step)(value))
            named = {}
            for name, value in kwargs.items():  # the message below names it
                named[name] = getattr(self.named.get(name, self.others), step)(value)
        except (ValueError, TypeError) as error:
            raise TypeError(
                f"argument {name!r} of {self.name} does not fit: given {_kind_of(value)}: "
                f"{_why(error)}; arguments are sent as JSON according to the annotations"
            ) from None
        return found, named

    def require_same(self, args: Args, kwargs: Kwargs | None) -> None:
        """Check that `decode_call` gives each argument its type again.

        Raises:
            TypeError: If one has no annotation, and is not what JSON has.
        """
        for name, codec, value in self._given(args, kwargs):
            if not codec.is_typed and not _comes_back(value):
                raise TypeError(self._not_same(name, codec, value))

    def require_secrets(self, args: Args, kwargs: Kwargs | None) -> None:
        """Check that `decode_call` gives each secret of pydantic again, and not asterisks.

        Raises:
            TypeError: If one would be lost.
        """
        for name, codec, value in self._given(args, kwargs):
            if codec.masks(value):
                raise TypeError(
                    f"argument {name!r} of {self.name} has a secret, which pydantic writes as "
                    "'**********': pass what it is found by, such as the name of a setting, or "
                    "give its model a field_serializer that returns its value, which is then stored"
                )

    def _given(self, args: Args, kwargs: Kwargs | None) -> Iterator[tuple[str, _Codec, Any]]:
        """Yield name, codec and value of each argument."""
        for (name, codec), value in zip(
            (*self.positional, *[self.rest] * len(args)), args, strict=False
        ):
            yield name, codec, value
        for name, value in (kwargs or {}).items():
            yield name, self.named.get(name, self.others), value

    def _not_same(self, name: str, codec: _Codec, value: Any) -> str:
        if codec.is_unknown:
            return (
                f"argument {name!r} of {self.name} has an annotation that pydantic does not know: "
                f"given {_kind_of(value)}, which has no JSON; pass what it is found by, such as "
                "its id"
            )
        if name in ("self", "cls"):
            return (
                f"{self.name} is a method, and its {name!r}, {_kind_of(value)}, has no JSON: make "
                "it a function or a static method, or give the step a key=, which says what the "
                "work is"
            )
        return (
            f"argument {name!r} of {self.name} needs an annotation: given {_kind_of(value)}, which "
            "comes back from JSON as something else"
        )

    def encode(self, args: Args, kwargs: Kwargs | None, options: Options | None = None) -> str:
        """Return a call's arguments as JSON text; see `encode_call`."""
        return self._text(self.convert(args, kwargs or {}, "send"), options)

    def identify(self, args: Args, kwargs: Kwargs | None) -> str:
        """Return the text of `encode`, but the same in every process, also if there are sets."""
        return self._text(self.convert(args, kwargs or {}, "dump_ordered"), None)

    def _text(self, call: tuple[Any, Any], options: Options | None) -> str:
        try:
            text = _to_json((*call, options) if options else call)
        except ValueError as error:  # of a number with thousands of digits
            raise TypeError(f"the arguments of {self.name} have no JSON: {_why(error)}") from None
        if len(text) > MAX_CALL:
            raise ValueError(
                f"the arguments of {self.name} take {len(text):,} characters of JSON, but only "
                f"{MAX_CALL:,} are allowed: store the data and pass its key instead"
            )
        return text

    def refusals(self) -> list[str]:
        """Return which annotations have no JSON, and what to do about each."""
        named = dict((*self.positional, *self.named.items(), self.rest))
        refused = [
            f"argument {name!r} of {self.name}: {codec.refused}"
            for name, codec in named.items()
            if codec.refused
        ]
        if self.result.refused:
            refused.append(f"the result of {self.name}: {self.result.refused}")
        return refused


def encode_call(
    fn: Function, args: Args, kwargs: Kwargs | None, options: Options | None = None
) -> str:
    """Encode a call's arguments as JSON text, according to the annotations of *fn*.

    Args:
        fn: The function, decorated or not.
        args: Its positional arguments, which must fit its signature.
        kwargs: Its keyword arguments, which must fit as well; None for none.
        options: Options of the task, for `call_options`: numbers, texts and flags. None for
            none.

    Returns:
        The text, for `decode_call`.

    Raises:
        TypeError: If one does not fit its annotation, or JSON cannot express it.
        ValueError: If the text is longer than `MAX_CALL`.
    """
    return codec_of(fn).encode(args, kwargs, options)


def decode_call(fn: Function, text: str) -> tuple[Args, Kwargs]:
    """Return the arguments in *text*, from `encode_call`, as the annotations of *fn* say.

    Raises:
        TypeError: If one does not fit its annotation.
        ValueError: If the text is not a call.
    """
    data = json.loads(text)
    if not (
        isinstance(data, list)
        and len(data) in (2, 3)
        and isinstance(data[0], list)
        and isinstance(data[1], dict)
    ):
        raise ValueError(
            f"a call is [[...], {{...}}] in JSON, not {_kind_of(data)} of {len(text):,} characters"
        )
    args, kwargs = codec_of(fn).convert(data[0], data[1], "load")
    return tuple(args), kwargs


def call_options(text: str) -> Options:
    """Return the options in a *text* from `encode_call`."""
    data = json.loads(text)
    options: Options = data[2] if len(data) > 2 else {}
    return options


def encode_result(fn: Function | None, value: Any) -> str:
    """Encode a result as JSON text, according to the return annotation of *fn*.

    Args:
        fn: The function, decorated or not; None if this process does not know it.
        value: What it returned.

    Returns:
        The text, for `decode_result`.

    Raises:
        TypeError: If the result does not fit the annotation, or JSON cannot express it.
        ValueError: If the text is longer than `MAX_RESULT`.
    """
    codec = codec_of(fn)
    try:
        text = _to_json(codec.result.dump(value))
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"the result of {codec.name} cannot be kept: given {_kind_of(value)}: "
            f"{_why(error)}; results are stored as JSON according to the return annotation"
        ) from None
    if len(text) > MAX_RESULT:
        raise ValueError(
            f"the result of {codec.name} takes {len(text):,} characters of JSON, but only "
            f"{MAX_RESULT:,} are allowed: store the data and return its key instead"
        )
    return text


def decode_result(fn: Function | None, text: str) -> Any:
    """Return the result in *text*, of the annotated type if it fits, else as plain JSON.

    Args:
        fn: The function, decorated or not; None if this process does not know it.
        text: From `encode_result`.

    Raises:
        ValueError: If the text is not JSON.
    """
    data = json.loads(text)
    try:
        return codec_of(fn).result.load(data)
    except (ValueError, TypeError):  # encoded with an annotation that has changed since
        return data


def settled(fn: Function | None, value: Any) -> tuple[Any, str | None]:
    """Return a result as it will be once decoded, and its JSON text.

    The text is None if the result is immutable and can be encoded again at any time. Raises
    the same errors as `encode_result`.
    """
    if _fits_any_json(value) and codec_of(fn).result.keeps(value):
        return value, None
    text = encode_result(fn, value)
    found = decode_result(fn, text)
    same = type(value) is str and type(found) is str and found == value
    return found, None if same else text


def _fits_any_json(value: object) -> bool:
    """Return whether *value* is a short scalar, which JSON can always express."""
    if type(value) is int:
        return value.bit_length() <= SHORT_INT
    return value is None or type(value) in (bool, float)


@functools.cache
def _by_name() -> dict[str, Any]:
    """Return what lets pydantic find fields by their names, too; from 2.11 on."""
    from pydantic import TypeAdapter

    names = inspect.signature(TypeAdapter.validate_json).parameters
    return {"by_name": True, "by_alias": True} if "by_name" in names else {}


def _may_have_sets(schema: Any) -> bool:
    """Return whether values of a core schema may have sets inside."""
    if isinstance(schema, (list, tuple)):
        return any(map(_may_have_sets, schema))
    if not isinstance(schema, dict):
        return False
    if isinstance(schema.get("type"), str) and schema["type"] in _SETS:
        return True
    return any(_may_have_sets(one) for key, one in schema.items() if key not in _NO_SCHEMA)


_SETS: Final = ("set", "frozenset", "any")
_NO_SCHEMA: Final = ("cls", "config", "default", "function", "metadata", "serialization")


def _ordered(value: Any, data: Any) -> Any:
    """Return the JSON *data* of a value with the elements of its sets sorted."""
    if isinstance(data, dict) and isinstance(value, dict) and len(data) == len(value):
        pairs = zip(data.items(), value.values(), strict=True)
        return {key: _ordered(one, inside) for (key, inside), one in pairs}
    if not isinstance(data, list) or not hasattr(value, "__len__") or len(data) != len(value):
        return data
    if isinstance(value, (list, tuple, set, frozenset)):
        data = [_ordered(one, inside) for one, inside in zip(value, data, strict=True)]
    return sorted(data, key=_to_json) if isinstance(value, (set, frozenset)) else data


def _comes_back(value: Any) -> bool:
    """Return whether a value without an annotation is the same after JSON, but for tuples."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is list or kind is tuple:
        return all(map(_comes_back, value))
    if kind is dict:
        return all(type(key) is str and _comes_back(one) for key, one in value.items())
    return False


def _why(error: Exception) -> str:
    """Return what is wrong with a value, in one line and without the value."""
    details: Any = getattr(error, "errors", None)
    if callable(details):
        return "; ".join(str(one["msg"]) for one in details(include_url=False)[:3])
    # If pydantic's text has the value, it stands at the end, in brackets.
    return safe_str(error, 500).partition(" [")[0]


def _kind_of(value: object) -> str:
    """Return the type of a value, for a message."""
    return "None" if value is None else f"a value of type {type(value).__qualname__}"


# -- codecs of functions


def codec_of(fn: Function | None) -> FunctionCodec:
    """Return the codec of a function, whose annotations are read only once; None is unknown."""
    if fn is None:
        return _UNKNOWN
    inner = bare_function(fn)
    try:
        found = _CODECS.get(inner)
        if found is None:
            found = _CODECS[inner] = FunctionCodec(as_task(inner))
    except TypeError:  # it is not hashable, or has no weak references
        return FunctionCodec(as_task(inner))
    return found


_CODECS: Final[weakref.WeakKeyDictionary[Any, FunctionCodec]] = weakref.WeakKeyDictionary()


def _hints(fn: Function) -> dict[str, Any]:
    inner = without_partials(fn)
    if not isinstance(inner, (types.FunctionType, types.MethodType, type)):
        inner = getattr(type(inner), "__call__", inner)  # noqa: B004  # its annotations
    try:
        return typing.get_type_hints(inner, include_extras=True)
    except Exception:  # an annotation has an unknown name; the values are plain JSON then
        return {}


def _says_nothing(annotation: Any) -> bool:
    return annotation is _ANY or annotation is Any or annotation is inspect.Parameter.empty


def adapter_of(annotation: Any) -> Any:  # Any: a TypeAdapter of whatever it is
    """Return pydantic's adapter, or None if there is no annotation that it can handle."""
    if _says_nothing(annotation):
        return None
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        # Such as a class of the user that pydantic does not know.
        return None


_UNKNOWN: Final = FunctionCodec(None)
