"""Races are found in the default schedule alone, where no order of it fails."""

from __future__ import annotations

import gc
import linecache
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

from framework import background_task
from pytest_asyncframe._explore.races.numbers import Numbers
from pytest_asyncframe._explore.races.pairs import races_in
from pytest_asyncframe.probe import Probe
from tests.explore.modules import Names, module
from tests.explore.one_run import watched_run
from tests.explore.sessions import REFUSED, run

pytestmark = pytest.mark.usefixtures("untraced")

FIELD = Path(__file__).parents[1] / "field"

SHARED = """
from weakref import WeakValueDictionary

class Stock:
    reserved = 0
    def __init__(self):
        self.left = 1

stock, sold, names, limits = Stock(), [], {"a": 1}, {"a": 1, "b": 2}
kept = {"a": Stock()}
known = WeakValueDictionary(kept)
visits = 0
"""

COUNTS = "global visits\nvisits += 1"
SELLS = "if stock.left > 0:\n    stock.left -= 1"
CLAIMS = "if 'b' not in names:\n    names['b'] = 1"
LOADS = "limits.clear()\nlimits.update({'a': 1, 'b': 2})"
GOES = "for name in names:\n    len(name)"
TWICE = "if stock.reserved:\n    pass\nreturn stock.reserved"

RACES = [
    (COUNTS, COUNTS, "app.visits"),
    (SELLS, SELLS, "Stock.left"),
    (CLAIMS, CLAIMS, "app.names['b']"),
    (LOADS, "return limits['b']", "app.limits['b']"),
    ("return limits['b']", LOADS, "app.limits['b']"),
    ("if 'a' in known:\n    known['a']", "kept.clear()", "app.known['a']"),
    (GOES, "names['c'] = 1", "app.names['c']"),
    (TWICE, "stock.reserved = 2", "Stock.reserved"),
    ("stock.reserved = 1\nreturn stock.reserved", "stock.reserved = 2", "Stock.reserved"),
    ("sold.append(len(sold))", "sold.append(len(sold))", "app.sold"),
    ("if not sold:\n    sold.append(1)", "if not sold:\n    sold.append(2)", "app.sold"),
]
"""What two tasks do, and on what it is a race."""

NO_RACES = [
    ("stock.reserved = 1", "return stock.reserved"),
    ("stock.reserved = 1", "stock.reserved = 2"),
    ("sold.append(1)", "sold.append(2)\nreturn sold[-1]"),
    ("names['b'] = 1", "names['c'] = 1\nreturn names['c']"),
    ("names.setdefault('b', 1)", "if 'b' not in names:\n    names.setdefault('b', 2)"),
    ("return limits['a'] + limits['b']", "return limits['a'] + limits['b']"),
    # Perhaps it is not done at all.
    ("return stock.left > 1 and stock.reserved", "stock.reserved = 1\nstock.reserved = 2"),
]
"""What two tasks do that is right in any order."""


def found(root: Path, one: str, other: str) -> list[str]:
    """Return the names on which two tasks race, one of which runs after the other."""
    texts = [f"def {name}():\n{indent(text, '    ')}" for name, text in (("a", one), ("b", other))]
    source = "\n".join([SHARED, *texts])
    root.mkdir()
    file = root / "app.py"
    file.write_text(source)
    linecache.checkcache(str(file))
    names: Names = module(root, source)

    @background_task
    def task(name: str) -> None:
        names[name]()

    def body(probe: Probe) -> None:
        for number in [task("a"), task("b")]:
            probe.run_until_complete(number)

    return [race.path for race in races_in(watched_run(body, root))]


def test_races(tmp_path: Path) -> None:
    """What another thread may come between is a race, though here it comes after it."""
    paths = [found(tmp_path / str(at), *both) for at, (*both, _) in enumerate(RACES)]
    assert paths == [[path] for *_, path in RACES]


def test_no_races(tmp_path: Path) -> None:
    """What comes to the same in any order is none, though no lock orders it."""
    paths = [found(tmp_path / str(at), *both) for at, both in enumerate(NO_RACES)]
    assert paths == [[] for _ in NO_RACES]


def test_numbers_are_not_used_again() -> None:
    """An object at the address of another one that is gone has another number."""

    class Thing:
        pass

    numbers, seen, addresses = Numbers(), set[int](), set[int]()
    for _ in range(100):
        thing = Thing()
        seen.add(numbers.of(thing))
        assert numbers.of(thing) in seen
        addresses.add(id(thing))
        del thing
        gc.collect(0)
    assert len(seen) == 100
    assert len(addresses) < 100


APP = """
import asyncio
import pytest
from fastapi import FastAPI
from framework import setup_async_framework

cache = {}

def load(key):
    if key not in cache:
        cache[key] = 1
    return cache[key]

async def ask(asyncframe):
    cache.clear()
    app = FastAPI(lifespan=setup_async_framework)

    @app.get("/report")
    def report():
        return load("monday")

    @app.get("/sum")
    def total():
        return load("monday")

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.get("/report"), client.get("/sum"))
"""
"""Two `def` routes that look and then write, which no test of one order sees."""


def asked(marker: str) -> str:
    """Return a module with a test of the two routes."""
    test = "async def test_it(asyncframe):\n    await ask(asyncframe)\n"
    return f"{APP}\n@pytest.mark.interleave({marker})\n{test}"


