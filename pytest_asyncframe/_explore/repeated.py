"""Running one test many times with fixtures of its own each time.

Each run is pytest's own protocol for the test, told that the next test is a copy of it: the
fixtures of function scope are made anew, and wider ones are kept. The last run is told which
test really comes next.

Relies on: `runtestprotocol` and `call_and_report` of pytest, which are not public.
"""

from __future__ import annotations

import logging
import os
import pdb  # noqa: T100  # replaced, not used
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
from _pytest.runner import call_and_report, runtestprotocol

from pytest_asyncframe._explore.locks.found import FoundLocks, kept_by
from pytest_asyncframe._explore.run import Ended, Run
from pytest_asyncframe._toolkit.items import RUN, is_from
from pytest_asyncframe._toolkit.repeating import SeveralRuns, withheld

When: TypeAlias = Literal["setup", "call", "teardown"]


class Repeated(SeveralRuns):
    """A test that is run many times.

    Args:
        item: The test.
        next_item: The test after it; None if it is the last one.
    """

    def __init__(self, item: pytest.Item, next_item: pytest.Item | None) -> None:
        super().__init__(item)
        self._next_item = next_item
        self._folder: Path | None = None
        self._locks = FoundLocks(item.config.rootpath, lambda: kept_by(item))

    def quietly(self, run: Run) -> Ended:
        """Run it once, without showing its reports and without starting a debugger."""
        with (
            self._prepared(run),
            hushed(self.item.config),
            withheld(self.item, "pytest_exception_interact"),
            withheld(self.item, "pytest_runtest_logreport") as told,
        ):
            run.dress = self._note_folder
            reports = runtestprotocol(self.item, log=False, nextitem=self.copy)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        return Ended(run, [*told, *reports])

    def _note_folder(self, report: pytest.TestReport) -> pytest.TestReport:
        """Keep the path of ``tmp_path``: pytest would keep the folders of all runs."""
        info: Any = getattr(self.item, "_fixtureinfo", None)
        found: Sequence[Any] = info.name2fixturedefs.get("tmp_path", ()) if info else ()
        if report.when == "call" and is_from("_pytest.tmpdir", "tmp_path", found):
            # None if nothing has requested it in this run.
            result = found[0].cached_result
            self._folder = None if result is None else result[0]
        return report

    def openly(self, run: Run) -> None:
        """Run it for the last time, with reports."""
        with self._prepared(run):
            runtestprotocol(self.item, nextitem=self._next_item)

    def first(self, run: Run) -> Ended:
        """Run it once, with reports and for the last time if it does not pass."""
        with self._prepared(run), withheld(self.item, "pytest_runtest_logreport") as told:
            reports = [self._phase("setup")]
            if reports[0].passed:
                call = self._phase("call")
                reports += [*told, call]
            ended = Ended(run, reports)
            is_last = ended.failure is not None or ended.was_skipped
            following = self._next_item if is_last else self.copy
            reports.append(self._phase("teardown", nextitem=following))
            self._forget_request()
        if is_last or ended.failure is not None:
            for report in reports:
                self.item.ihook.pytest_runtest_logreport(report=report)
        if ended.failure is not None and not is_last:
            self.item.session._setupstate.teardown_exact(self._next_item)
        return ended

    def _phase(self, when: When, **options: pytest.Item | None) -> pytest.TestReport:
        return call_and_report(self.item, when, log=False, **options)

    @contextmanager
    def _prepared(self, run: Run) -> Iterator[None]:
        """Make this the present run inside the block, with models of locks."""
        with self.prepared(RUN, run), self._locks.modelled():
            yield

    def _forget_request(self) -> None:
        item: Any = self.item
        if hasattr(item, "_request"):
            item._request, item.funcargs = False, None


@contextmanager
def hushed(config: pytest.Config) -> Iterator[None]:
    """Drop inside the block what pytest would show at once, and pass over breakpoints.

    Two hundred runs would print all of it two hundred times. With pytest's capturing, a run
    prints nothing anyhow.
    """
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "breakpointhook", _pass_over)
        patch.setattr(pdb, "set_trace", _pass_over)
        plugin = config.pluginmanager.get_plugin("logging-plugin")
        handler = getattr(plugin, "log_cli_handler", None)
        if isinstance(handler, logging.Handler):
            handler.addFilter(_drop)
            stack.callback(handler.removeFilter, _drop)
        if config.getoption("capture", "no") == "no":
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _pass_over(*_: Any, **__: Any) -> None:
    """Replace a breakpoint."""


def _drop(_: logging.LogRecord) -> bool:
    return False
