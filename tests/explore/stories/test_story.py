"""The story of a schedule: who was paused where, what others did meanwhile, what was set."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe._explore.telling.entries import Deviation, Ended, Entry, Failure, Ran
from pytest_asyncframe._explore.telling.lanes import picture
from pytest_asyncframe._explore.telling.statements import statement_at
from pytest_asyncframe._explore.telling.story import told
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import At, told_run
from tests.plugin.endings import LOOPS, PLAIN

pytestmark = pytest.mark.usefixtures("untraced")

SHOP = """\
from framework import background_task, current_task

stock = 1


class Till:
    cash = 0


till = Till()
till.cash = 0


@background_task
def buy(price):
    global stock
    left = stock
    if left:
        current_task().report_progress(0.5)
        stock = left - 1
        till.cash = till.cash + price
"""

AT_A_CALL = """\
buy#1 paused at `current_task().report_progress(0.5)` (shop.py:19), after `left = stock` (left = 1)
buy#2 ran to its end: `left = stock` (shop.py:17, left = 1); `stock = left - 1` (stock = 0); \
`till.cash = till.cash + price` (till.cash = 4)
buy#1 went on to its end: `stock = left - 1` (shop.py:20, stock = 0); \
`till.cash = till.cash + price` (till.cash = 7)"""

BEFORE_A_LINE = """\
buy#1 paused before `till.cash = till.cash + price` (shop.py:21), \
after `stock = left - 1` (stock = 0)
buy#2 ran to its end: `left = stock` (shop.py:17, left = 0); `if left:`
buy#1 went on to its end: `till.cash = till.cash + price` (shop.py:21, till.cash = 3)"""


