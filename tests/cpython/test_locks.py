"""CPython's own tests of locks, run against modelled ones in a process of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.children import python
from tests.cpython.lock_runner import NO_SUITE

pytestmark = pytest.mark.extended("processes")

RUNNER = Path(__file__).with_name("lock_runner.py")


def test_cpython_lock_tests() -> None:
    """Modelled locks pass the tests of locks of CPython, and so does what is built on them."""
    ended = python(RUNNER, status=None, patience=100)
    told = ended.stdout + ended.stderr
    if ended.returncode == NO_SUITE and "CI" not in os.environ:
        pytest.skip(told.strip())
    assert ended.returncode == 0, re.sub(r".* ok\n", "", told)
    assert re.search(r"^Ran (7[89]|8\d) tests in ", told, re.MULTILINE)
