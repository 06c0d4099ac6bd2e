"""Replay lines: as text, and as pytest's users paste them."""

from __future__ import annotations

import base64
import json
import sys
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_asyncframe._explore import replay
from pytest_asyncframe._explore.replay import Following, ReplayLineError, decode, encode, line_of
from pytest_asyncframe._explore.schedule import Step
from tests.children import python
from tests.explore.sessions import CORRECT, PLAIN, RACE, RACY, REFUSED, replay_line, run

BEFORE = Step("start", "", ("a#1", "a#2"), False, 0)
TAKEN = Step("framework", "submit()", ("a#1", "a#2", "test"), True, 2)

DAMAGED = r"^['\"]AF2:.*['\"] is damaged: copy the whole line that the"

OTHER_VERSION = (
    "'AF0:xyz' was made by another version of asyncframe, whose lines begin with another number "
    "than 'AF2:': replay it with that version"
)

OF_NONE = (
    "ERROR: --asyncframe-replay: 2 tests marked with interleave were collected, and the replay "
    "line is of none of them: name the test on the command line, as the failure printed it"
)

DAMAGED = (
    "ERROR: --asyncframe-replay: 'AF2:abc' is damaged: copy the whole line that the failing test "
    "printed"
)

OTHERWISE = (
    r"not deterministic here: step \d+, expected framework buy#1, .*, found .*\. If the code or "
    r"the test has changed since the replay line was printed, run the test without it\."
)

names = st.text(max_size=8)
steps = st.builds(
    lambda kind, what, options, preempts, chosen: Step(
        kind, what, tuple(options), preempts, chosen % len(options)
    ),
    names,
    names,
    st.lists(names, min_size=2, max_size=4, unique=True),
    st.booleans(),
    st.integers(0, 3),
)


def follow(line: replay.ReplayLine, *found: Step) -> tuple[list[int], str]:
    """Return what is chosen in a run with the steps *found*, and how that run differs."""
    following = Following(line)
    chosen = [following.choose(number, one) for number, one in enumerate(found)]
    return chosen, following.missing()


# ------------------------------------------------------------------ as text


@given(st.lists(steps, max_size=20), st.integers(0, 2**63), names, st.booleans())
def test_a_line_comes_back(found: list[Step], seed: int, node_id: str, edges: bool) -> None:
    """Decoding returns what was encoded, and following it repeats the choices."""
    line = line_of(found, node_id=node_id, level="locks", seed=seed, edges=edges)
    assert decode(encode(line)) == line
    assert follow(line, *found) == ([one.chosen for one in found], "")


def test_a_line_survives_a_narrow_terminal() -> None:
    """Line breaks, spaces and quotes that came in between do no harm."""
    line = line_of([BEFORE, TAKEN], node_id="test_it", level="locks", seed=1, edges=True)
    text = encode(line)
    assert decode(f" '{text[:30]}\n  {text[30:60]}\r\n{text[60:]}' ") == line
    assert decode(f"replay: pytest test_it.py --asyncframe-replay={text}\n") == line


@given(st.integers(0, 200), st.characters())
@example(-1, "N")  # of the last character some bits are not used
def test_a_changed_character_is_noticed(place: int, character: str) -> None:
    """A line with one other character is damaged, whichever it is."""
    text = encode(line_of([BEFORE, TAKEN], node_id="test_it", level="locks", seed=1, edges=True))
    place = len("AF2:") + place % (len(text) - len("AF2:"))
    changed = f"{text[:place]}{character}{text[place + 1 :]}"
    if "".join(changed.split()).strip("'\"`.,;") == text:
        return
    with pytest.raises(
        ReplayLineError, match=r"^['\"]AF2:.*['\"] is damaged: copy the whole line that the"
    ):
        decode(changed)


@pytest.mark.extended("time")
def test_another_alphabet_is_noticed() -> None:
    """The characters for which base64 knows other ones as well are no others in a line."""
    texts = [
        encode(line_of([TAKEN], node_id="", level="locks", seed=seed, edges=True))
        for seed in range(20)
    ]
    for known, other in (("-", "+"), ("_", "/")):
        [text, *_] = [one for one in texts if known in one]
        with pytest.raises(ReplayLineError, match=r"^'AF2:.* is damaged"):
            decode(text.replace(known, other, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no replay line: it must begin with 'AF2:'"),
        ("AF2:", "'AF2:' is damaged: copy the whole line that the failing test printed"),
        (
            "AF0:xyz",
            OTHER_VERSION,
        ),
        (
            "tests/test_it.py::test_it[1]",
            "'tests/test_it.py::te...' is no replay line: it must begin with 'AF2:'",
        ),
    ],
)
def test_what_is_no_line_is_refused(text: str, message: str) -> None:
    """A text that is no replay line of this version is an error that says so."""
    with pytest.raises(ReplayLineError) as caught:
        decode(text)
    assert str(caught.value) == message


