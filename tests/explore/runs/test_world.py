"""What is the same in every run of an explored test."""

from __future__ import annotations

import gc
import os
import random
import secrets
import threading
import uuid
import weakref

import pytest

from pytest_asyncframe._explore import world
from tests.explore.sessions import run

SEEN = """
import datetime, random, threading, time
from concurrent.futures import ThreadPoolExecutor
import pytest
from framework import background_task

SEEN = []

@background_task
def work():
    return random.random()

@pytest.mark.interleave(seeds=5, policy="random")
async def test_it(asyncframe):
    ids = [work(), work()]
    tasks = [await asyncframe.completed(one) for one in ids]
    SEEN.append((
        ids,
        sorted(task.result for task in tasks),
        random.random(),
        datetime.datetime.now(datetime.UTC).isoformat(),
        time.time(),
        threading.Thread().name,
        ThreadPoolExecutor()._thread_name_prefix,
    ))
    assert SEEN[0] == SEEN[-1]
    print(*map(str, SEEN[0]), sep="\\n")
"""


def test_all_runs_see_the_same_world(pytester: pytest.Pytester) -> None:
    """Ids, random numbers, the date and the names of threads are the same in each run."""
    result = run(pytester, SEEN, "-rP")
    result.assert_outcomes(passed=1)
    at = next(i for i, line in enumerate(result.outlines) if "'00000001" in line)
    ids, _, _, date, seconds, thread, pool = result.outlines[at : at + 7]
    assert ids == str([f"{number:08x}{0:024x}" for number in (1, 2)])
    assert (date, seconds) == ("2030-01-01T00:00:00+00:00", "1893456000.0")
    assert (thread, pool) == ("Thread-1", "ThreadPoolExecutor-0")


@pytest.mark.extended("processes")
def test_two_processes_see_the_same_world(pytester: pytest.Pytester) -> None:
    """What is drawn at random is the same in the next session, and in a worker of xdist."""
    drawn = []
    for options in ((), ("-n1",)):
        lines = run(pytester, SEEN, "-rP", *options).outlines
        at = next(i for i, line in enumerate(lines) if "'00000001" in line)
        drawn.append(lines[at : at + 7])
    assert drawn[0] == drawn[1]


KEPT = """
import asyncio, weakref
import pytest

LOOPS = []

@pytest.mark.interleave(seeds=20, policy="random")
async def test_it(asyncframe):
    LOOPS.append(weakref.ref(asyncio.get_running_loop()))
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
    assert sum(loop() is not None for loop in LOOPS[1:]) <= 1
"""


def test_runs_do_not_pile_up(pytester: pytest.Pytester) -> None:
    """The event loop of each run but the first is freed before the next run begins."""
    run(pytester, KEPT).assert_outcomes(passed=1)


LITTER = """
import pytest
from framework import background_task

class Litter:
    def __init__(self):
        self.me = self

    def __del__(self):
        raise OSError("not closed")

@background_task
def work(order, name, manager):
    manager.get_stats()
    order.append(name)
    if order == ["second"]:
        Litter()

@pytest.mark.interleave(seeds=50)
async def test_it(asyncframe):
    order = []
    for name in ("first", "second"):
        work(order, name, asyncframe.manager)
    await asyncframe.settled()
"""


def test_errors_in_garbage_are_those_of_their_run(pytester: pytest.Pytester) -> None:
    """What is raised when a run's garbage is freed fails that run, if warnings are errors."""
    result = run(pytester, LITTER, "-Werror")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*OSError: not closed", "minimised: 1 switch *", "replay: pytest test_it.py::test_it *"]
    )
    assert "passed." not in str(result.stdout)


@pytest.mark.extended("time")
def test_errors_in_garbage_are_warnings(pytester: pytest.Pytester) -> None:
    """What is raised when a run's garbage is freed is a warning, as without the marker."""
    run(pytester, LITTER, "-Wdefault").assert_outcomes(passed=1, warnings=1)


def test_the_marker_sets_the_date(pytester: pytest.Pytester) -> None:
    """The start of the test's own marker wins over the fixed date."""
    source = (
        "import datetime, pytest\n@pytest.mark.interleave(seeds=2)\n"
        "@pytest.mark.asyncframe(start='2001-02-03T00:00:00+00:00')\n"
        "def test_it(asyncframe):\n    assert datetime.date.today().year == 2001\n"
    )
    run(pytester, source).assert_outcomes(passed=1)


def test_another_seed_draws_others(pytester: pytest.Pytester) -> None:
    """--asyncframe-seed changes what is drawn at random."""
    drawn = []
    for seed in (1, 2):
        lines = run(pytester, SEEN, "-rP", f"--asyncframe-seed={seed}").outlines
        at = next(i for i, line in enumerate(lines) if "'00000001" in line)
        drawn.append(lines[at + 2])
    assert drawn[0] != drawn[1]


def test_random_numbers_go_on_as_before() -> None:
    """After a run, `random` continues where it was."""
    random.seed(7)
    expected = [random.random(), random.random()]
    random.seed(7)
    found = [random.random()]
    with world.same(1):
        random.random()
    assert [*found, random.random()] == expected


def test_random_bytes_have_one_order() -> None:
    """UUIDs and tokens have the same order in each run, and are not the same."""

    def names() -> list[str]:
        with world.same(1):
            found = [uuid.uuid4().hex for _ in range(20)]
            return found + [secrets.token_hex(16) for _ in range(20)]

    one, other = names(), names()
    assert not set(one) & set(other)
    assert sorted(range(40), key=one.__getitem__) == sorted(range(40), key=other.__getitem__)


def test_short_random_bytes_are_real() -> None:
    """What is too short to be drawn in part and yet unique is not drawn."""
    drawn = set()
    for _ in range(10):
        with world.same(1):
            drawn.add(os.urandom(8))
    assert len(drawn) == 10


def test_thread_names_go_on_as_before() -> None:
    """After a run, new threads get names that no thread had before."""
    before = threading.Thread().name
    with world.same(1):
        assert threading.Thread().name == "Thread-1"
    assert int(threading.Thread().name.split("-")[1]) == int(before.split("-")[1]) + 1


def test_garbage_is_collected_when_told(pytestconfig: pytest.Config) -> None:
    """Cycles are freed when a run has ended, and not before."""

    class Cycle:
        """Refers to itself."""

        def __init__(self) -> None:
            self.me = self

    thresholds = gc.get_threshold()
    collector = world.Collector(pytestconfig)
    with collector.instead():
        found = weakref.ref(Cycle())
        kept: list[list[int]] = [[] for _ in range(100_000)]
        assert found() is not None
        collector.at_end()
        assert found() is None
        assert len(kept) == 100_000
    assert gc.get_threshold() == thresholds
