"""Every line that the framework logs, with values that would forge, colour or flood a log."""

from __future__ import annotations

import ast
import io
import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

import framework

ROOT = Path(framework.__file__).parent

FORGED = "ERROR asyncframe all is lost"
EVIL = f"told\n{FORGED}\r\x1b[31m\u2028\x85\x00"
LONG = EVIL + "x" * 100_000

_LOGGERS = {"asyncframe", "concurrent.futures"}
_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


class EvilError(Exception):
    """An error whose text and representation forge lines."""

    def __str__(self) -> str:
        return LONG

    __repr__ = __str__


class Evil:
    """A value whose text and representation forge lines."""

    def __str__(self) -> str:
        return LONG

    __repr__ = __str__


class Line(NamedTuple):
    """A call that logs, and what its message may be."""

    where: str
    method: str
    texts: tuple[str, ...]


@lru_cache
def lines() -> tuple[Line, ...]:
    """Return every call that logs in the framework's code."""
    found: list[Line] = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = dict(_assigned(tree))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if ast.unparse(node.func.value) != "_LOGGER" or node.func.attr not in _METHODS:
                continue
            message = node.args[node.func.attr == "log"]
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            texts = tuple(text for one in _choices(message) for text in _texts(one, constants))
            found.append(Line(where, node.func.attr, texts))
    return tuple(found)


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that stand for texts, with these."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            yield ast.unparse(node.target), node.value
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(map(ast.unparse, target.elts), value.elts, strict=True)
            else:
                yield ast.unparse(target), value


def _choices(message: ast.expr) -> Iterator[ast.expr]:
    if isinstance(message, ast.IfExp):
        yield from (message.body, message.orelse)
    else:
        yield message


def _texts(one: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    one = constants.get(ast.unparse(one), one)
    for choice in _choices(one):
        yield (
            str(choice.value)
            if isinstance(choice, ast.Constant)
            else f"not fixed: {ast.dump(choice)}"
        )


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Give what a plain handler writes of the framework's log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("asyncframe")
    before, passed_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    # pytest would keep a report of each of them.
    logger.propagate = False
    yield stream
    logger.propagate = passed_on
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.mark.extended("time")
def test_all_loggers_escape() -> None:
    """The framework has one logger; the pool's, as in Python's own, says fixed texts only."""
    names, fixed, others = set(), [], set()
    for path in ROOT.rglob("*.py"):
        source = path.read_text("utf-8")
        if re.search(rf"logging\.(getLogger|{'|'.join(_METHODS)})\(", source):
            others.add(path.relative_to(ROOT).as_posix())
        here = re.findall(r"SafeLogger\((\".*?)\)", source)
        names |= {ast.literal_eval(name) for name in here}
        if '"concurrent.futures"' in "".join(here):
            own = [one for one in lines() if one.where.startswith(f"{path.relative_to(ROOT)}:")]
            fixed += [text for one in own for text in one.texts]
    assert names == _LOGGERS
    # The class itself, and the filter that escapes.
    assert others == {"_threads/loggers.py", "_running/log.py"}
    assert fixed
    assert not [text for text in fixed if "%" in text]


def test_all_messages_are_fixed() -> None:
    """Values come in as arguments, which are escaped, and never as part of the message."""
    assert len(lines()) > 80
    assert not [
        (one.where, text)
        for one in lines()
        for text in one.texts
        if text.startswith("not fixed") or not text.isprintable()
    ]


@pytest.mark.parametrize("value", [LONG, EvilError(), Evil()], ids=["text", "error", "object"])
def test_no_line_is_forged(written: io.StringIO, value: object) -> None:
    """Each message with hostile values is one printable line of bounded length."""
    logger = logging.getLogger("asyncframe")
    for one in lines():
        for text in one.texts:
            kinds = re.findall(r"%[-\d.,]*([a-z])", text)
            values = [7 if kind in "dgf" else value for kind in kinds]
            written.seek(0)
            written.truncate()
            logger.error(text, *values)
            got = written.getvalue().removesuffix("\n")
            assert got.isprintable(), one.where
            assert len(got) <= len(text) + 4_000 * len(kinds), one.where


@pytest.mark.parametrize(
    "error",
    [
        LookupError(LONG),
        SyntaxError(LONG, (EVIL, 1, 1, LONG)),
        ExceptionGroup(EVIL, [ValueError(LONG)]),
        UnicodeDecodeError("utf-8", b"\xff\n\x1b[31m", 0, 1, LONG),
        OSError(5, LONG, EVIL),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_traceback_is_forged(written: io.StringIO, error: Exception) -> None:
    """A traceback has the lines of its frames, and each message in it takes one of them."""
    error.__cause__ = KeyError(LONG)
    error.add_note(LONG)
    try:
        raise error
    except Exception:
        logging.getLogger("asyncframe").exception("it failed")
    got = written.getvalue().splitlines()
    assert got[0] == "it failed"
    assert len(got) == written.getvalue().count("\n")
    assert all(line.isprintable() for line in got)
    assert not [line for line in got if line.lstrip(" |+-").startswith(FORGED)]
    assert len(written.getvalue()) < 30_000
