"""Which tests `make test` runs and which it leaves to `make test-all`: a plugin of pytest.

A test that needs more than this process and some milliseconds has the marker ``extended``, which
says what it needs. A test without the marker cannot start a process: it fails.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

NEEDS = ("servers", "processes", "browser", "tools", "time")
"""What a test may need, in the order of the summary.

Servers of other people, further processes of ours, a browser, programs such as mypy or npm, and
seconds of computing or of waiting.
"""

BROUGHT = {
    "browser": "browser",
    "celery_redis": "servers",
    "postgres_server": "servers",
    "rabbit_server": "servers",
    "redis_server": "servers",
    "shared_postgres": "servers",
    "shared_rabbit": "servers",
    "shared_redis": "servers",
}
"""What fixtures bring, so that a test that asks for one needs no marker."""

BACK_ENDS = {
    "celery": "servers",
    "postgres": "servers",
    "redis": "servers",
    "subprocess": "processes",
}
"""What back ends need, by the parts of their names."""

EXAMPLES = {
    "docs/examples/plugin/test_crash_approval.py::": "time",
    "docs/examples/plugin/test_faults.py::test_two_deliveries_at_the_same_time": "time",
    "docs/examples/plugin/test_searched_faults.py::": "time",
    "docs/examples/plugin/test_outside.py::test_a_program": "processes",
    "tests/docs/test_examples.py::test_example[requeued]": "time",
    "tests/docs/test_examples.py::test_example[subprocess_engine]": "processes",
}
"""What examples of the documentation need, by the beginnings of their tests' names.

Readers are to see no marker in them.
"""

PROGRAMS_OF_PLUGINS = {"file", "git", "hg", "uname"}
"""What pytest-benchmark asks for machine and version, in each run of pytest inside a test."""

STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
"""Audit events that tell of a new process."""

_LEFT: pytest.StashKey[Counter[str]] = pytest.StashKey()


def back_ends(names: Iterable[str]) -> list[Any]:  # pytest does not export the type
    """Return the parameters of a fixture, marked with what they need.

    Args:
        names: Of one back end each, such as "sqlite", or of two, such as "postgres+celery".
    """
    made = []
    for name in names:
        needs = [BACK_ENDS[part] for part in name.split("+") if part in BACK_ENDS]
        marks = [pytest.mark.extended(need) for need in needs[:1]]
        made.append(pytest.param(name, marks=marks, id=name))
    return made


WATCHES = sys.version_info >= (3, 12)
"""Whether processes that tests start are heard.

Before 3.12 `sys.settrace` fails on a thread while another one is in it, and a hook in Python makes
that last: so under coverage a thread that had started now and then ended before its first line.
"""


class Guard:
    """Refuses processes that a test starts although nothing says that it needs them."""

    def __init__(self) -> None:
        self._refused: list[str] = []
        self._watching = False
        if WATCHES:
            sys.addaudithook(self._hear)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Watch while a test runs that may start none."""
        marked = any(map(item.get_closest_marker, ("extended", "soak")))
        # Whoever names back ends has asked for their servers.
        self._watching = not (marked or item.config.getoption("asyncframe_on", None))
        self._refused.clear()
        try:
            return (yield)
        finally:
            self._watching = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Fail a test that has started one where its failure could be missed, as on a thread."""
        result = yield
        assert not self._refused, self._refused[0]
        return result

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._watching or event not in STARTS:
            return
        program = os.path.basename(str(arguments[0])) if arguments else event  # noqa: PTH119
        if program not in PROGRAMS_OF_PLUGINS:
            told = (
                f"this test starts a process ({program}); if it must, mark it with "
                "@pytest.mark.extended('processes'), and make test-all will run it"
            )
            self._refused.append(told)
            pytest.fail(told)


def pytest_configure(config: pytest.Config) -> None:
    """Watch what tests start."""
    config.stash[_LEFT] = Counter()
    config.pluginmanager.register(Guard())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they ask for, and refuse a need that is not known."""
    for item in items:
        marker = item.get_closest_marker("extended")
        if marker is None:
            names = getattr(item, "fixturenames", ())
            needs = [BROUGHT[name] for name in names if name in BROUGHT]
            needs += [need for name, need in EXAMPLES.items() if item.nodeid.startswith(name)]
            if needs:
                item.add_marker(pytest.mark.extended(needs[0]))
        elif len(marker.args) != 1 or marker.args[0] not in NEEDS:
            told = f"{item.nodeid}: extended{marker.args}: name what it needs, one of {NEEDS}"
            raise pytest.UsageError(told)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what was left out for its needs."""
    for item in items:
        marker = item.get_closest_marker("extended")
        if marker is not None and item.get_closest_marker("soak") is None:
            item.config.stash[_LEFT][marker.args[0]] += 1


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give the count to xdist's main process."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        left = session.config.stash[_LEFT]
        output["left"] = dict(left)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # xdist has no types
    """Take the count of one of xdist's processes, each of which has counted the same tests."""
    output: dict[str, Any] = getattr(node, "workeroutput", {})  # none if it did not end in order
    left: Counter[str] = Counter(output.get("left"))
    node.config.stash[_LEFT] = left or node.config.stash[_LEFT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in a line how many tests were left out, and what they need."""
    left = terminalreporter.config.stash[_LEFT]
    if left:
        parts = ", ".join(f"{need} {left[need]:,}" for need in NEEDS if left[need])
        terminalreporter.write_line(f"{left.total():,} left to make test-all: {parts}")
