"""CPython's own tests of locks, run against modelled ones in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import framework
from tests.cpython.lock_runner import NO_SUITE

RUNNER = Path(__file__).with_name("lock_runner.py")


@pytest.mark.timeout(120)
def test_cpython_lock_tests() -> None:
    """Modelled locks pass the tests of locks of CPython, and so does what is built on them."""
    ended = subprocess.run(
        [sys.executable, RUNNER],
        env={**os.environ, "PYTHONPATH": str(Path(framework.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    if ended.returncode == NO_SUITE and "CI" not in os.environ:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, re.sub(r".* ok\n", "", ended.stdout)
    assert re.search(r"^Ran (7[89]|8\d) tests in ", ended.stdout, re.MULTILINE)
