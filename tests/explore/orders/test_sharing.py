"""Lines that touch nothing that several actors touch are tried last, and are not left out."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from textwrap import dedent

import pytest

from framework import background_task
from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._explore.policies.delays import spread_out
from pytest_asyncframe._explore.policies.search import Branch
from pytest_asyncframe._explore.schedule import Default, Location, Step
from pytest_asyncframe.probe import Probe
from tests.explore.modules import module
from tests.explore.one_run import one_run
from tests.explore.sessions import INI, PLAIN

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

APP = """
    import json

    class Order:
        def __init__(self):
            self.parts = []
            self.total = 0

        def add(self, price):
            self.parts.append(price)
            self.total += price

    stock = {"left": 2}
    limit = 3
    shared = Order()

    def work():
        order = Order()
        order.add(1)
        many = len(order.parts) + order.total
        text = f"{many} of {limit}".upper()
        for n in range(3):
            order.total = n
        left = stock["left"]
        stock["left"] = left - 1
        shared.total = left
        names = order.parts
        names.append(1)
        json.dumps(text)
        last = shared
        last.total = 1
        if text == "":
            stock["left"] = 5
"""


def shared_lines(root: Path, source: str = APP) -> set[str]:
    """Return the texts of the lines of the app that others may notice, as one run shows."""
    file = root / "app.py"
    file.write_text(dedent(source))
    linecache.checkcache(str(file))
    work = module(root, source)["work"]

    @background_task
    def task() -> None:
        work()

    def body(probe: Probe) -> None:
        task()
        task()
        probe.run_until_idle()

    lines = Follower("line", Followed(root, ()))
    with lines.claimed():
        steps = one_run(body, Default(), "line", lines)
    texts = file.read_text().splitlines()
    found = {one.what for one in steps if isinstance(one.what, Location) and not one.what.is_alone}
    return {
        texts[int(what.rpartition(":")[2]) - 1].strip() for what in found if what.startswith("app")
    }


def test_lines_that_are_shared(tmp_path: Path) -> None:
    """What two actors touch and one changes is shared, and so is what the text does not tell."""
    assert shared_lines(tmp_path) == {
        'left = stock["left"]',
        'stock["left"] = left - 1',
        "shared.total = left",
        "last.total = 1",
        # A container that others may have under another name, and code of a library.
        "names.append(1)",
        "json.dumps(text)",
    }


def test_they_come_first() -> None:
    """Deviations at lines that nobody else notices come after all others, and none is lost."""
    alone, shared = Location.of("app.py:1", "f 1"), Location.of("app.py:2", "f 2")
    alone.is_alone = True
    steps = [Step("line", what, ("a", "b"), True, 0) for what in (alone, shared, alone, shared)]
    steps.append(Step("framework", "submit()", ("a", "b"), True, 0))

    ordered = spread_out(steps, [Branch(number, 1) for number in range(5)])

    assert [number for number, _ in ordered] == [1, 4, 3, 0, 2]


LONG = """
import pytest
from framework import background_task

class Order:
    def __init__(self):
        self.total = 0

stock = {}

@background_task
def buy():
    order = Order()
BEFORE
    left = stock["left"]
    order.total += left
    stock["left"] = left - 1
AFTER

@pytest.mark.interleave(level="line")
def test_stock(asyncframe):
    stock["left"] = 2
    buy()
    buy()
    asyncframe.run_until_idle()
    assert stock["left"] == 0
"""


@pytest.mark.parametrize("before", [5, 14, 57])
def test_a_long_function(pytester: pytest.Pytester, before: int) -> None:
    """A race between two of sixty lines is found at once, wherever they are."""
    pytester.makeini(f"[pytest]\n{INI}")
    line = "    order.total += 1\n"
    source = LONG.replace("BEFORE", line * before).replace("AFTER", line * (60 - before))
    pytester.makepyfile(source)

    result = pytester.runpytest_inprocess(*PLAIN)

    result.assert_outcomes(failed=1)
    [found] = re.findall(r"^run (\d+) of at most 200 fails", result.stdout.str(), re.MULTILINE)
    assert int(found) <= 8
