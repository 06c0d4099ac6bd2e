"""What tests/conftest.py does for every test."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import LONG, ROOM, folder_in_memory
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="only Linux has such a folder")
@pytest.mark.parametrize(
    ("blocks", "runs", "found"),
    [(ROOM, True, True), (ROOM - 1, True, False), (ROOM, False, False)],
)
def test_files_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocks: int, runs: bool, found: bool
) -> None:
    """Files lie in memory if there is room for them, and programs among them can be run."""
    state = SimpleNamespace(f_bavail=blocks, f_frsize=1, f_flag=0 if runs else os.ST_NOEXEC)
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    assert folder_in_memory(str(tmp_path)) == (str(tmp_path) if found else None)


def test_no_files_in_memory(tmp_path: Path) -> None:
    """Files lie where they do elsewhere if the system keeps none in memory."""
    assert folder_in_memory(str(tmp_path / "missing")) is None


def test_long_files_are_there() -> None:
    """Each file that is to come first is one of the suite."""
    assert [name for name in LONG if not (ROOT / "tests" / name).is_file()] == []


def test_long_files_come_first(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> None:
    """Files that take long come before all others, the longest first."""
    names = [item.path.relative_to(ROOT).as_posix() for item in request.session.items]
    found = [LONG.index(name[6:]) if name[6:] in LONG else len(LONG) for name in names]
    assert found == sorted(found)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder whose tests have the conftest of these."""
    pytester.makeini(
        "[pytest]\naddopts = -p no:randomly -p no:asyncio\nfilterwarnings = error\n"
        "markers = extended: what a test needs\n"
    )
    pytester.makeconftest(
        f"import sys\nsys.path.append({str(ROOT)!r})\nfrom tests.conftest import *\n"
    )
    return pytester


@pytest.mark.extended("processes")
def test_children_can_be_interrupted(suite: pytest.Pytester) -> None:
    """Children of a run that was started with SIGINT ignored hear it, and the run does not."""
    suite.makepyfile("""
    import signal, subprocess, sys
    import pytest

    @pytest.mark.extended("processes")
    def test_child():
        signal.raise_signal(signal.SIGINT)
        code = "import signal; assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN"
        subprocess.run([sys.executable, "-c", code], check=True)
    """)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = suite.runpytest_subprocess(timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGINT, handler)

    result.assert_outcomes(passed=1)


@pytest.mark.extended("processes")
def test_what_a_failure_left_is_its_own(suite: pytest.Pytester) -> None:
    """A process that a failed test left open fails no test after it."""
    suite.makepyfile("""
    import gc, subprocess, sys
    import pytest

    @pytest.mark.extended("processes")
    def test_leaves_a_process():
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
        raise TimeoutError

    def test_next():
        gc.collect()
    """)
    result = suite.runpytest_subprocess(timeout=PATIENCE)

    result.assert_outcomes(passed=1, failed=1)


@pytest.mark.extended("processes")
@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_reasons_of_skips(suite: pytest.Pytester, options: tuple[str, ...]) -> None:
    """Tests that were skipped for one reason are one line at the end, above the outcome."""
    suite.makepyfile("""
    import pytest

    @pytest.fixture
    def server():
        pytest.skip("redis-server is not installed")

    @pytest.mark.parametrize("number", range(20))
    def test_of_a_server(number, server):
        pass

    @pytest.mark.skipif(True, reason="no fork there")
    def test_of_forks():
        pass

    def test_runs():
        pass
    """)
    result = suite.runpytest_subprocess(*options, timeout=PATIENCE)

    assert result.outlines[-3:-1] == [
        "20 skipped: redis-server is not installed",
        "1 skipped: no fork there",
    ]
    result.assert_outcomes(passed=1, skipped=21)
