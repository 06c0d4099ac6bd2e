"""The table of what open streams cost: what each of its lines says."""

from __future__ import annotations

from benchmarks import streams


def test_a_line_of_the_table() -> None:
    """A line has a cell for each column, with rounded figures."""
    found = {
        "memory": 24_932.0,
        "busy": 0.3549,
        "p50": 0.00012,
        "p99": 0.0679,
        "events": 0.94,
        "age50": 0.0182,
        "age99": 0.0,
    }
    line = streams.as_row("streams", "many", 5_000, found)
    assert line.startswith("| 5,000 | streams | a task each, 1 report a second | 24.9 | 35 | 0.1 |")
    assert line.endswith("| 0.1 | 67.9 | 0.9 | 18 |  |")
    assert line.count("|") == streams.HEAD.count("|")
