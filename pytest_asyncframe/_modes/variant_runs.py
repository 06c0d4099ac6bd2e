"""Running a test in all its variants, in the place of pytest's own protocol for it.

Each run is pytest's own protocol for the test, told that the next test is a copy of it: the
fixtures of function scope are made anew, and wider ones are kept until all runs are done. Users
see one test: the reports of the run that stands for all.

Relies on: `runtestprotocol` of pytest, which is not public.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from pytest_asyncframe._modes.marker import applies, variants_for
from pytest_asyncframe._modes.results import (
    Result,
    failures,
    other_failures,
    sentence,
    shown,
)
from pytest_asyncframe._toolkit.items import PROOF, REFUSED
from pytest_asyncframe._toolkit.options import Settings, settings_for
from pytest_asyncframe._toolkit.repeating import (
    SeveralRuns,
    crash_of,
    logged,
    shows_fixtures,
    withheld,
)
from pytest_asyncframe._toolkit.variants import VARIANT, Variant

SECTION = "task modes"
"""The title of the section of a report, and the name of its property in JUnit's XML."""


def protocol(
    item: pytest.Item,
    next_item: pytest.Item | None,
    settings: Settings,
    asked: Collection[str],
) -> bool | None:
    """Run a test that has the marker; see the hook ``pytest_runtest_protocol``.

    Args:
        item: The test.
        next_item: The test after it; None if it is the last one.
        settings: The settings of the session.
        asked: The fixtures of asyncframe that it requests.

    Returns:
        None if the test is to be run as any other.
    """
    if shows_fixtures(item.config) or not applies(item, asked):
        return None
    try:
        variants = variants_for(item, settings_for(item, settings), asked)
    except pytest.UsageError as error:
        item.stash[REFUSED] = str(error)
        return None
    with logged(item):
        runs = _Runs(item)
        results = [Result(variant, runs.run(variant)) for variant in variants]
        for report in [*_reported(results, item), *runs.end(next_item)]:
            item.ihook.pytest_runtest_logreport(report=report)
    return True


class _Runs(SeveralRuns):
    """The runs of one test."""

    def run(self, variant: Variant) -> list[pytest.TestReport]:
        """Run the test once; return the reports, of which nobody is told."""
        item = self.item
        with self.prepared(VARIANT, variant), withheld(item, "pytest_runtest_logreport") as told:
            reports = runtestprotocol(item, log=False, nextitem=self.copy)
        # Subtests report during the call.
        return [*told, *reports]

    def end(self, next_item: pytest.Item | None) -> list[pytest.TestReport]:
        """End the wider fixtures that *next_item* does not use; return a report if that fails."""
        state = self.item.session._setupstate
        capturing: Any = self.item.config.pluginmanager.getplugin("capturemanager")
        capture = capturing.item_capture("teardown", self.item) if capturing else nullcontext()
        with capture:
            call = pytest.CallInfo.from_call(lambda: state.teardown_exact(next_item), "teardown")
        if call.excinfo is None:
            return []
        # Not by the hook, whose implementations expect a test that is set up.
        return [pytest.TestReport.from_item_and_call(self.item, call)]


def _reported(results: list[Result], item: pytest.Item) -> list[pytest.TestReport]:
    """Return the reports that users see."""
    chosen = shown(results)
    text = sentence(results)
    for report in chosen.reports:
        if report is chosen.failure:
            report.sections[:0] = [
                (SECTION, "\n".join([text, *failures(results, item)])),
                *other_failures(results),
            ]
            _head(report, text.rpartition("; ")[2])
        if report.when == "call":
            reports = (one for result in results for one in result.reports)
            report.duration = sum(one.duration for one in reports if one.when == "call")
            if report.passed and not hasattr(report, "wasxfail"):
                setattr(report, PROOF, text)
        if report.when != "setup":
            report.user_properties.append((SECTION, text))
    return chosen.reports


def _head(report: pytest.TestReport, text: str) -> None:
    """Make pytest's summary say where the test fails."""
    crash = crash_of(report)
    if crash is not None:
        crash.message = f"{text}: {crash.message}"
