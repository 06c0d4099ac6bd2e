"""The tests of the example's buttons, where users deploy: on databases and on Celery."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.extended("servers")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("back_end", ["sqlite", "postgresql", "celery"])
def test_on(pytester: pytest.Pytester, back_end: str) -> None:
    """What a button starts ends there as it does on memory, and no sooner."""
    # These two wait 40 seconds for nothing else.
    left_out = "not slow and not delayed"
    options = [f"--rootdir={ROOT}", "-n0", "-pno:cacheprovider", "-k", left_out, "-v"]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        ROOT / "pyproject.toml",
        *options,
    ]
    file = ROOT / "tests/framework/test_demo.py"
    result = pytester.run(*command, file, f"--asyncframe-on={back_end}")
    said = result.stdout.str()
    assert result.parseoutcomes() == {"passed": 5, "deselected": 3}, said
    assert said.count(f"(passes on {back_end})") == 3, said
