"""What an exploration has found, and how the reports of the last run say so.

The last run is the one that users see: its output, its traceback, its debugger. Each
conclusion says which choices it makes, and changes its reports where these do not say what
the runs before have shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from pytest_asyncframe._explore.replay import Following
from pytest_asyncframe._explore.run import When, is_failure
from pytest_asyncframe._explore.schedule import Default, Strategy
from pytest_asyncframe._toolkit.items import PARTIALLY, PROOF

SECTION = "exploration"
"""The title of the section of a report, and the name of its property in JUnit's XML."""

AGAIN = (
    "The test fails without any other choice when it runs once more in the same process, so "
    "this is no race: something outlives a run, such as a global variable or a fixture of a "
    "wider scope. Create it anew in a fixture of function scope."
)
BY_DELAYS = (
    "It was found with delays of real time at points drawn at random. It may not fail so again, "
    "so there is no replay line; running the test once more draws the same delays."
)

_MOST_NAMED = 10
"""Tests that the summary of a session names at the most."""


def failed(item: pytest.Item, when: When, text: str) -> pytest.TestReport:
    """Return the report of a phase that fails with *text* alone."""
    call = pytest.CallInfo.from_call(lambda: pytest.fail(text, pytrace=False), when)
    return pytest.TestReport.from_item_and_call(item, call)


def partial_passes(passed: Sequence[Any]) -> list[str]:
    """Return what the summary of a session says of tests that were partially controlled.

    Args:
        passed: pytest's reports of what has passed, some of which are of such tests.
    """
    found = [one.nodeid for one in passed if str(getattr(one, PROOF, "")).endswith(PARTIALLY)]
    more = len(found) - _MOST_NAMED
    return [
        "These explored tests have passed, but what runs in them is partly outside the clock, such",
        "as a socket or a thread of a library. Nobody chose its order, so it may have others, in",
        "which they fail. With -rP the report of each test names what it has met.",
        *(f"  {one}" for one in found[:_MOST_NAMED]),
        *([f"  and {more} more"] if more > 0 else []),
    ]


def _tell(report: pytest.TestReport, lines: Sequence[str]) -> None:
    report.sections.append((SECTION, "\n".join(lines)))


class Passed:
    """No schedule fails.

    Args:
        proof: What that proves, in a few words.
        lines: Details for the section.
    """

    def __init__(self, proof: str, lines: Sequence[str]) -> None:
        self.strategy: Strategy = Default()
        self._proof = proof
        self._lines = [f"{proof}.", *lines]

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return *report*, that of a phase of the last run, with the proof."""
        if is_failure(report):
            _tell(report, [*self._lines, AGAIN])
        elif report.when == "call":
            _tell(report, self._lines)
            if report.passed:
                setattr(report, PROOF, self._proof)
        if report.when != "setup":
            report.user_properties.append((SECTION, self._proof))
        return report


@dataclass(eq=False)
class Found:
    """A schedule fails.

    Attributes:
        failure: The report of the phase that failed.
        strategy: Makes the choices of that schedule.
        lines: The section; the first one is kept in JUnit's XML too.
        if_not_again: A further line for the case that the last run does not fail.
        is_told: Whether a report of the last run has said so.
    """

    failure: pytest.TestReport
    strategy: Strategy
    lines: Sequence[str]
    if_not_again: str = "Run once more with the same choices, it passed."
    is_told: bool = False

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return the report of the failure, in the phase in which it came."""
        lines = self.lines
        if not is_failure(report) and not self.is_told and report.when == self.failure.when:
            # What is wrong is known, though the last run does not show it.
            report = self.failure
            lines = [*lines, self.if_not_again]
        if is_failure(report) and not self.is_told:
            self.is_told = True
            following = self.strategy
            difference = following.missing() if isinstance(following, Following) else ""
            if difference:
                lines = [*lines, f"The run shown here was another one: {difference}."]
            _tell(report, lines)
        if report.when != "setup":
            report.user_properties.append((SECTION, self.lines[0]))
        return report


@dataclass(eq=False)
class Wrong:
    """The exploration itself says that something is wrong, such as two runs that differ.

    Attributes:
        item: The test.
        text: What.
        strategy: Makes the choices of the last run.
        lines: The section; none for no section.
    """

    item: pytest.Item
    text: str
    strategy: Strategy = field(default_factory=Default)
    lines: Sequence[str] = ()

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return a report that says so for the call."""
        if report.when != "call":
            return report
        found = failed(self.item, "call", self.text)
        if self.lines:
            _tell(found, self.lines)
        return found


@dataclass(eq=False)
class Replayed:
    """The schedule of a replay line, which the last run follows.

    Attributes:
        item: The test.
        strategy: Makes the choices of that schedule.
        met: Returns what the last run has met that no chooser controls.
        is_told: Whether a report of the last run has said how it went.
    """

    item: pytest.Item
    strategy: Following
    met: Callable[[], Sequence[str]] = tuple
    is_told: bool = False

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return *report*, or one that says where the run differs from the line."""
        if self.is_told or report.when not in ("call", "teardown"):
            return report
        # What comes after a failure may be missing, but no choice of the line.
        difference = self.strategy.difference
        if is_failure(report) or report.when == "teardown":
            difference = self.strategy.missing()
        if difference:
            self.is_told = True
            return failed(
                self.item, report.when, f"not deterministic here: {difference}. {self._reason()}"
            )
        if is_failure(report):
            self.is_told = True
            _tell(report, ["It fails with the schedule of the replay line."])
        elif report.when == "call" and report.passed:
            setattr(report, PROOF, "the schedule of the replay line does not fail")
        return report

    def _reason(self) -> str:
        met = self.met()
        if met:
            return f"It may be because of {' and '.join(met)}."
        return (
            "If the code or the test has changed since the replay line was printed, run the test "
            "without it."
        )


Conclusion: TypeAlias = Passed | Found | Wrong | Replayed
"""The result of an exploration: what makes the choices of the last run, and its reports."""
