"""Tests that are run under many schedules, as pytest's users see them."""

from __future__ import annotations

import re
import sys

import pytest

from pytest_asyncframe._explore import explorer
from tests.explore.sessions import CORRECT, PLAIN, RACE, RACY, run

AGAIN = (
    "The test fails without any other choice when it runs once more in the same process, so this "
    "is no race: something outlives a run, such as a global variable or a fixture of a wider "
    "scope. Create it anew in a fixture of function scope."
)


class Told:
    """Keeps what pytest tells its plugins."""

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report."""
        self.reports.append(report)

    def pytest_exception_interact(self, node: pytest.Item, call: pytest.CallInfo[object]) -> None:
        """Keep an error for which --pdb would start a debugger."""
        assert call.excinfo is not None
        self.errors.append(f"{node.name}: {call.excinfo.typename}")


def told(pytester: pytest.Pytester, source: str, *options: str) -> Told:
    """Run the tests in *source*; return what pytest told its plugins."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(test_it=source)
    plugin = Told()
    chance = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    pytester.inline_run(*chance, *options, plugins=[plugin])
    return plugin


def sections(report: pytest.TestReport) -> list[str]:
    """Return the texts about the exploration in a report."""
    return [text for title, text in report.sections if title == "exploration"]


def phases(found: Told) -> list[tuple[str | None, str]]:
    """Return the phases that were reported, with their outcomes."""
    return [(one.when, one.outcome) for one in found.reports]


# ------------------------------------------------------------------ a failure


@pytest.mark.usefixtures("untraced")
def test_a_race_is_found_and_told(pytester: pytest.Pytester) -> None:
    """The report of a race says which run found it, what happened, and how to replay it."""
    found = told(pytester, RACY)

    assert phases(found) == [("setup", "passed"), ("call", "failed"), ("teardown", "passed")]
    [text] = sections(found.reports[1])
    patterns = [
        r"run \d+ of at most 50 fails: policy delays, level framework, seed \d+",
        r"minimised: 1 switch \(from \d+\)",
        r"  buy#1 paused at `manager\.get_stats\(\)` \(test_it\.py:7\), after `if .*` \(.*\)",
        r"  buy#2 ran to its end: .*",
        r"  buy#1 went on to its end: .*",
        r"  it fails at `assert .*` \(test_it\.py:\d+\): assert 2 == 1",
        r"replay: pytest test_it\.py::test_sale --asyncframe-replay=AF2:[\w-]+",
    ]
    assert re.fullmatch("\n".join(patterns), text)
    assert found.errors == ["test_sale: AssertionError"]


def test_a_long_schedule_is_made_small(pytester: pytest.Pytester) -> None:
    """What was drawn at random is told with the one switch that it takes."""
    source = RACY.replace("seeds=50", "policy='random'")
    found = told(pytester, source)
    [text] = sections(found.reports[1])
    shrunk = re.search(r"\nminimised: 1 switch \(from (\d+)\)\n", text)
    assert shrunk is not None
    assert int(shrunk[1]) > 1


def test_a_failure_of_the_default_schedule_is_an_ordinary_one(pytester: pytest.Pytester) -> None:
    """A test that fails in its first run is run once, and nothing is said about schedules."""
    source = RACE + (
        "\nRUNS = []\n@pytest.mark.interleave\nasync def test_sale(asyncframe):\n"
        "    RUNS.append(1)\n    assert RUNS == []\n"
    )
    found = told(pytester, source)

    assert phases(found) == [("setup", "passed"), ("call", "failed"), ("teardown", "passed")]
    assert sections(found.reports[1]) == []
    assert "assert [1] == []" in str(found.reports[1].longrepr)
    assert found.errors == ["test_sale: AssertionError"]


