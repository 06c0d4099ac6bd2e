"""Which tests reach which line: a run of the suite under coverage, a context for each test.

    coverage run --data-file=FILE -m pytest -p tests.mutants.reach ...

Beside the data file a line of JSON for each test says how long it took.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import coverage
import pytest
from coverage.data import CoverageData

SECONDS = "seconds"
"""Ends the names of the files with the times; each process of a run writes one."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note in the coverage data which test runs, and how long it took."""
    measured = coverage.Coverage.current()
    assert measured is not None, "run it under coverage: coverage run -m pytest"
    begun = perf_counter()  # steady: told, never compared
    measured.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        measured.switch_context("")
        data = measured.get_data().data_filename()
        with Path(f"{data}.{SECONDS}").open("a", encoding="utf-8") as file:
            file.write(
                json.dumps([item.nodeid, perf_counter() - begun]) + "\n"
            )  # steady: told, never compared


class Reach:
    """What such runs have found.

    Args:
        data: The combined coverage data; the files with the times are beside it.
        root: The tree that was run.
    """

    def __init__(self, data: Path, root: Path) -> None:
        self._data = CoverageData(str(data))
        self._data.read()
        self._root = root
        self._lines: dict[str, dict[int, list[str]]] = {}
        self.seconds: dict[str, float] = {}
        for file in data.parent.glob(f"{data.name}*.{SECONDS}"):
            for line in file.read_text("utf-8").splitlines():
                name, seconds = json.loads(line)
                self.seconds[name] = seconds

    def tests(self, module: str, line: int) -> list[str]:
        """Return the tests that reach a line, the quickest first.

        Args:
            module: Path from the root.
            line: From 1. Of a statement over several lines not each is known, so that the
                nearest known line above counts.
        """
        if module not in self._lines:
            self._lines[module] = self._data.contexts_by_lineno(str(self._root / module))
        lines = self._lines[module]
        nearest = max((known for known in lines if known <= line), default=0)
        found = filter(self.seconds.__contains__, lines.get(nearest, []))
        return sorted(found, key=lambda name: self.seconds[name])
