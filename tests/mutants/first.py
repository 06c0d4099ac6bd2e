"""Note which test failed first, for the program that waits: a plugin of pytest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the first failure into the file that the environment names."""
    told = Path(os.environ["ASYNCFRAME_FIRST_FAILURE"])
    if report.failed and not told.exists():
        told.write_text(json.dumps(report.nodeid), "utf-8")
