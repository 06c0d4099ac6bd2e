"""CPython's own thread-pool suite, run against our executors in processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import framework

pytestmark = pytest.mark.extended("processes")

EXECUTORS = {
    "ThreadPoolExecutorEnhanced": "framework:ThreadPoolExecutorEnhanced",
    "DeterministicExecutor": "free_running:FreeRunningExecutor",
}
RUNNER = Path(__file__).with_name("runner.py")
NO_SUITE = 77
TIME_LIMIT = 320.0  # a little more than the runner's own


def environment(executor: str) -> dict[str, str]:
    """Return the variables for the runner, which is to test *executor*.

    It finds the very copy of the framework that this run tests, and is not measured: the
    suite forks while threads run, and then coverage's locks stay locked in the child.
    """
    paths = [str(Path(framework.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    kept = {key: value for key, value in os.environ.items() if "COVERAGE_PROCESS" not in key}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "ASYNCFRAME_EXECUTOR": executor,
    }


def run_suite(executor: str, output: Path) -> int:
    """Run the suite, write what it prints to *output*, and return its exit status."""
    # A file, since children of a runner that hangs would keep a pipe open.
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, RUNNER],
            env=environment(executor),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(TIME_LIMIT)
        finally:
            # What the suite forked, too; most often nothing is left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.timeout(360)
@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS.keys())
def test_cpython_suite(executor: str, tmp_path: Path) -> None:
    """Both executors pass the thread-pool tests of CPython."""
    output = tmp_path / "suite.log"

    status = run_suite(executor, output)

    printed = output.read_text()
    if status == NO_SUITE and "CI" not in os.environ:
        pytest.skip(printed.strip())
    assert status == 0, re.sub(r".* ok\n", "", printed)
    assert re.fullmatch(r"ran=\d+ failures=0 errors=0 skipped=\d+", printed.splitlines()[-1])
