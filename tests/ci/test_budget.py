"""A run of the tests is held to the numbers in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.ci.scripts import load

budget = load("budget")


def test_collected() -> None:
    """What the last closing line counts is what was collected and run."""
    lines = {
        "===== 5 passed in 1.00s =====\n= 2 failed, 3 passed, 1 skipped in 2.0s (0:00:02) =": 6,
        "== 1 failed, 2 passed, 9 deselected, 4 warnings, 1 error in 0.10s ==": 4,
        "no test ran": None,
        "5 passed in 1.00s": None,
    }

    assert {text: budget.collected(text.splitlines()) for text in lines} == lines


@pytest.mark.parametrize(
    ("tests", "seconds", "ended", "status"),
    [(5, 60, 0, 0), (4, 60, 0, 1), (5, 0, 0, 1), (5, 60, 3, 3)],
    ids=["within", "tests", "seconds", "failed"],
)
@pytest.mark.extended("processes")
def test_status(tmp_path: Path, tests: int, seconds: float, ended: int, status: int) -> None:
    """It fails as the command does, and above either number."""
    file = tmp_path / "budget.toml"
    numbers = f"tests = {tests}\ncpu_seconds = {seconds}\nloop_seconds = 0.2\nslack = 0.3\n"
    file.write_text(numbers, "utf-8")
    code = f"import sys; print('== 5 passed in 0.01s =='); sys.exit({ended})"

    assert budget.main(file, [sys.executable, "-c", code]) == status
