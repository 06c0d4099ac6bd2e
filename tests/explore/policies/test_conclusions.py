"""What the reports of the last run say, where that run is not as it was expected."""

from __future__ import annotations

import pytest

from pytest_asyncframe._explore.conclusions import Found, Replayed, failed
from pytest_asyncframe._explore.replay import Following, line_of
from pytest_asyncframe._explore.run import When, same_failure
from pytest_asyncframe._explore.schedule import Step

STEP = Step("framework", "submit()", ("a#1", "a#2"), True, 1)

LINE = line_of([STEP], node_id="test_it", level="framework", seed=1, edges=True)

AWAY = "step 0, expected framework a#1, a#2, found the end of the run"


def test_a_last_run_that_goes_another_way_is_told(request: pytest.FixtureRequest) -> None:
    """If the run that is shown did not follow the schedule, its report says so."""
    report = failed(request.node, "call", "on purpose")
    found = Found(report, Following(LINE), ["run 1 fails", "replay: pytest"])
    assert found.reported(report).sections == [
        ("exploration", f"run 1 fails\nreplay: pytest\nThe run shown here was another one: {AWAY}.")
    ]


def test_a_replay_that_fails_too_early_is_no_replay(request: pytest.FixtureRequest) -> None:
    """A failure before the choices of the line is another failure."""
    replayed = Replayed(request.node, Following(LINE))
    report = replayed.reported(failed(request.node, "call", "on purpose"))
    assert str(report.longrepr) == (
        f"not deterministic here: {AWAY}. If the code or the test has changed since the replay "
        "line was printed, run the test without it."
    )
    assert report.when == "call"


def report_of(item: pytest.Item, when: When, value: int) -> pytest.TestReport:
    """Return the report of a phase that compares a value."""

    def compare() -> None:
        assert value == 0
        assert value == 1

    return pytest.TestReport.from_item_and_call(item, pytest.CallInfo.from_call(compare, when))


def test_failures_at_one_line_are_the_same(request: pytest.FixtureRequest) -> None:
    """Two runs fail in the same way if it is in the same phase and at the same line."""
    one = report_of(request.node, "call", 2)
    assert same_failure(one, report_of(request.node, "call", 3))
    assert not same_failure(one, report_of(request.node, "call", 0))
    assert not same_failure(one, report_of(request.node, "teardown", 2))