def test_state_that_outlives_a_run_is_no_race(pytester: pytest.Pytester) -> None:
    """A test that leaves something behind is told so, and gets no replay line."""
    source = RACE + (
        "\nRUNS = []\n@pytest.mark.interleave(seeds=5)\nasync def test_sale(asyncframe):\n"
        "    RUNS.append(1)\n    assert RUNS == [1]\n"
    )
    [text] = sections(told(pytester, source).reports[1])
    first, *others = text.splitlines()
    assert re.fullmatch(r"run 1 of at most 5 fails: policy delays, .*", first)
    assert others == [AGAIN]


def test_a_failure_that_does_not_come_again_is_kept(pytester: pytest.Pytester) -> None:
    """A run that failed fails the test, also if the same choices then pass."""
    source = RACE + (
        "\nRUNS = []\n@pytest.mark.interleave(policy='random')\n"
        "async def test_sale(asyncframe, stock):\n"
        "    RUNS.append(1)\n    await sell(asyncframe, stock, reserve)\n"
        "    assert len(RUNS) != 4, 'the fourth run'\n"
    )
    found = told(pytester, source)
    assert phases(found) == [("setup", "passed"), ("call", "failed"), ("teardown", "passed")]
    assert "the fourth run" in str(found.reports[1].longrepr)
    [text] = sections(found.reports[1])
    assert re.fullmatch(
        "run 3 of at most 200 fails: .*\nRun once more with the same choices, it passed.", text
    )


def test_a_gate_at_the_end_can_fail_a_schedule(pytester: pytest.Pytester) -> None:
    """A task failure that nobody reads under one schedule alone is found."""
    source = RACE + (
        "\n@background_task\ndef check(stock, manager):\n"
        "    seen = stock['left']\n    manager.get_stats()\n    assert seen == stock['left']\n"
        "\n@pytest.mark.interleave\nasync def test_sale(asyncframe, stock):\n"
        "    check(stock, asyncframe.manager)\n    reserve(stock, asyncframe.manager)\n"
        "    await asyncframe.settled()\n"
    )
    found = told(pytester, source)
    assert phases(found) == [("setup", "passed"), ("call", "failed"), ("teardown", "passed")]
    [text] = sections(found.reports[1])
    assert "\nreplay: pytest test_it.py::test_sale --asyncframe-replay=AF2:" in text


# ------------------------------------------------------------------ a pass


def test_a_pass_says_what_it_proves(pytester: pytest.Pytester) -> None:
    """A pass shows its proof with -v, in a section and in JUnit's XML."""
    result = run(pytester, CORRECT, "-v", "-rP", "--junitxml=found.xml")
    result.assert_outcomes(passed=1)
    shown = re.search(r"test_sale PASSED \((.*none fails)\)", str(result.stdout))
    assert shown is not None
    assert f"\n{shown[1]}.\npolicy delays, level framework, seed " in str(result.stdout)
    xml = (pytester.path / "found.xml").read_text()
    assert f'<property name="exploration" value="{shown[1]}" />' in xml


def test_other_tests_look_as_before(pytester: pytest.Pytester) -> None:
    """A test without the marker is shown as passed, without more."""
    result = run(pytester, "def test_sum():\n    assert 1 + 1 == 2", "-v")
    result.stdout.re_match_lines([r"test_it\.py::test_sum PASSED +\[100%\]"])


@pytest.mark.extended("time")
def test_the_time_of_all_runs_is_shown(pytester: pytest.Pytester) -> None:
    """The duration of the call is that of the whole exploration."""
    source = "import time\nTIMES = []\n" + CORRECT.replace(
        "    await sell(asyncframe, stock, reserve)",
        "    TIMES.append(time.perf_counter())\n    await sell(asyncframe, stock, reserve)\n"
        "    print(TIMES[-1] - TIMES[0])",
    )
    call = told(pytester, source).reports[1]
    assert call.duration > float(call.capstdout) > 0


