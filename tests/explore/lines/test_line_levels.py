"""The levels "line" and "opcode" in whole runs: tasks, routes, coroutines and threads of pools."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.schedule import Step
from pytest_asyncframe.probe import Probe
from tests.explore.modules import module
from tests.explore.one_run import one_run

pytestmark = pytest.mark.usefixtures("untraced")


COUNTER = """
    from framework import background_task
    n = 0

    @background_task
    def in_one_line():
        global n
        n += 1

    @background_task
    def in_two_lines():
        global n
        seen = n
        n = seen + 1
"""


class Follow:
    """Takes the default but for some steps.

    Args:
        taken: The options to take, by the numbers of the steps.
    """

    def __init__(self, taken: dict[int, int]) -> None:
        self.taken = taken

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        return self.taken.get(number, 0)


def outcomes(
    root: Path,
    level: Level,
    body: Callable[[Probe], object],
    result: Callable[[], object],
) -> tuple[set[object], Sequence[Step]]:
    """Return what *result* returns after all runs with up to one deviation.

    Returns:
        The results, and the steps of the default schedule.
    """
    lines = Follower(level, Followed(root, ()))
    with lines.claimed():
        # Imports and caches are lines as well, of the first run.
        one_run(body, Follow({}), level, lines)
        steps = one_run(body, Follow({}), level, lines)
        found = {result()}
        for number, step in enumerate(steps):
            for option in range(1, len(step.options)):
                one_run(body, Follow({number: option}), level, lines)
                found.add(result())
    return found, steps


@pytest.mark.parametrize(
    ("task", "level", "sums"),
    [
        ("in_one_line", "line", {2}),
        ("in_one_line", "opcode", {1, 2}),
        ("in_two_lines", "line", {1, 2}),
    ],
)
def test_tasks(tmp_path: Path, task: str, level: Level, sums: set[int]) -> None:
    """Tasks that add to a global variable lose an update where their level splits it."""
    app = module(tmp_path, COUNTER)

    def body(probe: Probe) -> None:
        app["n"] = 0
        app[task]()
        app[task]()
        probe.run_until_idle()

    found, _ = outcomes(tmp_path, level, body, lambda: app["n"])

    assert found == sums


def test_plain_routes(tmp_path: Path) -> None:
    """Two requests for the last piece both get it if one stops between check and sale."""
    app = module(
        tmp_path,
        """
        from fastapi import FastAPI

        app = FastAPI()
        stock = {}

        @app.post("/buy")
        def buy() -> bool:
            if stock["left"] > 0:
                stock["left"] -= 1
                return True
            return False
        """,
    )
    sold: list[bool] = []

    def body(probe: Probe) -> None:
        app["stock"]["left"] = 1
        asyncio.run(buy_twice(probe))

    async def buy_twice(probe: Probe) -> None:
        async with probe.client(app["app"]) as client:
            answers = await asyncio.gather(client.post("/buy"), client.post("/buy"))
        sold[:] = [answer.json() for answer in answers]

    found, steps = outcomes(tmp_path, "line", body, lambda: sum(sold))

    assert found == {1, 2}
    assert [step.what for step in steps if step.kind == "line"] == [
        *("app.py:9", "app.py:10", "app.py:11", "app.py:9", "app.py:12"),
    ]


def test_coroutines(tmp_path: Path) -> None:
    """A line of a coroutine lets a thread run first, but no other coroutine."""
    app = module(
        tmp_path,
        """
        from framework import background_task
        log = []

        @background_task
        def thread():
            log.append("thread")

        @background_task
        async def first():
            log.append("first")
            log.append("first again")

        @background_task
        async def second():
            log.append("second")
        """,
    )

    async def submit(probe: Probe) -> None:
        for name in ("first", "second", "thread"):
            app[name]()
        await probe.settled()

    def body(probe: Probe) -> None:
        app["log"].clear()
        asyncio.run(submit(probe))

    found, _ = outcomes(tmp_path, "line", body, lambda: tuple(app["log"]))

    assert ("first", "thread", "first again", "second") in found
    assert ("first", "second", "first again", "thread") not in found
    assert all(
        log.index("first again") - log.index("first") == 1 + ("thread" in between(log))
        for log in found
        if isinstance(log, tuple)
    )


def between(log: tuple[str, ...]) -> tuple[str, ...]:
    """Return what comes between the two entries of the first task."""
    return log[log.index("first") + 1 : log.index("first again")]


def test_threads_of_an_older_pool(tmp_path: Path) -> None:
    """A pool of the user's own has points in all runs, though its threads are older."""
    app = module(
        tmp_path,
        """
        n = 0

        def add():
            global n
            seen = n
            n = seen + 1
        """,
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: None, range(8)))

        def body(probe: Probe) -> None:
            app["n"] = 0
            calls = [pool.submit(app["add"]) for _ in range(2)]
            for call in calls:
                call.result()

        found, _ = outcomes(tmp_path, "line", body, lambda: app["n"])

    assert found == {1, 2}


RACY = """
    import pytest
    from framework import background_task

    n = 0

    @background_task
    def add():
        global n
        seen = n
        n = seen + 1

    @pytest.mark.interleave(level="line")
    def test_sum(asyncframe):
        global n
        n = 0
        add()
        add()
        asyncframe.run_until_idle()
        assert n == 2
"""


@pytest.mark.extended("processes")
def test_debugging_a_replay(pytester: pytest.Pytester) -> None:
    """A breakpoint in the middle of a race does not change its replay, as far as Python allows."""
    source = dedent(RACY)
    file = pytester.makepyfile(source)
    run = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    found = re.search(r"--asyncframe-replay=(\S+)", pytester.run(*run).stdout.str())
    assert found is not None
    file.write_text(source.replace("    seen = n", "    # Now.\n    breakpoint()\n    seen = n"))

    replayed = pytester.run(*run, found[0], stdin=b"continue\n" * 4)

    replayed.assert_outcomes(failed=1)
    replayed.stdout.fnmatch_lines(
        "It fails with the schedule of the replay line."
        if sys.version_info >= (3, 12)
        else "not deterministic here: *. It may be because of a debugger, which has used "
        "sys.settrace."
    )
