"""Arguments, results and errors as JSON: there and back, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from types import ModuleType
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    field_serializer,
)

from framework import RateLimitExceededError, TaskTimeoutError, background_task, retry_task
from framework._records.ids import TaskId
from framework._tasks.errors.kept import decode_error, encode_error
from framework._tasks.functions import bare_function
from framework._tasks.specs import require_arguments
from framework._tasks.wire import (
    MAX_CALL,
    MAX_RESULT,
    codec_of,
    decode_call,
    decode_result,
    encode_call,
    encode_result,
    settled,
)
from framework.exceptions import RemoteTaskError
from tests.framework.refusing import differing, told_by


class Strict(BaseModel):
    """A model that takes nothing but the very types of its fields."""

    model_config = ConfigDict(strict=True)
    moment: datetime
    amount: Decimal


class Unknown:
    """A class that pydantic knows nothing of."""


def call(number: int, /, moment: datetime, *rest: Decimal, model: Strict, **more: UUID) -> Strict:
    """Take every kind of parameter."""
    del number, moment, rest, more
    return model


def untyped(first, second=2, *, third=3):  # the point
    """Take parameters that say nothing."""
    return first, second, third


def half_typed(value: Unknown, other: Missing) -> Missing:  # type: ignore[name-defined]  # noqa: F821
    """Have annotations that cannot be used."""
    del value, other


def to_float(value: float) -> float:
    """Return a float."""
    return value


def to_int(value: int) -> int:
    """Return a whole number."""
    return value


def to_shout(value: str) -> Annotated[str, AfterValidator(lambda text: f"{text}!")]:
    """Return a text that gets longer with each validation."""
    return value


MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
MODEL = Strict(moment=MOMENT, amount=Decimal("1.50"))


# -- calls


def test_every_kind_of_parameter() -> None:
    """Positional, further, named and unnamed keyword arguments come back typed."""
    args, kwargs = (1, MOMENT, Decimal("0.10")), {"model": MODEL, "key": UUID(int=3)}
    assert decode_call(call, encode_call(call, args, kwargs)) == (args, kwargs)


def test_text_is_strict_json() -> None:
    """The text is JSON that anything can read, and lists what was given in order."""
    text = encode_call(call, (1, MOMENT), {"model": MODEL})
    assert json.loads(text) == [
        [1, "2026-01-02T00:00:00Z"],
        {"model": {"moment": "2026-01-02T00:00:00Z", "amount": "1.50"}},
    ]
    assert text.isascii()


def test_without_annotations() -> None:
    """A value without an annotation comes back as plain JSON."""
    text = encode_call(untyped, (MODEL, (1, 2)), {"third": {"a": None}})
    assert decode_call(untyped, text) == (
        ({"moment": "2026-01-02T00:00:00Z", "amount": "1.50"}, [1, 2]),
        {"third": {"a": None}},
    )


def test_unusable_annotations() -> None:
    """An annotation that names nothing, or what pydantic knows nothing of, says nothing."""
    assert decode_call(half_typed, encode_call(half_typed, (1, "x"), None)) == ((1, "x"), {})


def test_decorated_function() -> None:
    """A decorated function's own annotations count."""

    @background_task
    @retry_task
    def decorated(amount: Decimal) -> Decimal:
        return amount

    text = encode_call(decorated, (Decimal(1),), None)
    assert decode_call(decorated, text) == ((Decimal(1),), {})
    retried: Any = decorated.fn
    assert bare_function(decorated) is retried.fn


def test_arguments_that_do_not_fit() -> None:
    """The error names function, parameter and type."""
    calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "'number' of {}.call does not fit: given a value of type str: Input": (call, ("x",)),
        "'moment' of {}.call does not fit: given a value of type str: In": (call, (1, "soon")),
        "'rest' of {}.call does not fit: given a value of type str: In": (call, (1, MOMENT, "x")),
        "'first' of {}.untyped does not fit: given a value of type object: Unable to serialize": (
            untyped,
            (object(),),
        ),
        "'first' of {}.untyped does not fit: given a value of type list: Unable to serialize": (
            untyped,
            ([{1: object()}],),
        ),
        "'choice' of {}.nothing_else does not fit: given a value of type str: Input should be": (
            nothing_else,
            ("c",),
        ),
        "'counts' of {}.counted does not fit: given a value of type list: Input should be gr": (
            counted,
            ([1, -1],),
        ),
    }
    wrong = differing(
        (told_by(encode_call, fn, args, None) for fn, args in calls.values()),
        ((TypeError, f"argument {words.format(__name__)}") for words in calls),
    )
    assert not wrong, wrong