def test_the_budget_ends_an_exploration(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its seconds have passed, a test is run under no further schedule."""
    monkeypatch.setattr(explorer.Progress, "seconds", property(lambda one: one._runs / 20))
    source = CORRECT.replace("seeds=50", "seeds=10**6, policy='random'")
    result = run(pytester, source, "-v", "--asyncframe-budget=0.2")
    result.stdout.re_match_lines(
        [r".*PASSED \(4 of at most 1000000 schedules of level framework in 0\.2 s, none fails\)"]
    )


def test_nothing_that_was_explored_is_a_warning(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If time was over before the first schedule, the test passes with a warning."""
    monkeypatch.setattr(explorer.Progress, "seconds", 9.0)
    told = "nothing was explored: the first run took more than 0.5 s"
    options = ("--asyncframe-budget=0.5", "-v")
    result = run(pytester, CORRECT, *options, "-Walways")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines([f"*test_sale PASSED ({told})*", f"*: AsyncframeWarning: {told}"])
    run(pytester, CORRECT, *options, "-Werror").assert_outcomes(failed=1)


@pytest.mark.extended("time")
def test_a_time_limit_ends_an_exploration_in_time(pytester: pytest.Pytester) -> None:
    """The time limit of pytest-timeout is for the whole test, which ends before it comes."""
    source = CORRECT.replace("@pytest", "@pytest.mark.timeout(2)\n@pytest", 2).replace(
        "seeds=50", "seeds=10**6, policy='random'"
    )
    result = run(
        pytester, source.replace("@pytest.mark.timeout(2)\n@pytest.fix", "@pytest.fix"), "-v"
    )
    result.stdout.re_match_lines(
        [r".*PASSED \(\d+ of at most 1000000 schedules of level framework in 1\.6 s, none fails\)"]
    )


# ------------------------------------------------------------------ outcomes of other kinds


def test_a_skip_ends_the_exploration(pytester: pytest.Pytester) -> None:
    """A test that skips itself does so once."""
    source = (
        "import pytest\nRUNS = []\n@pytest.mark.interleave\ndef test_it(asyncframe):\n"
        "    RUNS.append(1)\n    pytest.skip(f'run {len(RUNS)}')\n"
    )
    result = run(pytester, source, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * run 1"])


def test_a_race_can_be_expected(pytester: pytest.Pytester) -> None:
    """A strict xfail expects a failure under some schedule."""
    strict = "@pytest.mark.xfail(strict=True, reason='sells twice')\nasync def test_sale"
    run(pytester, RACY.replace("async def test_sale", strict)).assert_outcomes(xfailed=1)


@pytest.mark.extended("time")
def test_a_race_that_was_expected_and_is_not_there_fails(pytester: pytest.Pytester) -> None:
    """A strict xfail fails if no schedule does, and says how many there were."""
    strict = "@pytest.mark.xfail(strict=True, reason='sells twice')\nasync def test_sale"
    result = run(pytester, CORRECT.replace("async def test_sale", strict))
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"\[XPASS\(strict\)\] sells twice", r".* none fails\."])


@pytest.mark.extended("time")
def test_a_pass_that_was_not_expected_is_no_proof(pytester: pytest.Pytester) -> None:
    """A race that may be there, and is not, is an unexpected pass as without the marker."""
    loose = "@pytest.mark.xfail(strict=False)\nasync def test_sale"
    run(pytester, CORRECT.replace("async def test_sale", loose)).assert_outcomes(xpassed=1)


def test_an_error_at_set_up_is_reported_once(pytester: pytest.Pytester) -> None:
    """A fixture that fails in the first run is an ordinary error at set-up."""
    source = (
        "import pytest\n@pytest.fixture\ndef broken():\n    raise OSError('gone')\n"
        "@pytest.mark.interleave\ndef test_it(broken, asyncframe):\n    pass\n"
    )
    found = told(pytester, source)
    assert phases(found) == [("setup", "failed"), ("teardown", "passed")]
    assert found.errors == ["test_it: OSError"]


LOST = """
ready = {}

@background_task
def fill():
    ready["price"] = 3

@background_task
def use():
    ready["price"]

@pytest.fixture(scope="module")
def wide():
    yield
    raise OSError("gone")

@pytest.mark.interleave
async def test_sale(asyncframe, wide):
    ready.clear()
    fill()
    use()
    await asyncframe.settled()
"""
"""A task that fails if it comes first, which nobody notices until the test ends."""


