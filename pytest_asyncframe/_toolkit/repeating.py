"""What running one test several times needs of pytest.

Relies on: names of pytest's that are not public. A pytest without one of them ends the run at the
first test that is to run several times, and says so.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

_FIXTURES_ONLY = ("setuponly", "setupplan", "setupshow")
"""Options of pytest that show the fixtures of a test, which several runs would show again."""


def shows_fixtures(config: pytest.Config) -> bool:
    """Whether pytest only shows fixtures, so that each test is run once, as any other."""
    return any(config.getoption(name, False) for name in _FIXTURES_ONLY)


class SeveralRuns:
    """What the runs of one test have in common.

    Args:
        item: The test.

    Attributes:
        item: The test.
        copy: A copy of it, which pytest takes for the next test, so that wide fixtures are kept.
    """

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.copy: pytest.Item = copy.copy(item)
        self._properties = list(item.user_properties)

    @contextmanager
    def prepared(self, key: pytest.StashKey[T], run: T) -> Iterator[None]:
        """Let *run* be on the test's stash inside the block, and forget the runs before it."""
        _forget_runs(self.item, self._properties)
        self.item.stash[key] = run
        try:
            yield
        finally:
            del self.item.stash[key]

    def show(self, reports: Sequence[pytest.TestReport], next_item: pytest.Item | None) -> None:
        """Tell pytest of the reports of a run, and end the wider fixtures.

        Args:
            reports: They are shown with what the wider fixtures print.
            next_item: The test after this one, whose fixtures are kept; None for no test.
        """
        self._count_failed_subtests(reports)
        self._tell([*reports, *self._end(next_item, reports[-1])])
        session = self.item.session
        if session.shouldfail or session.shouldstop:
            # No further test comes, though nobody knew that before the reports.
            self._tell(self._end(None, reports[-1]))

    def _count_failed_subtests(self, reports: Sequence[pytest.TestReport]) -> None:
        """Let pytest say how many subtests fail in this run, and not in all runs together."""
        # pytest counts from version 9 on, while the test runs.
        key = getattr(sys.modules.get("_pytest.subtests"), "failed_subtests_key", None)
        counts = None if key is None else self.item.config.stash.get(key, None)
        if counts is not None:
            failed = [one for one in reports if one.failed and hasattr(one, "context")]
            counts[getattr(self.item, "id", self.item.nodeid)] = len(failed)

    def _tell(self, reports: Sequence[pytest.TestReport]) -> None:
        for report in reports:
            self.item.ihook.pytest_runtest_logreport(report=report)

    def _end(
        self, next_item: pytest.Item | None, latest: pytest.TestReport
    ) -> list[pytest.TestReport]:
        """End the wider fixtures that *next_item* does not use; return a report if that fails."""
        item: Any = self.item
        state, known = item.session._setupstate, len(item._report_sections)
        capturing: Any = item.config.pluginmanager.getplugin("capturemanager")
        capture = capturing.item_capture("teardown", item) if capturing else nullcontext()
        with capture:
            call = pytest.CallInfo.from_call(lambda: state.teardown_exact(next_item), "teardown")
        if call.excinfo is not None:
            # Not made by the hook, whose implementations expect a test that is set up.
            return [pytest.TestReport.from_item_and_call(item, call)]
        latest.sections += [
            (f"Captured {stream} {when}", text)
            for when, stream, text in item._report_sections[known:]
        ]
        return []


@contextmanager
def logged(item: pytest.Item) -> Iterator[None]:
    """Tell pytest that a test starts and ends."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    yield
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def crash_of(report: pytest.TestReport) -> Any:  # Any: pytest's, which is not public
    """Return the file, the line and the message of a failure; None if they are not known."""
    return getattr(report.longrepr, "reprcrash", None)


def line_of(report: pytest.TestReport) -> object:
    """Return what equals that of another failure at the same line."""
    crash = crash_of(report)
    return None if crash is None else (crash.path, crash.lineno)


def _forget_runs(item: pytest.Item, properties: Sequence[tuple[str, object]]) -> None:
    """Let the next run of a test begin without what the earlier ones have left on it.

    Args:
        item: The test.
        properties: Its properties for reports before its first run.
    """
    _require_known(item)
    made: Any = item  # some of its attributes are not public
    made._report_sections.clear()
    made.user_properties[:] = properties
    if isinstance(item.parent, pytest.Class):
        # pytest makes an instance of the class for each item, and would keep it.
        vars(item).pop("_obj", None)
        vars(item).pop("_instance", None)
    if hasattr(made, "_request") and not made._request:
        made._initrequest()


def _require_known(item: pytest.Item) -> None:
    needed: list[tuple[object, str]] = [
        (item, "_report_sections"),
        (item.session, "_setupstate"),
        (item.config.hook.pytest_runtest_logreport, "_hookexec"),
    ]
    for owner, name in needed:
        if not hasattr(owner, name):
            raise pytest.UsageError(
                f"a test that runs several times needs {name} of pytest's {type(owner).__name__}, "
                f"which pytest {pytest.__version__} does not have: use a newer asyncframe, or an "
                "older pytest"
            )


@contextmanager
def withheld(item: pytest.Item, name: str) -> Iterator[list[pytest.TestReport]]:
    """Call no plugin for a hook inside the block.

    Args:
        item: The test that runs.
        name: A hook that gets a report.

    Yields:
        The reports with which it was called.
    """
    caller: Any = getattr(item.config.hook, name)
    told: list[pytest.TestReport] = []
    real = caller._hookexec

    def kept(_: str, __: object, given: dict[str, Any], ___: bool) -> list[object]:
        told.append(given["report"])
        return []

    caller._hookexec = kept
    try:
        yield told
    finally:
        caller._hookexec = real