def test_almost_fitting() -> None:
    """What the annotation would accept is made what it says, as a worker would do."""
    assert encode_call(to_float, (3,), None) == "[[3.0],{}]"


@dataclass
class Holder:
    """A class whose field may hold anything."""

    inside: Any


def listed(numbers: list[int]) -> list[int]:
    """Take and return a list."""
    return numbers


def iterated(numbers: Iterable[Any]) -> Iterable[Any]:
    """Take and return whatever can be iterated."""
    return numbers


READ_ONCE = ": files, generators and iterators cannot be sent: pass a list;"


def test_what_can_be_read_once() -> None:
    """A file or generator is refused unread, wherever it stands and whatever is annotated."""
    makers: list[Callable[[str], Any]] = [iter, StringIO, lambda text: (ch for ch in text)]
    places: list[Callable[[Any], Any]] = [lambda it: it, lambda it: [{"a": (1, it)}], Holder]
    wrong = []
    for fn, place, make in itertools.product((untyped, listed, iterated), places, makers):
        once = make("123")
        for what, told in (
            ("argument '", told_by(encode_call, fn, (place(once),), None)),
            ("the result of ", told_by(encode_result, fn, place(once))),
        ):
            if told[0] is not TypeError or not told[1].startswith(what) or READ_ONCE not in told[1]:
                wrong.append((fn, told))
        if "".join(once) != "123":
            wrong.append((fn, (None, f"{once} was read")))
    assert not wrong, wrong


def test_what_holds_itself_is_no_endless_search() -> None:
    """A list inside of itself is refused by JSON, after a search that ends."""
    endless: list[Any] = [1]
    endless.append(endless)
    with pytest.raises(
        TypeError, match=r"^argument 'first' of .*untyped does not fit: .*Circular reference"
    ):
        encode_call(untyped, (endless,), None)


def test_too_long_a_call() -> None:
    """Arguments that take too much room are refused, with how much is allowed."""
    with pytest.raises(
        ValueError, match=rf"^the arguments of .* {MAX_CALL:,} are allowed: store the data"
    ):
        encode_call(untyped, ("x" * MAX_CALL,), None)
    with pytest.raises(TypeError, match=r"^the arguments of .*untyped have no JSON: Exceeds the"):
        encode_call(untyped, (10**5000,), None)


def test_refused_on_arrival() -> None:
    """Arguments from outside are validated before anything is called with them."""
    with pytest.raises(TypeError, match=r"^argument 'number' .* does not fit: given a value of"):
        decode_call(call, '[["one"],{}]')


SECRET = "correct horse battery staple"
PIN = 8675309


def strict_number(number: int) -> dict[str, int]:
    """Take a number, and return what holds one."""
    return {"number": number}


def any_of(number: float | list[int]) -> None:
    """Take one of several types."""


def nothing_else(choice: Literal["a", "b"]) -> None:
    """Take one of two texts."""


def counted(counts: list[Annotated[int, Field(ge=0)]]) -> None:
    """Take numbers that are not negative."""


def test_a_refused_value_is_not_told() -> None:
    """Neither the error of a refused value nor its traceback shows the value."""
    refusals: dict[str, Callable[[], object]] = {
        "int": lambda: encode_call(strict_number, (SECRET,), None),
        "union": lambda: encode_call(any_of, (), {"number": [SECRET]}),
        "literal": lambda: decode_call(nothing_else, f'[["{SECRET}"],{{}}]'),
        "untyped": lambda: encode_call(untyped, ([{SECRET: object()}],), None),
        "arrived": lambda: decode_call(strict_number, f'[["{SECRET}"],{{}}]'),
        "shape": lambda: decode_call(strict_number, f'["{SECRET}"]'),
        "result": lambda: encode_result(strict_number, {"number": SECRET}),
        "number": lambda: settled(to_shout, PIN),
        "args": lambda: require_arguments(SECRET, None),
        "kwargs": lambda: require_arguments((), [SECRET]),
    }
    wrong = []
    for name, refused in refusals.items():
        # Their texts are compared where they are the claim; here it is what is not in them.
        with pytest.raises((TypeError, ValueError)) as caught:
            refused()
        error = caught.value
        # But for the lines of this test.
        shown = "".join(traceback.format_exception_only(error))
        hidden = error.__cause__ is None and (
            error.__suppress_context__ or error.__context__ is None
        )
        if SECRET in shown or str(PIN) in shown or not hidden:
            wrong.append(name)
    assert not wrong, wrong