@pytest.mark.extended("time")
@pytest.mark.parametrize("mark", ["", "@pytest.mark.xfail(strict=True)"])
def test_a_failure_found_at_the_end_is_that_of_the_test(
    pytester: pytest.Pytester, mark: str
) -> None:
    """A lost failure fails the call, once; an error of a wider fixture is one beside it."""
    marked = LOST.replace("@pytest.mark.interleave", f"{mark}\n@pytest.mark.interleave")
    found = told(pytester, RACE + marked)
    outcome = "skipped" if mark else "failed"
    expected = [("setup", "passed"), ("call", outcome), ("teardown", "passed")]

    assert phases(found) == [*expected, ("teardown", "failed")]
    assert str(found.reports[1].longrepr).count("lost failure: ") == 1
    assert [text.splitlines()[0][:4] for text in sections(found.reports[1])] == ["run "]
    assert found.reports[2].sections == []
    assert hasattr(found.reports[1], "wasxfail") is bool(mark)


def test_an_error_at_teardown_lets_the_next_test_run(pytester: pytest.Pytester) -> None:
    """After a fixture has failed at its end, fixtures of wider scope end before the next module."""
    source = (
        "import pytest\n@pytest.fixture(scope='module')\ndef wide():\n    yield\n    print('end')\n"
        "@pytest.fixture\ndef broken():\n    yield\n    raise OSError('gone')\n"
        "@pytest.mark.interleave\ndef test_it(wide, broken, asyncframe):\n    pass\n"
    )
    pytester.makepyfile(test_next="def test_next():\n    pass")
    run(pytester, source).assert_outcomes(passed=1, failed=1)


def test_subtests_are_reported_once(pytester: pytest.Pytester) -> None:
    """The subtests of the last run are reported, and a failing one is a failure of the run."""
    source = RACE + (
        "\n@pytest.mark.interleave(seeds=50)\nasync def test_sale(asyncframe, stock, subtests):\n"
        "    with subtests.test('sale'):\n        await sell(asyncframe, stock)\n"
    )
    result = run(pytester, source)
    assert len([line for line in result.outlines if line.startswith("SUBFAILED")]) == 1
    assert result.parseoutcomes()["failed"] == 2
    assert "contains 1 failed subtest" in result.outlines


# ------------------------------------------------------------------ fixtures


def test_fixtures_of_function_scope_are_made_anew(pytester: pytest.Pytester) -> None:
    """Each run has its own fixtures of function scope, async ones too; wider ones are kept."""
    source = (
        "import asyncio, pytest, pytest_asyncio\nMADE = []\n"
        "@pytest.fixture(scope='module')\ndef wide():\n    MADE.append('wide')\n    yield\n"
        "    MADE.append('wide ends')\n    print(*MADE, sep='\\n')\n"
        "@pytest_asyncio.fixture\nasync def narrow(asyncframe):\n    MADE.append('narrow')\n"
        "    yield\n    MADE.append('narrow ends')\n"
        "@pytest.mark.interleave(seeds=1)\n@pytest.mark.asyncio\n"
        "async def test_it(wide, narrow):\n    MADE.append('run')\n"
    )
    result = run(pytester, source, "-rP")
    at = result.outlines.index("wide")
    once = ["narrow", "run", "narrow ends"]
    assert result.outlines[at : at + 11] == ["wide", *once, *once, *once, "wide ends"]


@pytest.mark.parametrize("mark", ["", "@pytest.mark.asyncio", "@pytest.mark.anyio"])
def test_each_run_has_its_own_instance(pytester: pytest.Pytester, mark: str) -> None:
    """A test in a class finds nothing on self that another run has set."""
    source = (
        "import pytest\nclass TestIt:\n"
        f"    @pytest.mark.interleave\n    {mark}\n    async def test_it(self, asyncframe):\n"
        "        assert vars(self) == {}\n        self.seen = True\n"
    )
    run(pytester, source).assert_outcomes(passed=1)


