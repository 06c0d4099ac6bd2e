"""For the whole run: its order, what children hear, what a failure leaves, how it ends."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import tiers
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOM = 2_000_000_000
"""How many bytes must be free in memory for it to take the files of a run, which need a tenth."""


def folder_in_memory(place: str = "/dev/shm") -> str | None:
    """Return *place* if files can be made and run there, and it has room for those of a run."""
    try:
        found = os.statvfs(place)
    except (AttributeError, OSError):  # Windows has neither
        return None
    free = found.f_bavail * found.f_frsize
    runs = not found.f_flag & getattr(os, "ST_NOEXEC", 0)
    return place if free >= ROOM and runs and os.access(place, os.W_OK) else None


# Databases and small projects are made by the hundred, and on a disk much time goes into that.
if "TMPDIR" not in os.environ and (memory := folder_in_memory()) is not None:
    os.environ["TMPDIR"] = tempfile.tempdir = memory

LONG = (
    "processes/celery/test_kills.py",
    "processes/celery/test_rabbitmq.py",
    "cpython/test_suite.py",
    "processes/conformance/test_results.py",
    "processes/operating/test_workers.py",
    "framework/manager/test_drain.py",
    "plugin/clock/test_outside.py",
    "processes/sql/test_kills.py",
    "processes/sql/test_processes.py",
    "processes/conformance/test_states.py",
    "processes/celery/test_example.py",
    "plugin/test_plugin.py",
)
"""The files that take longest, in order; most of them wait for other processes."""


# Where the environment variable CI is set, Hypothesis does so by itself: no example fails because
# the machine was busy.
hypothesis.settings.register_profile("asyncframe", deadline=None)
hypothesis.settings.load_profile("asyncframe")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell the tiers apart, and let children hear Ctrl+C although this process may not.

    A shell starts what it puts in the background, as ``make test &`` in a script, with SIGINT
    ignored, and every child would inherit that. What is handled is not inherited.
    """
    config.pluginmanager.register(tiers)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stay_deaf)


def _stay_deaf(number: int, frame: FrameType | None) -> None:
    """Do what SIG_IGN does."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, and leave all others in their random order.

    Each process takes a file after the other (``--dist loadfile``). Of a long one that was taken
    last, the end would be all that still runs.
    """
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the garbage collector what lasts until the end: modules, tests and parameters."""
    _freeze()


def _freeze() -> None:
    """Keep the garbage collector from walking through what is there now.

    Tests look for garbage hundreds of times, and most of what is there has come to stay.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Forget what a failed test has left, and spare the collector what a file has left for good.

    Python keeps the last error, and by it the frames of the test: an open process or socket
    in them would be collected in the middle of a later test, which would fail by its warning.
    """
    result = yield
    if nextitem is not None and hasattr(sys, "last_value"):
        _forget_the_last_error()
    if nextitem is not None and nextitem.path != item.path:
        _freeze()
    return result


def _forget_the_last_error() -> None:
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    heard, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = heard


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in a line each why tests were skipped, and of how many it is the reason."""
    told = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(place[2] for place in told if isinstance(place, tuple))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End the process although a failed test has left a pool's thread blocked.

    A process of xdist waits until the others have run their tests, too: that is no part of its end.
    What it has covered is not lost with it.
    """

    def end() -> None:
        threading.main_thread().join()
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        threading.Event().wait(PATIENCE / 2)  # steady: no test waits for it
        measured = sys.modules.get("coverage")
        current = None if measured is None else measured.Coverage.current()
        if current is not None:
            current.save()

    threading.Thread(target=end, daemon=True).start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let xdist's processes end by themselves.

    It kills those that take longer than 10 s, without a word: what they were to save on their
    way out, such as the coverage of all that they ran, would be lost.
    """
    # Only where xdist is; it has no types.
    from xdist.workermanage import NodeManager  # type: ignore[import-untyped]

    NodeManager.EXIT_TIMEOUT = PATIENCE + 30


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium; meanwhile a module cannot have tests that are coroutines."""
    from tests.browsing import chromium

    with chromium() as started:
        yield started