class Till:
    """A class with a method that is a step."""

    def pay(self, order: int) -> None:
        """Pay."""


def with_unknown(item: Unknown, items: Iterable[int] = ()) -> Iterable[int]:
    """Take what pydantic does not know, and what it reads once."""
    del item
    return items


@pytest.mark.parametrize(
    ("fn", "args", "told"),
    [
        (with_unknown, (Unknown(),), "'item' .* pydantic does not know: .* Unknown, which has no "),
        (Till.pay, (Till(), 1), r"pay is a method, and its 'self', .* Till, has no JSON: make it "),
        (untyped, (Unknown(),), r"'first' of .*untyped needs an annotation: given .* Unknown, whi"),
    ],
)
def test_an_argument_that_would_be_another(
    fn: Callable[..., Any], args: tuple[Any, ...], told: str
) -> None:
    """An argument that JSON would change is refused with the cure for its kind."""
    with pytest.raises(TypeError, match=told):
        codec_of(fn).require_same(args, None)


def test_an_iterable_can_be_read_twice() -> None:
    """What an annotation calls an iterable comes back as a list."""
    args, _ = decode_call(with_unknown, "[[null,[1,2]],{}]")

    assert args == (None, [1, 2])
    assert settled(with_unknown, (1, 2)) == ([1, 2], "[1,2]")


class Renamed(BaseModel):
    """A model whose field has another name outside."""

    number: int = Field(alias="theNumber")


def renamed(model: Renamed, pair: tuple[Renamed, bytes]) -> list[Renamed]:
    """Return a model, and take one beside bytes, which need another adapter."""
    return [model, pair[0]]


def test_an_alias_comes_back() -> None:
    """A model that can only be made by its alias comes back."""
    model = Renamed(theNumber=7)
    args = (model, (model, b"1"))

    assert decode_call(renamed, encode_call(renamed, args, {})) == (args, {})
    assert settled(renamed, [model])[0] == [model]


class Login(BaseModel):
    """A model with a secret, which pydantic hides."""

    password: SecretStr


class OpenLogin(Login):
    """One that says that its secret may be written."""

    @field_serializer("password")
    def tell(self, password: SecretStr) -> str:
        """Return the secret."""
        return password.get_secret_value()


def log_in(login: Login, *others: OpenLogin, code: SecretBytes | None = None) -> None:
    """Take secrets."""


def test_a_secret_that_would_be_asterisks() -> None:
    """An argument is refused if pydantic writes asterisks in its place, and its value not told."""
    open_one, hidden = OpenLogin(password=SecretStr(SECRET)), Login(password=SecretStr(SECRET))
    codec = codec_of(log_in)
    told = re.escape(f"of {__name__}.log_in has a secret, which pydantic writes as '**********': ")
    for name, args, kwargs in [
        ("login", (hidden,), {}),
        ("code", (), {"code": SecretBytes(b"0000")}),
    ]:
        with pytest.raises(TypeError, match=rf"^argument '{name}' {told}") as caught:
            codec.require_secrets(args, kwargs)
        assert SECRET not in str(caught.value)
    codec.require_secrets((Login(password=SecretStr("")), open_one), {"code": None})


def test_no_call() -> None:
    """A text of another shape is no call."""
    texts = ("{}", "[]", "[[],[]]", "7", '[[1,2],"x"]', "nonsense")
    told = [told_by(decode_call, call, text) for text in texts]
    expected = [*[(ValueError, "a call is ")] * 5, (json.JSONDecodeError, "Expecting value")]
    assert not differing(told, expected), told


# -- results


def test_result() -> None:
    """A result comes back as its annotation says, strict models included."""
    assert decode_result(call, encode_result(call, MODEL)) == MODEL


def test_result_of_an_unknown_function() -> None:
    """Without the function, a result is plain JSON."""
    assert decode_result(None, encode_result(call, MODEL))["amount"] == "1.50"


def test_result_under_another_annotation() -> None:
    """A text that does not fit is given as plain JSON, not lost."""
    assert decode_result(call, '{"other":1}') == {"other": 1}


