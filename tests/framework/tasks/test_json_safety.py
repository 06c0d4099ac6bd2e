"""`Task.to_dict` and what it is made of: strict JSON, whatever the values are."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import json
import math
import sys
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict

from framework import TaskManager, background_task, current_task
from framework._records.jsonsafe import jsonable, safe_repr, safe_str


def strict(value: object) -> Any:
    """Return what a client reads of *value*: through strict JSON in UTF-8 and back."""
    return json.loads(json.dumps(jsonable(value), allow_nan=False, ensure_ascii=False).encode())


class Colour(enum.Enum):
    """An enum of texts."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum of numbers."""

    HIGH = 3


class Flags(enum.Flag):
    """An enum of bits."""

    READ = 1
    WRITE = 2


Point = namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Box:
    """A dataclass with anything in it."""

    content: object


class Model(BaseModel):
    """A pydantic model."""

    number: int = 1
    when: dt.datetime = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


class LooseModel(BaseModel):
    """A pydantic model with a field that pydantic itself cannot put into JSON."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    content: object


class Text(str):
    """A kind of text whose own methods raise."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("str")

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Raise."""
        raise RuntimeError("encode")


class Number(int):
    """A kind of number whose text raises."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")


class Real(float):
    """A kind of float."""


PLAIN: list[tuple[object, object]] = [
    (None, None),
    (True, True),
    (0, 0),
    (-1.5, -1.5),
    ("text", "text"),
    ([1, [2]], [1, [2]]),
    ((1, 2), [1, 2]),
    ({1}, [1]),
    (frozenset({1}), [1]),
    ({"a": {"b": 1}}, {"a": {"b": 1}}),
    ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    ({(1, 2): "a"}, {"1,2": "a"}),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(int, a=1), {"a": 1}),
    (UserDict(a=1), {"a": 1}),
    (Point(1, 2), [1, 2]),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Flags.READ | Flags.WRITE, 3),
    (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), "2026-01-02T03:04:00+00:00"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(3, 4), "03:04:00"),
    (dt.timedelta(minutes=1), 60.0),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("1.50"), "1.50"),
    (Decimal("NaN"), "NaN"),
    (PurePosixPath("/a/b"), "/a/b"),
    (Box(1), {"content": 1}),
    (Box(Box(b"x")), {"content": {"content": "<bytes: 1 bytes>"}}),
    (Model(), {"number": 1, "when": "2026-01-02T00:00:00Z"}),
    ([Model()], [{"number": 1, "when": "2026-01-02T00:00:00Z"}]),
    (LooseModel(content=object), {"content": "<class 'object'>"}),
    (Text("a text"), "a text"),
    (Number(5), 5),
    (Real(0.5), 0.5),
    (2**63, 2**63),
]


def test_has_json() -> None:
    """A value that JSON has a type for becomes that."""
    assert_shown(PLAIN)


def assert_shown(expected: list[tuple[object, object]]) -> None:
    """See that each value becomes what is expected of it, in value and in type."""
    wrong = []
    for value, wanted in expected:
        shown = strict(value)
        if (type(shown), shown) != (type(wanted), wanted):
            wrong.append((shown, wanted))
    assert not wrong, wrong


MARKERS: list[tuple[object, object]] = [
    (math.nan, "<nan>"),
    (math.inf, "<inf>"),
    (-math.inf, "<-inf>"),
    (Real("nan"), "<nan>"),
    ([1.0, math.nan], [1.0, "<nan>"]),
    ({math.nan: math.inf}, {"<nan>": "<inf>"}),
    (b"\x00\xff", "<bytes: 2 bytes>"),
    (bytearray(3), "<bytearray: 3 bytes>"),
    (memoryview(b"abc"), "<memoryview: 3 bytes>"),
    ({b"key": 1}, {"<bytes: 3 bytes>": 1}),
    (1 + 2j, "(1+2j)"),
    (Model, "<class 'tests.framework.tasks.test_json_safety.Model'>"),
    (Box, "<class 'tests.framework.tasks.test_json_safety.Box'>"),
    (deque([1]), "deque([1])"),
    (ValueError("x"), "ValueError('x')"),
]