@pytest.mark.extended("time")
def test_folders_do_not_pile_up(pytester: pytest.Pytester) -> None:
    """Only the first and the last run leave their tmp_path behind."""
    source = RACE + (
        "\n@pytest.mark.interleave(level='framework')\n"
        "async def test_sale(tmp_path, asyncframe, stock):\n"
        "    await sell(asyncframe, stock, reserve)\n"
    )
    run(pytester, source, f"--basetemp={pytester.path / 'kept'}").assert_outcomes(passed=1)
    folders = [one for one in (pytester.path / "kept").iterdir() if not one.is_symlink()]
    assert len(folders) == 2


@pytest.mark.extended("time")
def test_properties_and_output_are_those_of_one_run(pytester: pytest.Pytester) -> None:
    """What a test records or prints is reported once, as the last run did it."""
    source = RACE + (
        "\n@pytest.mark.interleave(level='framework')\n"
        "async def test_sale(record_property, asyncframe, stock):\n"
        "    record_property('who', 'me')\n    print('sold')\n"
        "    await sell(asyncframe, stock, reserve)\n"
    )
    last = told(pytester, source).reports[2]
    assert [name for name, _ in last.user_properties] == ["who", "exploration"]
    assert last.capstdout == "sold\n"


@pytest.mark.extended("time")
def test_a_warning_is_shown_once(pytester: pytest.Pytester) -> None:
    """A warning that each run gives is shown once."""
    source = "import warnings\n" + CORRECT.replace(
        "    await sell(asyncframe, stock, r",
        "    warnings.warn('old')\n    await sell(asyncframe, stock, r",
    )
    run(pytester, source, "-Walways").assert_outcomes(passed=1, warnings=1)


# ------------------------------------------------------------------ what nobody watches

NOISY = CORRECT.replace(
    "    await sell",
    "    print('some text')\n    logging.getLogger().warning('some log')\n    breakpoint()\n"
    "    await sell",
).replace("import pytest", "import logging\nimport pytest", 1)


@pytest.mark.extended("time")
def test_only_the_first_and_the_last_run_are_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -s and live logs, what the runs in between print and log is not shown."""
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    shown = str(run(pytester, NOISY, "-s", ini="log_cli = true").stdout)
    assert shown.count("some text") == 2
    assert shown.count("WARNING") == 2


@pytest.mark.extended("processes")
def test_a_breakpoint_stops_the_first_and_the_last_run(pytester: pytest.Pytester) -> None:
    """A breakpoint in the test does not stop the runs in between."""
    pytester.makepyfile(test_it=NOISY)
    debugged = pytester.run(sys.executable, "-m", "pytest", *PLAIN, stdin=b"c\n" * 9)
    assert str(debugged.stdout).count("PDB set_trace") == 2
    debugged.stdout.fnmatch_lines(["*1 passed*"])


@pytest.mark.extended("processes")
def test_a_debugger_starts_in_the_run_that_is_told(pytester: pytest.Pytester) -> None:
    """With --pdb the debugger starts once, and what was found is shown before."""
    pytester.makepyfile(test_it=RACY)
    debugged = pytester.run(sys.executable, "-m", "pytest", "--pdb", *PLAIN, stdin=b"p stock\nc\n")
    shown = str(debugged.stdout)
    assert shown.count("entering PDB") == 1
    assert shown.index("\nreplay: pytest test_it.py::test_sale ") < shown.index("entering PDB")
    assert "(Pdb) {'left': -1, 'sold': 2}" in shown


# ------------------------------------------------------------------ together with other plugins


def test_anyio_can_run_the_test(pytester: pytest.Pytester) -> None:
    """A test of anyio's runner is explored."""
    source = RACY.replace("async def test", "@pytest.mark.anyio\nasync def test")
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["replay: pytest 'test_it.py::test_sale[[]asyncio[]]' *"])


