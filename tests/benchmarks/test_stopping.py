"""The table of how a server stops: what each of its lines says."""

from __future__ import annotations

import signal

from benchmarks import stopping


def test_a_line_of_the_table() -> None:
    """A line has a cell for each column, with rounded figures."""
    found = {
        "seconds": 2.236,
        "blocked": 0.0171,
        "collected": 0.0049,
        "lines": 1_019,
        "longest": 192,
        "megabytes": 64.7,
    }
    line = stopping.as_row("queued", 10_000, signal.SIGTERM, found)
    assert line == "| 10,000 | queued | SIGTERM | 2.24 | 17 | 5 | 1,019 | 192 | 65 |"
    assert line.count("|") == stopping.HEAD.count("|")