def test_lines_of_another_python_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the level opcode needs the version of Python that made it."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (4, 2))
        patch.setattr(replay, "_this_python", lambda: "4.2")
        text = encode(line_of([TAKEN], node_id="test_it", level="opcode", seed=1, edges=True))
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(ReplayLineError) as caught:
        decode(text)
    assert str(caught.value) == (
        f"'{text[:20]}...' was made by Python 4.2, and its level 'opcode' has other steps in "
        f"Python {here}: replay it there"
    )


def test_a_line_that_does_not_say_which_points_there_are() -> None:
    """A line of before, without that, is one of a run in which starts and ends were points."""
    line = line_of([BEFORE, TAKEN], node_id="test_it", level="locks", seed=1, edges=True)
    packed = zlib.compress(json.dumps(line[:-1]).encode())
    summed = zlib.crc32(packed).to_bytes(4, "big") + packed

    assert decode("AF2:" + base64.urlsafe_b64encode(summed).decode()) == line


def test_a_line_is_no_bomb() -> None:
    """A line that unpacks to more than a schedule can take is refused."""
    packed = zlib.compress(b'[1,"line",1,"",[]]' + b" " * 10_000_000, 9)
    summed = zlib.crc32(packed).to_bytes(4, "big") + packed
    with pytest.raises(
        ReplayLineError, match=r"^['\"]AF2:.*['\"] is damaged: copy the whole line that the"
    ):
        decode("AF2:" + base64.urlsafe_b64encode(summed).decode())


def test_the_text_is_short() -> None:
    """A race with one switch fits into two lines of a terminal."""
    text = encode(
        line_of([BEFORE] * 300 + [TAKEN], node_id="test_it", level="locks", seed=2**62, edges=True)
    )
    assert len(text) < 130
    packed = base64.urlsafe_b64decode(text.removeprefix("AF2:") + "==")[4:]
    assert json.loads(zlib.decompress(packed))[1] == "locks"


# ------------------------------------------------------------------ another run


def test_other_options_are_noticed() -> None:
    """A run that offers others at a step is told, and takes the default from then on."""
    line = line_of([BEFORE, TAKEN, TAKEN], node_id="test_it", level="locks", seed=1, edges=True)
    other = TAKEN._replace(options=("a#1", "b#1", "test"))
    assert follow(line, BEFORE, other, TAKEN) == (
        [0, 0, 0],
        "step 1, expected framework a#1, a#2, test, found framework a#1, b#1, test",
    )


def test_other_steps_before_are_noticed() -> None:
    """A run whose earlier steps differ is told, though the step itself is the same."""
    line = line_of([BEFORE, TAKEN], node_id="test_it", level="locks", seed=1, edges=True)
    assert follow(line, BEFORE._replace(what="x"), TAKEN) == (
        [0, 0],
        "the steps before step 1 are others than in the line",
    )


def test_missing_steps_are_noticed() -> None:
    """A run that ends too early is told."""
    line = line_of([BEFORE, TAKEN], node_id="test_it", level="locks", seed=1, edges=True)
    assert follow(line, BEFORE) == (
        [0],
        "step 1, expected framework a#1, a#2, test, found the end of the run",
    )


# ------------------------------------------------------------------ with pytest


def test_a_race_is_replayed(pytester: pytest.Pytester) -> None:
    """The replay line fails the test in the same way, with two runs in all."""
    source = RACY.replace("    await sell", "    print('a run')\n    await sell")
    option = replay_line(run(pytester, source))
    result = run(pytester, source, option, "-s")
    result.assert_outcomes(failed=1)
    # The first one, which only prepares for it, is not shown.
    assert str(result.stdout).count("a run\n") == 1
    result.stdout.fnmatch_lines(
        ["*assert 2 == 1*", "It fails with the schedule of the replay line."]
    )


