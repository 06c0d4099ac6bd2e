"""Which tests reach which line: a run of the suite under coverage, a context for each test.

    coverage run --data-file=FILE -m pytest -p tests.mutants.reach ...

Processes that a test starts have its context too. One that a fixture of a wider scope starts, such
as a Celery worker, has the fixture's. Beside the data file a line of JSON for each test says how
long it took, and which fixtures it used.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import coverage
import pytest
from coverage.data import CoverageData

SECONDS = "seconds"
"""Ends the names of the files with the times; each process of a run writes one."""

FIXTURE = "fixture:"
"""Begins the context of what a fixture of a wider scope starts."""

_OVERHEAD = 0.1
"""Seconds that a test takes at least, to set up and to report."""

_CONFIG = "COVERAGE_PROCESS_CONFIG"
"""The environment variable by which coverage tells child processes what to measure."""


@contextmanager
def _children_in(context: str) -> Iterator[None]:
    """Give the processes that are started meanwhile a context, if they are measured."""
    measured, before = coverage.Coverage.current(), os.environ.get(_CONFIG)
    if measured is None or before is None:
        yield
        return
    kept, measured.config.context = measured.config.context, context
    os.environ[_CONFIG] = measured.config.serialize()
    try:
        yield
    finally:
        measured.config.context = kept
        os.environ[_CONFIG] = before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note in the coverage data which test runs, and how long it took."""
    measured = coverage.Coverage.current()
    assert measured is not None, "run it under coverage: coverage run -m pytest"
    begun = perf_counter()  # steady: told, never compared
    measured.switch_context(item.nodeid)
    try:
        with _children_in(item.nodeid):
            return (yield)
    finally:
        measured.switch_context("")
        seconds = perf_counter() - begun  # steady: told, never compared
        # What getfixturevalue has asked for, too.
        used = sorted(getattr(getattr(item, "_request", None), "_fixture_defs", ()))
        file = Path(f"{measured.get_data().data_filename()}.{SECONDS}")
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([item.nodeid, seconds, used]) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """Give what lasts for several tests the context of its fixture."""
    if fixturedef.scope == "function":
        return (yield)
    with _children_in(FIXTURE + fixturedef.argname):
        return (yield)


class Reach:
    """What such runs have found.

    Args:
        data: The combined coverage data; the files with the times are beside it.
        root: The tree that was run.

    Attributes:
        seconds: How long each test took.
    """

    def __init__(self, data: Path, root: Path) -> None:
        self._data = CoverageData(str(data))
        self._data.read()
        self._root = root
        self._lines: dict[str, dict[int, list[str]]] = {}
        self._users: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        for file in data.parent.glob(f"{data.name}*.{SECONDS}"):
            for line in file.read_text("utf-8").splitlines():
                name, seconds, *used = json.loads(line)
                self.seconds[name] = seconds
                for fixture in used[0] if used else ():
                    self._users.setdefault(fixture, []).append(name)

    def tests(self, module: str, line: int) -> list[str]:
        """Return the tests that reach a module, those first that reach the line.

        Of both, the ones come first that reach most of the module in a second: its own tests,
        rather than such as only pass through. That one reaches the line is not always known: of
        what runs once in a process, in a worker that many tests share, or on an untraced thread.

        Args:
            module: Path from the root.
            line: From 1. Of a statement over several lines not each is known, so that the
                nearest known line above counts.
        """
        if module not in self._lines:
            self._lines[module] = self._data.contexts_by_lineno(str(self._root / module))
        lines = self._lines[module]
        nearest = max((known for known in lines if known <= line), default=0)
        found = self._of(lines.get(nearest, []))
        reached = Counter(test for some in lines.values() for test in self._of(some))

        def order(test: str) -> tuple[bool, float]:
            return test not in found, (self.seconds[test] + _OVERHEAD) / reached[test]

        return sorted(reached, key=order)

    def _of(self, contexts: list[str]) -> set[str]:
        """Return the tests that contexts stand for."""
        found: set[str] = set()
        for context in set(contexts):
            name = context.partition("|")[0]  # a child's own follows
            users = self._users.get(name.removeprefix(FIXTURE), [])
            found.update(users if name.startswith(FIXTURE) else [name])
        return found & self.seconds.keys()
