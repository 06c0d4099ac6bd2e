"""What runs pytest over a file of tests, and sections of the report of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import pytest

Runs: TypeAlias = Callable[..., pytest.RunResult]
"""Runs the source of some tests, with options of pytest."""


def lines_of(result: pytest.RunResult, title: str) -> list[str]:
    """Return the lines of a section of the report."""
    lines = result.outlines
    begins = next(i for i, line in enumerate(lines) if re.fullmatch(rf"-+ {title} -+", line))
    ends = (i for i in range(begins + 1, len(lines)) if re.match(r"-{5}|={5}|_{5}", lines[i]))
    return lines[begins + 1 : next(ends)]