def test_not_finite() -> None:
    """NaN and infinities survive, with and without an annotation."""
    for value in (float("nan"), float("inf"), -float("inf")):
        for fn in (to_float, untyped):
            assert repr(decode_result(fn, encode_result(fn, value))) == repr(value)


def test_no_json() -> None:
    """A result that JSON has nothing for is named in the error."""
    with pytest.raises(
        TypeError, match=r"^the result of .*untyped cannot be kept: given a value of type f"
    ):
        encode_result(untyped, lambda: None)


def test_keys_that_meet() -> None:
    """A result that would lose one of two keys in JSON is refused, and others are kept."""
    for one, other, text in ((1, "1", "1"), (None, "None", "None"), ((1, 2), "1,2", "1,2")):
        error, said = told_by(encode_result, untyped, [{"inside": {one: "a", other: "b"}}])
        assert error is TypeError
        assert said.startswith(
            f"the result of {__name__}.untyped cannot be kept: given a value of type list: two "
            f"keys of a dict are {text!r} in JSON: rename one; "
        )
    assert encode_result(untyped, {1: "a", "2": "b", None: "c"}) == '{"1":"a","2":"b","None":"c"}'


def test_too_long_a_result() -> None:
    """A result that takes too much room is refused, with how much is allowed."""
    with pytest.raises(
        ValueError, match=rf"^the result of .* {MAX_RESULT:,} are allowed: store the data"
    ):
        encode_result(untyped, "x" * MAX_RESULT)


def test_settled() -> None:
    """A result is, here, what every other process will have."""
    assert settled(untyped, (1, {2: 3})) == ([1, {"2": 3}], '[1,{"2":3}]')
    assert repr(settled(to_float, 3)) == "(3.0, '3.0')"
    assert settled(call, MODEL)[0] == MODEL


def test_settled_as_it_is() -> None:
    """Of a plain value no text need be kept: it gives the same one later."""
    values = [None, True, 7, 0.5, "text", 2**2048 - 1]
    assert [settled(untyped, value) for value in values] == [(value, None) for value in values]


def test_settled_too_many_digits() -> None:
    """A whole number that Python does not turn into text is refused, and not only when written."""
    told = [
        told_by(settled, fn, value)
        for fn in (untyped, to_int, None)
        for value in (10**5000, -(10**5000), [10**5000])
    ]
    assert len(told) == 9
    assert not [
        one
        for one in told
        if one[0] is not TypeError or not re.match(r"the result of .* cannot be kept: ", one[1])
    ]


def test_settled_text_is_the_first() -> None:
    """The text of a result that changes with each reading is the one of what was returned."""
    found, text = settled(to_shout, "a")
    assert (found, text) == ("a!", '"a"')


# -- errors


class Sold(Exception):  # noqa: N818  # a user's own
    """An error whose constructor makes one text of its arguments."""

    def __init__(self, item: str) -> None:
        super().__init__(f"no {item} left")
        self.item = item


class Hostile(Exception):  # noqa: N818  # as above
    """An error that gives away nothing."""

    def __reduce__(self) -> Any:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


class Disguised(Exception):  # noqa: N818  # as above
    """An error that is pickled as another one."""

    def __reduce__(self) -> Any:
        return ValueError, ("not mine",)


def test_error_that_becomes_another() -> None:
    """An error that is rebuilt by another class than its own keeps its class and its text."""
    found = decode_error(encode_error(Disguised("mine")))

    assert (type(found), str(found)) == (Disguised, "mine")


def test_error_comes_back() -> None:
    """An error has its class, its arguments, its attributes and its words."""
    errors: list[BaseException] = [
        RuntimeError(),
        ValueError("x", 1, None, [2, {"a": 3}]),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "list.txt"),
        TaskTimeoutError(TaskId("id"), "name", 2.5),
        RateLimitExceededError("name", 5, 60.0, 2.5),
        RemoteTaskError("shop.Error", "text"),
        Sold("tea"),
        SystemExit(3),
    ]

    def known(error: BaseException) -> object:
        return type(error), error.args, str(error), vars(error)

    found = [decode_error(encode_error(error)) for error in errors]
    wrong = [pair for pair in zip(found, errors, strict=True) if known(pair[0]) != known(pair[1])]
    assert not wrong, wrong


def test_error_with_other_arguments() -> None:
    """An error whose arguments are no plain data keeps its class and its text."""
    found = decode_error(encode_error(ValueError("x", object)))
    assert (type(found), str(found)) == (ValueError, "('x', <class 'object'>)")