@pytest.fixture
def shop(tmp_path: Path) -> ModuleType:
    """Return a module with a racy task."""
    file = tmp_path / "shop.py"
    file.write_text(SHOP)
    spec = importlib.util.spec_from_file_location("shop", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def story(shop: ModuleType, what: str, level: Level) -> list[str]:
    """Return the story of two purchases, the first of which is paused."""
    return told(entries_of(shop, what, level))


def entries_of(shop: ModuleType, what: str, level: Level) -> Sequence[Entry]:
    """Return what happens in two purchases, the first of which is paused."""

    def body(probe: Probe) -> None:
        shop.buy(3)
        shop.buy(4)
        probe.run_until_idle()

    strategy = At(what, "buy#2")
    return told_run(body, strategy, Path(str(shop.__file__)).parent, level)


def test_a_pause_at_a_call(shop: ModuleType) -> None:
    """At level framework the story names the call at which a task was paused."""
    assert "\n".join(story(shop, "report_progress()", "framework")) == AT_A_CALL


def test_a_pause_before_a_line(shop: ModuleType) -> None:
    """At level line the story names the line before which a task was paused."""
    assert "\n".join(story(shop, "shop.py:21", "line")) == BEFORE_A_LINE


def test_no_story_of_the_default(shop: ModuleType) -> None:
    """The default schedule has no story."""

    def body(probe: Probe) -> None:
        shop.buy(3)
        probe.run_until_idle()

    assert told(told_run(body, Default(), Path(str(shop.__file__)).parent)) == []


def test_choices_among_those_that_can_go_on() -> None:
    """A choice that pauses nobody is told as an order."""
    entries: list[Entry] = [
        Deviation("buy#1", "buy#2", "start", paused=False),
        Ran("buy#2", "shop.py:3", "stock -= 1"),
        Ended("buy#2", "failed"),
        Ran("buy#1", "shop.py:3", "stock -= 1"),
        Ended("buy#1", "completed"),
    ]
    assert told(entries) == [
        "buy#2 came before buy#1",
        "buy#2 ran to its end: `stock -= 1` (shop.py:3), and failed",
        "buy#1 ran to its end: `stock -= 1` (shop.py:3)",
    ]


def test_a_long_story() -> None:
    """The middle of a long story is left out."""
    entries: list[Entry] = []
    for number in range(20):
        entries.append(Ran(f"a#{number}", "a.py:1", "x = 1"))
        entries.append(Deviation(f"a#{number}", "b", "line", True, "a.py:2", "y = x"))
    lines = told(entries)

    assert len(lines) == 13
    assert lines[6] == "... 8 turns left out"
    assert lines[0] == "a#0 paused before `y = x` (a.py:2), after `x = 1`"


def test_a_picture(shop: ModuleType) -> None:
    """The picture has the story, a lane for each task of it, and folded all else that ran."""
    entries = entries_of(shop, "report_progress()", "framework")
    failure = Failure("assert 2 == 1", "test_shop.py:9", "assert sold_tickets_of_this_evening == 1")
    page = picture(entries, "test_<sale>", "found in run 3 of 200", failure)
    first, everything = page.split("<details>")

    assert first.count("<h2") == 2
    assert first.index(">buy#1<span>shop.py</span></h2>") < first.index(">buy#2<span>")
    assert "<h1>test_&lt;sale&gt;</h1><p>found in run 3 of 200</p>" in page
    assert page.count("<li>") == 4
    assert first.count('class="turn paused"') == 1
    assert first.count("it fails at ") == 2
    assert "assert sold_<wbr>tickets_<wbr>of_<wbr>this_<wbr>evening == 1" in first
    row = "<b>21</b><code>till.<wbr>cash = till.<wbr>cash + price</code>"
    shared = f'<div class="row shared">{row}<code class="set">till.<wbr>cash = 7</code></div>'
    assert shared in first
    assert "<summary>Everything that ran: " in everything


RACY = """
import pytest
from framework import background_task, current_task

sold = []

@background_task
def buy(name):
    if not sold:
        current_task().report_progress(0.5)
        sold.append(name)

@pytest.mark.interleave
def test_sale(asyncframe):
    sold.clear()
    buy("ann")
    buy("bob")
    asyncframe.run_until_idle()
    assert len(sold) == 1
"""


REPORT = """\
*asyncframe-_0  buy#00000001  paused at test_it.py:9; buy#2 comes first
minimised: 1 switch (from *)
  buy#1 paused at `current_task().report_progress(0.5)` (test_it.py:9), after `if not sold:` \
(sold is [[]])
  buy#2 ran to its end: `if not sold:` (test_it.py:8, sold is [[]]); \
`current_task().report_progress(0.5)`; `sold.append(name)` (sold = [[]'bob'])
  buy#1 went on to its end: `sold.append(name)` (test_it.py:10, sold = [[]'bob', 'ann'])
  it fails at `assert len(sold) == 1` (test_it.py:18): AssertionError: assert 2 == 1
replay: pytest test_it.py::test_sale --asyncframe-replay=AF2:*"""


def test_the_report_of_a_race(pytester: pytest.Pytester) -> None:
    """A failing test's report has the story, its timeline the pause, and its page shows both."""
    pytester.makepyfile(test_it=RACY)
    options = ("-p", "no:hypothesispytest", "-p", "no:randomly", *LOOPS)
    result = pytester.runpytest_inprocess(*options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(REPORT.splitlines())
    result.stdout.fnmatch_lines(["picture: .pytest_cache/*/test_it.py-test_sale.html"])
    (line,) = (line for line in result.outlines if line.startswith("picture: "))
    page = (pytester.path / line.removeprefix("picture: ")).read_text("utf-8")

    assert "<h1>test_it.py::test_sale</h1>" in page
    assert page.count("<li>") == 4


def test_no_picture_without_a_cache(pytester: pytest.Pytester) -> None:
    """Where pytest keeps nothing, the report names no page."""
    pytester.makepyfile(test_it=RACY)
    result = pytester.runpytest_inprocess(*PLAIN, *LOOPS)
    result.assert_outcomes(failed=1)
    assert "picture:" not in result.stdout.str()


def test_statements_of_several_lines(tmp_path: Path) -> None:
    """A statement of several lines is told as one, and one with a block up to that."""
    file = tmp_path / "shop.py"
    file.write_text(
        "x = (\n    1\n    + 2\n)\nif (x ==\n        3):\n    y = 1\nz = [\n]\n"
        "try: a = 'é'; b = 2  # both\nexcept OSError:\n    c = 3\n"
    )
    texts = [statement_at(str(file), line) for line in range(1, 13)]

    assert texts[:4] == [(1, "x = ( 1 + 2 )")] * 4
    assert texts[4:6] == [(5, "if (x == 3):")] * 2
    assert texts[6:9] == [(7, "y = 1"), (8, "z = [ ]"), (8, "z = [ ]")]
    assert texts[9:] == [(10, "try: a = 'é'; b = 2"), (11, "except OSError:"), (12, "c = 3")]


def test_a_line_without_its_file() -> None:
    """Code that came from no file has no text, and breaks nothing."""
    assert statement_at("<string>", 3) == (3, "")


ENDS_A_THREAD = """
import threading
import pytest

@pytest.mark.interleave
@pytest.mark.filterwarnings("error")
def test_full(asyncframe):
    free = ["seat"]

    def take():
        if free:
            free.pop()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.extended("time")
def test_the_error_of_a_thread_is_told(pytester: pytest.Pytester) -> None:
    """If a thread has ended with an error, the story says which one and where."""
    pytester.makepyfile(test_it=ENDS_A_THREAD)
    result = pytester.runpytest_inprocess("-p", "no:hypothesispytest", *LOOPS)
    told = "  it fails at `free.pop()` (test_it.py:11): IndexError: pop from empty list"
    assert told in result.outlines