def test_has_no_json() -> None:
    """A value that JSON has no type for becomes a marker, and the values beside it stay."""
    assert_shown(MARKERS)


def test_lone_surrogate() -> None:
    """A lone surrogate, which UTF-8 cannot carry, becomes a question mark, in keys too."""
    assert_shown(
        [
            ("\ud800", "?"),
            ("a\udfffb", "a?b"),
            ({"\ud800": 1, "a\udfffb": 2}, {"?": 1, "a?b": 2}),
        ]
    )


def test_huge_integer() -> None:
    """An integer with more digits than Python turns into text becomes a marker."""
    huge = 10 ** (sys.get_int_max_str_digits() + 1)

    shown = strict({"before": 1, "huge": huge, "after": [Number(huge)]})

    assert shown["before"] == 1
    assert shown["huge"] == shown["after"][0]
    assert shown["huge"].startswith("<int: ")


def test_released_memoryview() -> None:
    """A memoryview whose memory is gone becomes a marker."""
    view = memoryview(b"abc")
    view.release()

    assert strict([view, 1])[1] == 1


# -- cycles and depth


def list_cycle() -> object:
    """Return a list that holds itself."""
    cycle: list[object] = [1]
    cycle.append(cycle)
    return cycle


def dict_cycle() -> object:
    """Return a dict that holds itself over a list."""
    cycle: dict[str, object] = {}
    cycle["again"] = [cycle]
    return cycle


def dataclass_cycle() -> object:
    """Return a dataclass that holds itself."""
    cycle = Box(None)
    cycle.content = cycle
    return cycle


def test_cycle() -> None:
    """A value that holds itself is cut where it begins anew."""
    assert_shown(
        [
            (list_cycle(), [1, "<cycle: list>"]),
            (dict_cycle(), {"again": ["<cycle: dict>"]}),
            (dataclass_cycle(), {"content": "<cycle: Box>"}),
        ]
    )


def test_same_value_twice_is_no_cycle() -> None:
    """A value that is there twice, and not inside itself, is shown twice."""
    shared = [1]

    assert strict([shared, shared]) == [[1], [1]]


def test_deep_nesting() -> None:
    """Nesting deeper than 32 is cut there, however deep it goes."""
    value: list[object] = []
    for _ in range(100_000):
        value = [value]

    shown = jsonable(value)

    for _ in range(32):
        assert isinstance(shown, list)
        (shown,) = shown
    assert shown == "<nested too deeply: list>"


# -- hostile values


class BadRepr:
    """Has no text."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")


class BadClass:
    """Does not even say what it is."""

    @property  # type: ignore[misc]  # the point
    def __class__(self) -> Any:
        raise RuntimeError("class")


class BadMapping(Mapping[str, int]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> int:
        raise RuntimeError("get")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("iter")

    def __len__(self) -> int:
        raise RuntimeError("len")


class BadList(list[int]):
    """A list that cannot be read."""

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("iter")


class BadDump:
    """Looks like a model and is none."""

    def model_dump(self, **_: object) -> object:
        """Raise."""
        raise RuntimeError("dump")


class EndlessDump:
    """Looks like a model and gives another one for ever."""

    def model_dump(self, **_: object) -> object:
        """Return one more."""
        return EndlessDump()


class AnyAttribute:
    """Has every attribute."""

    def __getattr__(self, name: str) -> object:
        return self

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Return itself."""
        return self


