"""The level "auto": few points at first, and more of them with the runs that are left."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_asyncframe._explore.policies import paused
from pytest_asyncframe._explore.replay import decode
from tests.explore.sessions import replay_line, run

pytestmark = [pytest.mark.usefixtures("untraced"), pytest.mark.extended("time")]

NOTES = """
import threading
import pytest
from framework import background_task

RUNS, NOTES = [], []
LOCK = threading.Lock()

@background_task
def note(text):
    {body}

@pytest.mark.interleave(seeds=40{marker})
async def test_it(asyncframe):
    RUNS.append(1)
    NOTES.clear()
    note("a")
    note("b")
    await asyncframe.settled()
    assert len(NOTES) == 2
    print(f"run {{len(RUNS)}}")
"""
"""Two tasks that add to a list."""

LOCKED = "with LOCK: NOTES.append(text)"

PLAIN = "NOTES.append(text)"

FIRST = r"all \d+ schedules of level framework with up to 1 deviation, and \d+ others"
"""What is said of the first level, with half of 40 runs."""

FILES = Path(__file__).with_name("between_lines.py")


def notes(pytester: pytest.Pytester, body: str, marker: str = "", *options: str) -> str:
    """Run the two tasks with a body and further arguments of the marker; return the output."""
    source = NOTES.format(body=body, marker=marker)
    return str(run(pytester, source, "-v", "-rP", *options).stdout)


def proof_in(output: str) -> str:
    """Return what the line of the one test in *output* says that its pass proves."""
    [found] = re.findall(r"test_it PASSED \((.*)\)", output)
    return str(found)


def explored(pytester: pytest.Pytester, names: str, *options: str) -> pytest.RunResult:
    """Run some of the races between lines."""
    return run(pytester, FILES.read_text("utf-8"), "-k", names, *options)


# ------------------------------------------------------------------ what is found


def races_found(pytester: pytest.Pytester, *options: str) -> None:
    """Check that all races are found in time, and those that call nothing at a deeper level."""
    result = explored(pytester, "racy", *options)
    result.assert_outcomes(failed=5)
    pattern = r"run (\d+) of at most 200 fails: policy delays, level (\w+), seed \d+"
    found = [one[2] for line in result.outlines if (one := re.fullmatch(pattern, line))]
    assert len(found) == 5
    assert found.count("line") >= 3


def test_races_between_lines_are_found(pytester: pytest.Pytester) -> None:
    """The default level finds races that have no call into the framework in them."""
    races_found(pytester)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_races_are_found_with_other_seeds(pytester: pytest.Pytester, seed: int) -> None:
    """The default level finds them with other seeds too."""
    races_found(pytester, f"--asyncframe-seed={seed}")


def test_no_cured_race_is_found(pytester: pytest.Pytester) -> None:
    """The cured twins pass at all levels of the default."""
    explored(pytester, "correct", "--asyncframe-seeds=24").assert_outcomes(passed=5)


def test_a_failure_is_replayed_at_its_level(pytester: pytest.Pytester) -> None:
    """The replay line of a failure that was found at a deeper level has that level."""
    source = FILES.read_text("utf-8")
    options = ("-k", "racy_settings", "--asyncframe-seeds=40")
    option = replay_line(run(pytester, source, *options))
    assert decode(option.partition("=")[2]).level == "line"
    result = run(pytester, source, option)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["It fails with the schedule of the replay line."])


# ------------------------------------------------------------------ what a pass says


def test_a_pass_names_each_level(pytester: pytest.Pytester) -> None:
    """What a pass says is true of each level by itself."""
    others = r"the default schedule of level {}, and \d+ others \(\d of them with 1 deviation\)"
    locks, line = others.format("locks"), others.format("line")
    found = proof_in(notes(pytester, LOCKED))
    assert re.fullmatch(f"{FIRST}, then {locks}, then {line}, none fails", found)


def test_a_level_without_points_of_its_own_is_left_out(pytester: pytest.Pytester) -> None:
    """A level whose default schedule has no step more is not searched, and not claimed."""
    found = proof_in(notes(pytester, PLAIN, ", policy='random'"))
    words = "with schedules drawn at random"
    assert found == (
        f"20 runs of level framework {words}, then 19 runs of level line {words}, none fails"
    )


def test_runs_that_no_deeper_level_needs_are_used(pytester: pytest.Pytester) -> None:
    """Where no deeper level has points of its own, all runs but two are at the first one."""
    source = """
    import asyncio, pytest

    @pytest.mark.interleave(seeds=40, policy="random")
    async def test_it(asyncframe):
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(5)))
    """
    found = proof_in(str(run(pytester, source, "-v").stdout))
    assert found == "38 runs of level framework with schedules drawn at random, none fails"


def test_a_proof_is_of_one_level(pytester: pytest.Pytester) -> None:
    """Who asks for all schedules gets those of the first level, and no more runs than that."""
    output = notes(pytester, PLAIN, ", policy='exhaustive:1'")
    assert re.fullmatch(
        r"all 10 schedules of level framework with up to 1 preemption, none fails", proof_in(output)
    )
    assert "\nrun 12\n" in output


@pytest.mark.parametrize("marker", ["", ", policy='random'", ", policy='exhaustive:1'"])
def test_a_pass_says_how_often_the_test_ran(pytester: pytest.Pytester, marker: str) -> None:
    """The number of runs in the report is how often the test function ran."""
    output = notes(pytester, PLAIN, marker)
    [last] = re.findall(r"^run (\d+)$", output, re.MULTILINE)
    assert f"\nThe test ran {last} times: once before" in output


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="sys.monitoring serves several tools")
def test_lines_that_another_tool_has(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default level says that it has not tried lines, and "line" itself is refused."""
    monkeypatch.setattr(sys, "gettrace", lambda: notes)
    output = notes(pytester, PLAIN)
    tried = r"all \d+ schedules of level framework with up to 2 deviations, and \d+ others"
    assert re.fullmatch(f"{tried}, none fails; level line was not tried", proof_in(output))
    needs = "level 'line' needs sys.settrace on Python 3.11, which tests uses: run the test "
    assert f"\nlevel line was not tried: {needs}" in output
    assert f"\n{needs}" in notes(pytester, PLAIN, ", level='line'")


