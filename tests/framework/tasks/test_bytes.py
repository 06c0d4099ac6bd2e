"""Bytes as arguments and results: carried where the annotation says so, refused elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Base64Bytes, BaseModel, ConfigDict, field_serializer, field_validator
from typing_extensions import TypedDict

from framework._tasks.wire import codec_of, decode_result, encode_call, encode_result, settled
from tests.framework.drawn import explored
from tests.framework.refusing import told_by

TEXT, NO_TEXT = b"text", b"\xff\x00\xfe"
"""Bytes that are text, and bytes that are not."""


class Encoded(BaseModel):
    """A model that says how its bytes are encoded."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Hexadecimal(BaseModel):
    """A model that sees to its bytes itself."""

    data: bytes

    @field_serializer("data", when_used="json")
    def write(self, data: bytes) -> str:
        """Write the bytes."""
        return data.hex()

    @field_validator("data", mode="before")
    @classmethod
    def read(cls, data: Any) -> Any:
        """Read them."""
        return bytes.fromhex(data) if isinstance(data, str) else data


class Plain(BaseModel):
    """A model that says nothing, whose bytes pydantic takes for text."""

    data: bytes


class Around(BaseModel):
    """A model with one like that inside."""

    inner: Plain | None = None


class Loose(BaseModel):
    """A model in which anything may stand."""

    data: Any


@dataclass
class Record:
    """A dataclass."""

    data: bytes


class Mapping(TypedDict):
    """A dict with known keys."""

    data: bytes


class Pair(NamedTuple):
    """A tuple with names."""

    data: bytes
    number: int


def returning(annotation: Any) -> Any:
    """Return a function with this return annotation."""

    def function() -> Any:
        raise NotImplementedError

    function.__annotations__["return"] = annotation
    return function


CARRIED: list[tuple[Any, Callable[[bytes], Any]]] = [
    (bytes, lambda data: data),
    (Annotated[bytes, "of a file"], lambda data: data),
    (bytes | None, lambda data: data),
    (int | bytes, lambda data: data),
    (list[bytes], lambda data: [data, b"other"]),
    (set[bytes], lambda data: {data}),
    (tuple[int, bytes], lambda data: (1, data)),
    (dict[str, bytes], lambda data: {"key": data}),
    (dict[bytes, int], lambda data: {data: 1}),
    (dict[str, list[bytes | None]], lambda data: {"key": [data, None]}),
    (Record, Record),
    (list[Record], lambda data: [Record(data)]),
    (Mapping, lambda data: {"data": data}),
    (Pair, lambda data: Pair(data, 1)),
    (Encoded, lambda data: Encoded(data=data)),
    (list[Encoded], lambda data: [Encoded(data=data)]),
    (Hexadecimal, lambda data: Hexadecimal(data=data)),
    (Base64Bytes, lambda data: data),
]
"""Annotations that say where bytes are, and what makes such a value."""


@explored
@given(st.sampled_from(CARRIED), st.binary(max_size=20))
@example(CARRIED[0], b"")
@example(CARRIED[0], b"\xff\x00\xfe")
def test_carried(case: tuple[Any, Callable[[bytes], Any]], data: bytes) -> None:
    """Bytes come back as they were, text or not, wherever the annotation has them."""
    annotation, make = case
    carried(annotation, make(data))


def test_each_is_carried() -> None:
    """Each annotation carries bytes that are no text."""
    for annotation, make in CARRIED:
        carried(annotation, make(NO_TEXT))


def carried(annotation: Any, value: Any) -> None:
    """See that a value comes back through JSON."""
    fn = returning(annotation)
    text = encode_result(fn, value)
    assert json.loads(text) is not None
    found = decode_result(fn, text)
    assert (type(found), found) == (type(value), value), annotation
    assert settled(fn, value)[0] == value


def test_refused() -> None:
    """Bytes that would not come back are refused in the same words, text or not."""
    refused: list[tuple[Any, Callable[[bytes], Any]]] = [
        (Any, lambda data: data),
        (Any, lambda data: {"deep": [{"inside": data}]}),
        (Any, bytearray),
        (object, lambda data: data),
        (str, lambda data: data),
        (list[str], lambda data: [data]),
        (dict[str, Any], lambda data: {"key": data}),
        (dict[str, int], lambda data: {data: 1}),
        (Loose, lambda data: Loose(data=data)),
        (str | bytes, lambda data: data),
    ]
    told = {
        (str(annotation), data): told_by(encode_result, returning(annotation), make(data))
        for annotation, make in refused
        for data in (TEXT, NO_TEXT)
    }
    wrong = {
        case: one
        for case, one in told.items()
        if one[0] is not TypeError
        or "only where the annotation says bytes and nothing else" not in one[1]
    }
    assert not wrong, wrong


def test_text_that_would_become_bytes() -> None:
    """A text that would come back as bytes is refused as well."""
    with pytest.raises(TypeError, match=r"^the result of .*JSON has no bytes"):
        encode_result(returning(bytes | str), "aGk=")


def test_refused_model() -> None:
    """A model that encodes bytes as text is refused whatever it holds, with what to do."""
    refused: list[tuple[Any, Callable[[bytes], Any]]] = [
        (Plain, lambda data: Plain(data=data)),
        (list[Plain], lambda data: [Plain(data=data)]),
        (Around, lambda data: Around(inner=Plain(data=data))),
    ]
    for annotation, make in refused:
        fn = returning(annotation)
        for data in (b"", TEXT, NO_TEXT):
            with pytest.raises(
                TypeError,
                match=r"^the result of .* encode theirs as text: Plain; give each model_config = ",
            ):
                encode_result(fn, make(data))
        (told,) = codec_of(fn).refusals()
        assert told.startswith("the result of ")
        assert told.endswith("ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')")


def test_refusals_of_arguments() -> None:
    """Arguments that do not fit a function are known before it is called."""

    def function(data: bytes, model: Plain, *rest: Plain, other: Encoded | None = None) -> None:
        del data, model, rest, other

    name = f"{__name__}.test_refusals_of_arguments.<locals>.function"
    assert [one.partition(": ")[0] for one in codec_of(function).refusals()] == [
        f"argument 'model' of {name}",
        f"argument 'rest' of {name}",
    ]
    with pytest.raises(TypeError, match=r"^argument 'model' of "):
        encode_call(function, (b"", Plain(data=b"text")), None)
    assert codec_of(returning(bytes)).refusals() == []