class BadAttribute:
    """Has no attribute, and raises something else."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("attribute")


class BadIso(dt.date):
    """A date whose text is no text."""

    def isoformat(self) -> Any:
        """Return bytes."""
        return b"2026"


class RecursiveRepr:
    """Has a text that never ends."""

    def __repr__(self) -> str:
        return repr(self)


class OddRepr:
    """Has a text that is no plain string."""

    def __repr__(self) -> str:
        return Text("x\ud800")


HOSTILE: list[Callable[[], object]] = [
    BadRepr,
    BadClass,
    BadMapping,
    lambda: BadList([1]),
    BadDump,
    EndlessDump,
    AnyAttribute,
    BadAttribute,
    lambda: BadIso(2026, 1, 2),
    RecursiveRepr,
    lambda: {BadRepr(): 1},
    lambda: Box(BadRepr()),
    lambda: Text("\ud800"),
    OddRepr,
]


def test_hostile() -> None:
    """A value that raises at every touch is shown somehow, and so is what is beside it."""
    for make in HOSTILE:
        shown = strict({"before": 1, "hostile": make(), "after": [2]})

        assert (shown["before"], shown["after"]) == (1, [2])
        assert "hostile" in shown


def test_bad_repr_is_named() -> None:
    """A text that raises is replaced by the type and what it raised."""
    assert strict(BadRepr()) == "<BadRepr whose repr raises RuntimeError>"


def test_safe_repr_is_cut() -> None:
    """A long text is cut to the length that was asked for."""
    assert safe_repr("x" * 100, limit=10) == "'xxxxxx..."


def test_safe_str_of_error() -> None:
    """An error whose text raises is shown by its type, whatever it raises."""

    class SilentError(Exception):
        def __init__(self, raised: type[BaseException]) -> None:
            self.raised = raised

        def __str__(self) -> str:
            raise self.raised("str")

        def __repr__(self) -> str:
            raise self.raised("repr")

    for raised in (RuntimeError, SystemExit, KeyboardInterrupt):
        told = f"<SilentError whose repr raises {raised.__name__}>"
        assert (safe_str(SilentError(raised)), strict(SilentError(raised))) == (told, told)


def test_safe_str_is_cut() -> None:
    """An error's long text is cut."""
    assert safe_str(ValueError("x" * 100), limit=10) == "xxxxxxx..."


# -- tasks


async def test_long_texts_of_a_task(task_manager: TaskManager) -> None:
    """A description and a message of progress are kept up to a length, as errors are."""

    def work() -> None:
        task = current_task()
        assert task is not None
        task.report_progress(0.5, "p" * 1_000_000)

    task_id = await task_manager.submit(work, description="d" * 1_000_000)
    await task_manager.get_result(task_id)
    task = await task_manager.get_task(task_id)
    assert task is not None
    shown = task.to_dict()
    assert (shown["description"], shown["progress_message"]) == tuple(
        letter * 1_997 + "..." for letter in "dp"
    )


async def test_result_in_to_dict(task_manager: TaskManager) -> None:
    """A task's dict is strict JSON whatever it returned; the result itself is untouched."""
    results = [math.nan, b"x", {1, 2}, Model(), Box(1), BadRepr(), "\ud800", 10**5_000]
    for result in results:
        task_id = await task_manager.submit(functools.partial(identity, result))

        assert await task_manager.get_result(task_id) is result

        task = await task_manager.get_task(task_id)
        assert task is not None
        assert carried(task.to_dict())
    assert carried(task_manager.get_all_tasks())
    assert len(task_manager.get_all_tasks()) == len(results)


def identity(value: object) -> object:
    """Return what it was given."""
    return value


def carried(shown: object) -> Any:
    """Return what is left of *shown* after strict JSON in UTF-8."""
    return json.loads(json.dumps(shown, allow_nan=False, ensure_ascii=False).encode())


async def test_texts_in_to_dict(task_manager: TaskManager) -> None:
    """Names, descriptions, progress and errors with odd texts are strict JSON."""

    @background_task(name="na\ud800me", description="de\ud800scription")
    def odd() -> None:
        task = current_task()
        assert task is not None
        task.report_progress(0.5, "pro\ud800gress")
        raise ValueError("er\ud800ror")

    task_id = odd()
    with pytest.raises(ValueError, match=r"^er\ud800ror$"):
        await task_manager.get_result(task_id)

    (shown,) = task_manager.get_all_tasks().values()
    assert carried(shown)["error_message"] == "er?ror"


async def test_pool_figures(task_manager: TaskManager) -> None:
    """The figures of pool and manager are strict JSON."""
    await task_manager.submit(int, wait=True)

    for shown in (
        task_manager.get_stats(),
        task_manager.pool.get_stats(),
        task_manager.pool.get_active_tasks(),
    ):
        assert carried(shown) == shown