# ------------------------------------------------------------------ what is partially controlled

BANK = """
import _thread, threading

class Bank:
    def __init__(self, answer):
        self.asked, self.answered = _thread.allocate_lock(), _thread.allocate_lock()
        self.asked.acquire()
        self.answered.acquire()
        def serve():
            self.asked.acquire()
            answer()
            self.answered.release()
        self.is_asked = False
        self.thread = threading.Thread(target=serve, name="bank")
        self.thread.start()

    def ask(self):
        if not self.is_asked:
            self.is_asked = True
            self.asked.release()
            self.answered.acquire()
"""

SHOP = """
import asyncio, sysconfig
import pytest
from pytest_asyncframe._explore.policies import paused

RUNS = []
LIBRARY = {{"__name__": "some_library"}}
FILE = sysconfig.get_path("purelib") + "/some_library.py"
exec(compile({bank!r}, FILE, "exec"), LIBRARY)

@pytest.mark.interleave(seeds={seeds})
async def test_it(asyncframe):
    RUNS.append(1)
    paid = []
    bank = LIBRARY["Bank"](lambda: paid.append(1))
    paused._NEVER.meanwhile = bank.ask
    await asyncio.sleep(0)
    seen = len(paid)
    await asyncio.sleep(0)
    known = len(paid)
    bank.ask()
    print(f"run {{len(RUNS)}}")
    assert seen == known or not {racy}
"""
"""A test whose bank is a thread of a library, which answers when an actor waits in real time."""


class Meanwhile:
    """Replaces what actors wait for in real time, so that it is known what happens then."""

    meanwhile: Callable[[], object]

    def acquire(self, timeout: float) -> None:
        """Do it."""
        self.meanwhile()


def at_the_bank(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, seeds: int, racy: bool
) -> pytest.RunResult:
    """Run the test with a bank."""
    monkeypatch.setattr(paused, "_NEVER", Meanwhile())
    return run(pytester, SHOP.format(bank=BANK, seeds=seeds, racy=racy), "-v", "-rP")


def test_what_nobody_controls_is_met_at_other_moments(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs that are left have drawn delays, and a failure says that it may not come again."""
    result = at_the_bank(pytester, monkeypatch, seeds=200, racy=True)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"run \d+ of at most 200 fails: policy drawn delays, level framework, seed \d+",
            "It was found with delays of real time at points drawn at random. It may not fail .*",
            "partially controlled, so a run may go another way next time, because of:",
            "  the thread bank, which works outside the clock",
        ]
    )
    result.stdout.no_fnmatch_line("replay: *")


def test_a_session_names_what_was_partially_controlled(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass counts all runs, claims no schedules, and the session names the test at its end."""
    output = str(at_the_bank(pytester, monkeypatch, seeds=20, racy=False).stdout)
    found = re.fullmatch(
        r"(\d+) runs of level framework, then (\d+) with drawn delays, none fails, "
        r"partially controlled",
        proof_in(output),
    )
    assert found is not None
    assert int(found[1]) + int(found[2]) == 22
    assert "\nrun 22\n" in output
    assert re.search(r"\n=+ partially controlled =+\nThese explored tests .*", output)
    assert "\n  test_it.py::test_it\n" in output
