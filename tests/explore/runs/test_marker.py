"""The marker interleave and the options of exploration, with right and wrong values."""

from __future__ import annotations

import pytest

from pytest_asyncframe._toolkit.options import MARKERS
from tests.explore.sessions import CORRECT, RACE, RACY, REFUSED, run
from tests.plugin.endings import Ending, ending_of

TEST = RACE + "\nasync def test_sale(asyncframe, stock):\n    await sell(asyncframe, stock)\n"

LEVELS = "auto, tasks, awaits, framework, locks, line, opcode"


@pytest.fixture
def ending(pytester: pytest.Pytester) -> Ending:
    """Return a function that runs a test and returns the text of its errors."""
    return ending_of(pytester)


def error_of(pytester: pytest.Pytester, source: str) -> str:
    """Return the text of the one error of the one test in *source*, which is at its set-up."""
    result = run(pytester, source)
    result.assert_outcomes(errors=1)
    lines = result.outlines
    title = next(at for at, line in enumerate(lines) if "ERROR at setup" in line)
    end = next(at for at, line in enumerate(lines) if "short test summary" in line)
    return "\n".join(lines[title + 1 : end])


WRONG = {
    "interleave(50)": (
        "@pytest.mark.interleave takes keywords only, not (50,): seeds, policy, level, faults, "
        "races, benign"
    ),
    "interleave(seed=1)": (
        "@pytest.mark.interleave has no keyword 'seed'; it takes seeds, policy, level, faults, "
        "races, benign"
    ),
    "interleave(seeds=0)": (
        "@pytest.mark.interleave(seeds=0): seeds must be a whole number from 1 on"
    ),
    "interleave(seeds=True)": (
        "@pytest.mark.interleave(seeds=True): seeds must be a whole number from 1 on"
    ),
    "interleave(level='lines')": (
        f"@pytest.mark.interleave(level='lines'): level must be one of {LEVELS}"
    ),
    "interleave(policy='x')": "@pytest.mark.interleave(policy='x'): policy 'x': it must be one of ",
}
"""Markers, and how what is wrong with them begins."""


def test_a_wrong_marker_is_an_error_of_the_test(ending: Ending) -> None:
    """A wrong keyword or value of the marker is an error of that test at its set-up."""
    tests = [
        f"""
    @pytest.mark.{marker}
    async def test_{number}(asyncframe):
        raise AssertionError("it must not run")
    """
        for number, marker in enumerate(WRONG)
    ]
    told = ending("\n    import pytest\n" + "".join(tests)).splitlines()

    assert [
        line[: len(f"setup: {message}")] for line, message in zip(told, WRONG.values(), strict=True)
    ] == [f"setup: {message}" for message in WRONG.values()]


def test_a_test_without_the_probe_is_refused(pytester: pytest.Pytester) -> None:
    """A marked test that does not use asyncframe is an error at its set-up."""
    source = "import pytest\n@pytest.mark.interleave\ndef test_sum():\n    assert 1 + 1 == 2"
    assert error_of(pytester, source) == (
        "test_sum is marked with interleave, which needs the fixture asyncframe: request "
        "asyncframe, or remove the marker"
    )


@pytest.mark.parametrize("name", ["benchmark", "task_benchmark"])
def test_a_benchmark_is_refused(pytester: pytest.Pytester, name: str) -> None:
    """A marked test that measures is an error at its set-up."""
    marks = "@pytest.mark.filterwarnings('ignore')\n@pytest.mark.interleave\n"
    source = TEST.replace("async def test", f"{marks}async def test").replace(
        "test_sale(", f"test_sale({name}, "
    )
    assert error_of(pytester, source) == (
        "test_sale is marked with interleave and requests benchmark, but a benchmark "
        "measures one order, that of real time: remove one of them"
    )