@pytest.mark.extended("processes")
def test_a_race_is_replayed_elsewhere(pytester: pytest.Pytester) -> None:
    """A line that a worker of xdist printed fails in a process with another hash seed."""
    option = replay_line(run(pytester, RACY, "-n1"))
    ended = python(
        *("-m", "pytest", *PLAIN, option),
        cwd=pytester.path,
        env={"PYTHONHASHSEED": "12345"},
        status=pytest.ExitCode.TESTS_FAILED,
    )
    assert "It fails with the schedule of the replay line." in ended.stdout


EARLY = """
import pytest
from framework import background_task

@background_task
def work(done, manager):
    for _ in range(5):
        manager.get_stats()
    done.append(1)

@pytest.mark.interleave(policy="random")
async def test_sale(asyncframe):
    done = []
    ids = [work(done, asyncframe.manager) for _ in range(8)]
    await asyncframe.completed(ids[-1])
    assert len(done) == 8
"""


@pytest.mark.extended("time")
def test_what_comes_after_the_failure_is_not_replayed(pytester: pytest.Pytester) -> None:
    """Choices that were made while a failed test was torn down are not in its line."""
    option = replay_line(run(pytester, EARLY))
    result = run(pytester, EARLY, option)
    result.stdout.fnmatch_lines(["It fails with the schedule of the replay line."])


def test_a_cured_test_is_told_apart(pytester: pytest.Pytester) -> None:
    """A test that has changed since fails, and does not pass for the replayed schedule."""
    option = replay_line(run(pytester, RACY))
    result = run(pytester, CORRECT.replace("manager.get_stats()\n    if", "if"), option)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([OTHERWISE])


def test_a_schedule_that_passes_now_says_so(pytester: pytest.Pytester) -> None:
    """If the same schedule passes, the result says what has passed."""
    option = replay_line(run(pytester, RACY))
    result = run(pytester, RACY.replace("== 1", ">= 1"), option, "-v")
    result.stdout.fnmatch_lines(["*PASSED (the schedule of the replay line does not fail)*"])


@pytest.mark.extended("time")
def test_a_line_finds_its_test(pytester: pytest.Pytester) -> None:
    """Among several explored tests the one of the line is run, and no other."""
    twins = RACY + CORRECT.removeprefix(RACE).replace("test_sale", "test_twin")
    option = replay_line(run(pytester, twins))
    result = run(pytester, twins, option)
    result.assert_outcomes(failed=1, deselected=1)


def test_a_renamed_test_is_found_alone(pytester: pytest.Pytester) -> None:
    """A line is tried with the only explored test, whatever its name."""
    option = replay_line(run(pytester, RACY))
    run(pytester, RACY.replace("test_sale", "test_shop"), option).assert_outcomes(failed=1)


def test_a_line_of_no_test_is_refused(pytester: pytest.Pytester) -> None:
    """If several tests are collected and the line is of none, that is a usage error."""
    option = replay_line(run(pytester, RACY))
    twins = RACY + CORRECT.removeprefix(RACE).replace("test_sale", "test_twin")
    result = run(pytester, twins.replace("test_sale", "test_shop"), option)
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [OF_NONE, ""]


def test_a_damaged_line_ends_the_run(pytester: pytest.Pytester) -> None:
    """A damaged line is pytest's usage error, before anything is collected."""
    result = run(pytester, RACY, *REFUSED, "--asyncframe-replay=AF2:abc")
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [DAMAGED, ""]


# ------------------------------------------------------------------ determinism


@pytest.mark.extended("time")
def test_a_deterministic_test_passes_the_check(pytester: pytest.Pytester) -> None:
    """With --asyncframe-check-determinism a test that does the same twice passes."""
    run(pytester, CORRECT, "--asyncframe-check-determinism").assert_outcomes(passed=1)


def test_runs_that_differ_fail_the_check(pytester: pytest.Pytester) -> None:
    """With --asyncframe-check-determinism the first step that differs is told."""
    source = RACE + (
        "\nRUNS = []\n@background_task\ndef other(stock, manager): pass\n"
        "@pytest.mark.interleave(seeds=50)\nasync def test_sale(asyncframe, stock):\n"
        "    RUNS.append(1)\n"
        "    (reserve if len(RUNS) % 2 else other)(stock, asyncframe.manager)\n"
        "    await sell(asyncframe, stock, other) if False else asyncframe.manager.get_stats()\n"
        "    reserve(stock, asyncframe.manager)\n    await asyncframe.settled()\n"
    )
    result = run(pytester, source, "--asyncframe-check-determinism")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [r"not deterministic here: step \d+: first .*other#1.*, then .*reserve#1.*"]
    )