def test_the_report(pytester: pytest.Pytester) -> None:
    """The test fails with both stacks, from the route to the line."""
    result = run(pytester, asked("races=True"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 race that may be benign, found in the default schedule",
            "*- exploration -*",
            "a race that may be benign, on test_it.cache?'monday'?: what report#1 writes *",
            "  report#1 reads it:",
            "    test_it.py:9 in load",
            "      if key not in cache:",
            "    test_it.py:19 in report",
            '      return load("monday")',
            "  then report#1 writes it:",
            "    test_it.py:10 in load",
            "      cache[[]key[]] = 1",
            "    test_it.py:19 in report",
            '      return load("monday")',
            "  and in between nothing holds back that total#1 reads it:",
            "    test_it.py:9 in load",
            "      if key not in cache:",
            "    test_it.py:23 in total",
            '      return load("monday")',
        ]
    )


@pytest.mark.parametrize("name", ["test_it.cache", "test_it.cache['monday']"])
def test_benign(pytester: pytest.Pytester, name: str) -> None:
    """What is named as benign does not fail the test, by its name with a key or without."""
    marker = f'races=True, benign=["{name}"], seeds=1'
    run(pytester, asked(marker)).assert_outcomes(passed=1)


@pytest.mark.extended("time")
def test_a_hint(pytester: pytest.Pytester) -> None:
    """Without races=True a pass names them where pytest is verbose, at no cost of a run."""
    hint = "*PASSED (*, none fails; may race: test_it.cache*at test_it.py:9 and test_it.py:10, *)*"
    racy = asked("seeds=12")
    verbose = run(pytester, racy, "-v", "-rP")
    verbose.stdout.fnmatch_lines([hint, "The test ran 14 times: *"])
    assert "may race" not in str(run(pytester, racy, "-rP").stdout)
    correct = racy.replace("if key not in cache", "if False")
    assert "may race" not in str(run(pytester, correct, "-v").stdout)


@pytest.mark.extended("time")
def test_nothing_follows_lines(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another tool follows all lines, races=True fails the test, and a hint is left out."""
    if sys.version_info >= (3, 12):
        for tool in (3, 4):
            sys.monitoring.use_tool_id(tool, "other")
    else:
        sys.settrace(lambda *_: None)
    try:
        result = run(pytester, asked("races=True"))
        silent = run(pytester, asked("seeds=2"), "-v")
    finally:
        if sys.version_info >= (3, 12):
            for tool in (3, 4):
                sys.monitoring.free_tool_id(tool)
        else:
            sys.settrace(None)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["races=True has to follow lines, which another tool does already*"]
    )
    silent.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("races=1", "*races must be True or False*"),
        ("benign='app.n'", "*benign must be a list of names, as the report of a race has them*"),
        ("benign=[1]", "*benign must be a list of names*"),
    ],
)
def test_wrong_values(pytester: pytest.Pytester, marker: str, message: str) -> None:
    """A value that is not allowed is an error of the test."""
    result = run(pytester, asked(marker), *REFUSED)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_partially_controlled(pytester: pytest.Pytester) -> None:
    """Where something is not controlled, it may have ordered all, so nothing is reported."""
    source = asked("races=True, seeds=2").replace(
        "    cache.clear()\n",
        "    cache.clear()\n    import socket\n    one, two = socket.socketpair()\n"
        "    reader, writer = await asyncio.open_connection(sock=one)\n    two.send(b'x')\n"
        "    await reader.read(1)\n    writer.close(); two.close()\n",
    )
    result = run(pytester, source, "-rP")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["It is not known whether there are races, *"])


AGAIN = """
import threading
import pytest
from framework import background_task

idents, addresses = [], []
left = threading.Event()

class Box:
    __slots__ = ("value", "items")

    def __init__(self):
        self.value, self.items = 0, []

    def use(self):
        before = self.value
        self.value = before + 1
        self.items.append(before)
        self.items.sort()
        return self.value

def use_one():
    box = Box()
    addresses.append(id(box))
    idents.append(threading.get_ident())
    box.use()

    def use_it():
        idents.append(threading.get_ident())
        box.use()

    for _ in range(3):
        thread = threading.Thread(target=use_it)
        thread.start()
        thread.join()
        box.use()

@background_task
def task():
    for _ in range(3):
        use_one()

@background_task
def leave_one():
    def wait():
        left.wait()

    threading.Thread(target=wait, daemon=True).start()

@pytest.mark.asyncframe(leaks="off")
@pytest.mark.interleave(races=True, seeds=1)
@pytest.mark.parametrize("number", range(4))
def test_it(asyncframe, number):
    leave_one()
    for task_id in [task(), task()]:
        asyncframe.run_until_complete(task_id)

def test_what_was_used_again():
    assert len(set(idents)) < len(idents)
    assert len(set(addresses)) < len(addresses)
"""


@pytest.mark.extended("time")
def test_what_is_used_again(pytester: pytest.Pytester) -> None:
    """Identifiers of threads and addresses of objects come again, in one test and in the next."""
    result = run(pytester, AGAIN, "-rP")
    result.assert_outcomes(passed=5)
    assert str(result.stdout).count("Nothing is read or written by two threads") == 4


ALL = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.interleave(races=True, seeds=1))
"""


@pytest.mark.extended("time")
@pytest.mark.parametrize(
    ("name", "tests", "number"),
    [
        ("correct", "", 33),
        ("threads", "cured", 17),
        ("apps", "cured", 23),
        ("coroutines", "cured", 15),
    ],
)
def test_no_false_alarm(pytester: pytest.Pytester, name: str, tests: str, number: int) -> None:
    """No program is said to race that is right, by whatever means."""
    pytester.makeconftest(ALL)
    source = dedent((FIELD / f"{name}.py").read_text("utf-8"))
    result = run(pytester, source, "-rP", "-k", tests or "test", ini="asyncio_mode = auto")
    assert result.parseoutcomes().get("passed", 0) == number
    assert set(result.parseoutcomes()) <= {"passed", "deselected"}