@pytest.mark.parametrize("mode", ["manual", "virtual", "threads"])
def test_modes_without_an_order_to_choose_are_refused(pytester: pytest.Pytester, mode: str) -> None:
    """A marked test in a mode where nothing is chosen is an error at its set-up."""
    mark = f"@pytest.mark.interleave\n@pytest.mark.asyncframe(mode={mode!r})\nasync def test"
    assert error_of(pytester, TEST.replace("async def test", mark)) == (
        "test_sale is marked with interleave, which chooses what runs next, but its mode is "
        f"{mode!r}: use the mode 'auto' or 'seeded', or remove the marker"
    )


def test_the_closest_marker_wins(pytester: pytest.Pytester) -> None:
    """A keyword of the test's own marker wins over its module's, and the others apply too."""
    source = CORRECT.replace("seeds=50", "seeds=2")
    source += "\npytestmark = pytest.mark.interleave(seeds=40, policy='random')\n"
    result = run(pytester, source, "-rP")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"2 .*none fails\.", "policy random, level framework, seed .*"])


def test_a_class_can_be_marked(pytester: pytest.Pytester) -> None:
    """The marker of a class applies to its methods."""
    source = RACE + (
        "\n@pytest.mark.interleave(seeds=50)\nclass TestShop:\n"
        "    async def test_sale(self, asyncframe, stock):\n"
        "        await sell(asyncframe, stock)\n"
    )
    run(pytester, source).assert_outcomes(failed=1)


def test_the_ini_file_gives_the_defaults(pytester: pytest.Pytester) -> None:
    """The ini file says what is explored where the marker does not."""
    source = CORRECT.replace("(level='framework', seeds=50)", "")
    ini = "asyncframe_seeds = 3\nasyncframe_policy = random\nasyncframe_level = tasks"
    result = run(pytester, source, "-rP", ini=ini)
    result.stdout.re_match_lines([r"3 .*none fails\.", "policy random, level tasks, seed .*"])


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        (
            "asyncframe_seeds = many",
            "asyncframe_seeds = 'many' in the ini file: seeds must be a whole number from 1 on",
        ),
        (
            "asyncframe_level = all",
            f"asyncframe_level = 'all' in the ini file: level must be one of {LEVELS}",
        ),
    ],
)
def test_a_wrong_ini_value_ends_the_run(pytester: pytest.Pytester, ini: str, message: str) -> None:
    """A wrong value in the ini file is pytest's usage error."""
    result = run(pytester, CORRECT, *REFUSED, ini=ini)
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {message}", ""]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--asyncframe-seeds=0",
            "--asyncframe-seeds=0: it must be a whole number from 1 on",
        ),
        (
            "--asyncframe-budget=0",
            "--asyncframe-budget=0: it must be a number of seconds above 0",
        ),
        (
            "--asyncframe-budget=nan",
            "--asyncframe-budget=nan: it must be a number of seconds above 0",
        ),
    ],
)
def test_a_wrong_option_ends_the_run(pytester: pytest.Pytester, option: str, message: str) -> None:
    """A wrong value on the command line is pytest's usage error."""
    result = run(pytester, CORRECT, *REFUSED, option)
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {message}", ""]


def test_the_command_line_sets_the_number_of_schedules(pytester: pytest.Pytester) -> None:
    """--asyncframe-seeds wins over all markers."""
    result = run(pytester, RACY, "--asyncframe-seeds=1")
    result.assert_outcomes(passed=1)


def test_the_marker_is_listed(pytester: pytest.Pytester) -> None:
    """The option --markers of pytest explains the marker."""
    result = run(pytester, "", "--markers")
    assert [line for line in result.outlines if "interleave" in line] == [
        f"@pytest.mark.interleave{MARKERS['interleave']}"
    ]


@pytest.mark.extended("processes")
def test_other_tests_import_nothing_of_it(pytester: pytest.Pytester) -> None:
    """A run without the marker does not import the exploration."""
    source = "import sys\ndef test_it(asyncframe):\n    assert 'x' not in sys.modules"
    pytester.makepyfile(source.replace("x", "pytest_asyncframe._explore"))
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
