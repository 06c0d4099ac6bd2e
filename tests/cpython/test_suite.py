"""CPython's own thread-pool suite, run against our executor in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import framework

RUNNER = Path(__file__).with_name("runner.py")
NO_SUITE = 77


@pytest.mark.timeout(360)
def test_cpython_suite() -> None:
    """`ThreadPoolExecutorEnhanced` passes the thread-pool tests of this Python."""
    # The very copy of the framework that this run tests, installed or not.
    paths = [str(Path(framework.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    done = subprocess.run(
        [sys.executable, RUNNER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    if done.returncode == NO_SUITE and "CI" not in os.environ:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"ran=\d+ failures=0 errors=0 skipped=\d+", last), last