def test_a_sync_test_is_explored(pytester: pytest.Pytester) -> None:
    """A test that is no coroutine is explored."""
    source = RACE + (
        "\n@pytest.mark.interleave\ndef test_sale(asyncframe, stock):\n"
        "    ids = [buy(stock, asyncframe.manager) for _ in range(2)]\n"
        "    asyncframe.run_until_idle()\n    assert stock['sold'] == 1\n"
    )
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["replay: pytest *"])


@pytest.mark.extended("processes")
def test_workers_of_xdist_explore_the_same_schedules(pytester: pytest.Pytester) -> None:
    """A worker of xdist finds the same schedule as a run without it, and sends it all."""
    source = RACY + CORRECT.removeprefix(RACE).replace("test_sale", "test_twin")
    alone, spread = (run(pytester, source, "-v", *more) for more in ((), ("-n", "2")))
    spread.assert_outcomes(passed=1, failed=1)
    begins = ("run ", "minimised", "  buy", "replay")
    texts = [[line for line in one.outlines if line.startswith(begins)] for one in (alone, spread)]
    assert texts[0] == texts[1] != []
    spread.stdout.re_match_lines([r"\[gw\d\] \[ *\d+%\] PASSED \(.*none fails\) test_it.*"])


@pytest.mark.extended("time")
def test_the_order_of_tests_does_not_matter(pytester: pytest.Pytester) -> None:
    """Random order and seeds of pytest-randomly change nothing in what is explored."""
    source = "import random\nDRAWN = []\n" + CORRECT.replace(
        "    await sell(asyncframe, stock, r",
        "    DRAWN.append(random.random())\n    assert len(set(DRAWN)) == 1\n"
        "    print(DRAWN[0])\n    await sell(asyncframe, stock, r",
    )
    drawn: set[str] = set()
    for seed in (1, 2):
        result = run(pytester, source, "-rP", f"--randomly-seed={seed}", randomly=True)
        result.assert_outcomes(passed=1)
        drawn.update(line for line in result.outlines if line.startswith("0."))
    assert len(drawn) == 1


def test_the_first_failure_ends_the_session(pytester: pytest.Pytester) -> None:
    """With -x a failing schedule ends the session, and fixtures of wider scope."""
    source = RACY + "\ndef test_next():\n    pass\n"
    run(pytester, source, "-x").assert_outcomes(failed=1)


@pytest.mark.extended("time")
def test_a_long_exploration_shows_where_it_is(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few seconds a line says how many schedules were run, and how fast."""
    monkeypatch.setattr(explorer, "_EVERY", 0.0)
    result = run(pytester, CORRECT, "-v")
    result.stdout.re_match_lines(
        [
            r"test_sale: 1 of at most 50 schedules, none fails, \d+ s, [\d.]+ runs a second",
            r"test_sale: 2 of at most 50 schedules, none fails, \d+ s, [\d.]+ runs a second",
            r"test_it.py::test_sale PASSED \(.*\) +\[100%\]",
        ]
    )


@pytest.mark.extended("processes")
def test_an_interrupted_exploration_leaves_no_trace(pytester: pytest.Pytester) -> None:
    """Ctrl-C in one of the runs ends the session, and garbage is collected as before."""
    source = "RUNS = []\n" + CORRECT.replace(
        "    await sell(asyncframe, stock, r",
        "    RUNS.append(1)\n    if len(RUNS) == 3:\n        raise KeyboardInterrupt\n"
        "    await sell(asyncframe, stock, r",
    )
    pytester.makepyfile(test_it=source)
    pytester.makeconftest(
        "import gc\nBEFORE = gc.get_threshold()\n"
        "def pytest_unconfigure():\n    print('as before:', gc.get_threshold() == BEFORE)"
    )
    # The parts of an interrupted test stay open until the process ends.
    result = pytester.runpytest_subprocess()
    assert result.ret is pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["as before: True"])