class Declined(Exception):  # noqa: N818  # as above
    """An error that words itself of what it was made with, and keeps a connection."""

    def __init__(self, amount: object, connection: object = None) -> None:
        self.amount, self.connection = amount, connection

    def __str__(self) -> str:
        return f"declined {self.amount}"


def test_error_of_plain_data() -> None:
    """Arguments that JSON has no types for come back as what they were."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    values = [Decimal("1.10"), UUID(int=1), moment, moment.date(), moment.time(), b"\xff"]
    values += [moment - datetime(2025, 1, 1, tzinfo=UTC), (1, (2,)), {1}, frozenset({"a"})]
    errors = [KeyError((1, 2)), Declined(Decimal("1.10")), ValueError(*values, [{"a": {3}}])]
    found = [decode_error(encode_error(error)) for error in errors]

    assert [(type(one), one.args, vars(one)) for one in found] == [
        (type(one), one.args, vars(one)) for one in errors
    ]


def test_error_that_words_itself() -> None:
    """An error whose words are made of what is lost has its class and its words, not the rest."""
    found = decode_error(encode_error(Declined(Unknown())))
    again = decode_error(encode_error(found))

    for one in (found, again):
        assert isinstance(one, Declined)
        assert re.fullmatch("declined <.*Unknown object at 0x.*>", str(one))
        assert vars(one) == {"connection": None}


def test_error_that_lost_an_attribute() -> None:
    """What the constructor makes of the arguments is no attribute that the error had."""
    error = Declined("7")
    error.connection = Unknown()
    found = decode_error(encode_error(error))

    assert isinstance(found, Declined)
    assert vars(found) == {"amount": "7"}


def test_group_of_errors() -> None:
    """A group has its errors, each of its class, and an error has its cause."""
    error = ValueError("a")
    error.__cause__ = KeyError("b")
    error.__cause__.__cause__ = OSError("c")
    group = ExceptionGroup("some", [error, ExceptionGroup("inner", [Declined(Decimal(1))])])
    found = decode_error(encode_error(group))
    cause = decode_error(encode_error(error)).__cause__

    assert isinstance(found, ExceptionGroup)
    assert repr(found) == repr(group)
    assert isinstance(found.exceptions[1].exceptions[0], Declined)
    assert isinstance(cause, KeyError)
    assert repr(cause.__cause__) == "OSError('c')"


def test_local_class() -> None:
    """An error whose class cannot be named keeps its text."""

    class LocalError(Exception):
        pass

    found = decode_error(encode_error(LocalError("a")))
    assert isinstance(found, RemoteTaskError)
    assert str(found).endswith("LocalError: a")


def test_hostile_error() -> None:
    """An error whose text cannot be made is still reported."""
    found = decode_error(encode_error(Hostile()))
    assert isinstance(found, Hostile)
    assert "Hostile" in str(found)


def test_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of a module that is not imported here is not imported for it."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    text = json.dumps({"type": ["colorsys", "Error"], "text": "x", "parts": [["x"], {}]})
    assert isinstance(decode_error(text), RemoteTaskError)
    assert "colorsys" not in sys.modules


def test_no_import_through_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that makes its names when asked for them is not asked."""
    asked: list[str] = []
    module = ModuleType("lazy_module")
    module.__dict__["__getattr__"] = asked.append
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    text = json.dumps({"type": ["lazy_module", "Error"], "text": "x", "parts": [["x"], {}]})
    assert isinstance(decode_error(text), RemoteTaskError)
    assert asked == []


def test_only_errors_are_built() -> None:
    """Nothing but an exception class is ever called."""
    found = [
        decode_error(json.dumps({"type": ["builtins", name], "text": "1", "parts": [["1"], {}]}))
        for name in ("eval", "print", "object", "dict")
    ]
    assert [type(error) for error in found] == [RemoteTaskError] * 4


def test_no_error() -> None:
    """A text of another shape is no error."""
    texts = ("[]", "{}", '{"type": 1, "text": "x", "parts": null}', "x")
    told = [told_by(decode_error, text) for text in texts]
    expected = [*[(ValueError, "not an error in JSON")] * 3, (json.JSONDecodeError, "Expecting ")]
    assert not differing(told, expected), told


def test_long_error() -> None:
    """An error's words and arguments are bounded."""
    text = encode_error(ValueError("x" * 100_000))
    assert len(text) < 3_000
    assert type(decode_error(text)) is ValueError
