"""What the benchmarks report of made-up figures: tables, and their part of the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import _pictures, _report
from benchmarks.__main__ import DETAILS
from benchmarks._measure import OURS
from benchmarks._report import Run
from benchmarks._rows import Flat, Goal, Row
from tests.framework.figures import CURVE, LONG, made_up_row, made_up_run, samples
from tests.framework.refusing import told_by


@pytest.fixture
def row() -> Row:
    """Return a row of made-up figures."""
    return made_up_row()


@pytest.fixture
def run() -> Run:
    """Return a run of made-up figures."""
    return made_up_run()


# -- tables


def test_overview(row: Row) -> None:
    """A row shows ours, its floor, the best peer that is ranked, and whether the goal is met.

    A goal is missed just past its limit; without peers and goals their cells are empty.
    """
    missed = replace(row, goals=[Goal("a pool", 0.2499)])
    alone = replace(row, samples={"a pool": samples(1), OURS: samples(2)}, goals=[])

    told = _report.overview([row, missed, alone]).lines

    ours = ["Submit a task", "5.00 ms", "20.0 ms (a pool)", "10.0 ms (quick)", "0.250"]
    assert told == [
        [*ours, "≤ 0.3", "met"],
        [*ours, "≤ 0.25", "not met"],
        ["Submit a task", "40.0 ms", "20.0 ms (a pool)", "", "2.00", "", ""],
    ]


def test_goals_against_others(row: Row) -> None:
    """Goals against anything but the floor stand apart: not met, and not measured."""
    assert _report.versus([row]).lines == [
        ["Submit a task", "quick", "0.500", "≤ 0.4", "not met"],
        ["Submit a task", "absent", "", "≤ 1", "not measured"],
    ]


def test_tally(row: Row) -> None:
    """The count of goals that are met names those that were not measured, flat series as well."""
    assert _report.tally([row]) == "1 of 2 goals are met; 1 not measured."
    assert _report.tally([], [CURVE]) == "1 of 2 goals are met; 1 not measured."


def test_figures(row: Row) -> None:
    """All cases of a row are listed, the cheapest first."""
    names = [line[0] for line in _report.figures(row).lines]

    assert names == ["a sketch", OURS, "quick", "a pool", LONG]


def test_growth() -> None:
    """A curve's table has empty cells for what was not measured, and the power of growth."""
    lines = _report.growth(CURVE).lines

    assert lines[0] == [OURS, "60.0", "60.0", "60.0", "60.0", "0.00", "1.00", "≤ 1.5", "met"]
    assert lines[-1] == [
        *["a scan", "", "100", "1,000", "100,000", "1.00"],
        *["1,000, 1,017 beside a deque", "≤ 1.5", "not met"],
    ]


def test_rise() -> None:
    """The rise is from the least point to any later one, not to an earlier one."""
    expected: list[tuple[list[float | None], float | None]] = [
        ([4.0, 2.0, 3.0, 1.0], 1.5),
        ([8.0, 4.0, 2.0, 1.0], 0.5),
        ([None, 2.0, None, 5.0], 2.5),
        ([None, 2.0, None, None], None),
    ]
    found = [replace(CURVE, series={OURS: costs}).rise(OURS) for costs, _ in expected]
    assert found == [rise for _, rise in expected]


def test_flat_beside_another() -> None:
    """A series that rises is flat if another one rises as much."""
    curve = replace(CURVE, series={OURS: [2.0, 4.0, 6.0, 8.0], "other": [1.0, 2.0, 3.0, 4.0]})

    assert curve.outcome(Flat(OURS)) is False
    assert curve.outcome(Flat(OURS, beside="other")) is True
    assert curve.outcome(Flat(OURS, beside="absent")) is None


def test_numbers() -> None:
    """Numbers have three digits that count, and thousands parted."""
    expected = {
        0: "0",
        0.00104: "0.00104",
        0.2: "0.200",
        7.125: "7.12",
        99.96: "100.0",
        1_747.2: "1,747",
        float("inf"): "inf",
    }
    assert {value: _report.number(value) for value in expected} == expected


def test_text(run: Run) -> None:
    """The text names the machine and the versions, and says that only ratios count."""
    text = _report.as_text(run)

    assert text.startswith(
        "CPython 3.11.7, Linux x86_64, 2 cores, 3 rounds, 2026-11-25\nhuey 3.5\n"
        "Only ratios taken within one run can be compared; the rest is there for scale.\n"
    )
    assert text.endswith("2 of 4 goals are met; 2 not measured.")


def test_cells() -> None:
    """Columns of a text table begin one below the other, and a bar in a cell parts nothing."""
    table = _report.Table(["a", "bbb"], [["cccc", "d"]])

    assert table.as_text() == "a     bbb\n----  ---\ncccc  d"
    assert r"| a \| b |" in _report.Table(["head"], [["a | b"]]).as_markdown()


def test_samples_file(run: Run) -> None:
    """A run comes back from its file as it was."""
    run.raised.append("lag")

    assert _report.from_json(_report.as_json(run)) == run


# -- the page


PAGE = f"before\n\n{_report.BEGIN}\n\n{_report.END}\n\nafter\n"


def test_page_keeps_other_pythons() -> None:
    """A Python's part replaces its own and stands among the others in order of versions."""
    page = PAGE
    for minor, part in [("3.13", "late"), ("3.9", "early"), ("3.11", "old"), ("3.11", "new")]:
        page = _report.replaced(page, minor, part)

    inside = page.removeprefix(f"before\n\n{_report.BEGIN}").removesuffix(
        f"{_report.END}\n\nafter\n"
    )
    told = [line for line in inside.splitlines() if line and not line.startswith("<!--")]
    assert told == ["early", "new", "late"]


def test_page_settles(run: Run) -> None:
    """Writing the same part twice changes nothing."""
    part = _report.as_markdown(run, pictures=True)
    once = _report.replaced(PAGE, "3.11", part)

    assert _report.replaced(once, "3.11", part) == once


def test_page_without_markers() -> None:
    """A page that lacks a marker, or has it twice or astray, is refused with its name.

    The page of the documentation has both.
    """
    once = (
        f"; it must stand there once, with '{_report.BEGIN}' before and '{_report.END}' after "
        "what was measured"
    )
    refused = {
        PAGE.replace(_report.BEGIN, ""): f"the page has '{_report.BEGIN}' 0 times{once}",
        PAGE.replace(_report.END, ""): f"the page has '{_report.END}' 0 times{once}",
        PAGE + _report.END: f"the page has '{_report.END}' 2 times{once}",
        f"{_report.END}{_report.BEGIN}": (
            f"the page has '{_report.END}' before '{_report.BEGIN}'; swap the two"
        ),
    }
    told = [told_by(_report.replaced, page, "3.11", "part") for page in refused]
    assert told == [(ValueError, message) for message in refused.values()]

    assert "part" in _report.replaced(DETAILS.read_text("utf-8"), "3.11", "part")


def test_page(run: Run) -> None:
    """The page shows each picture that is drawn, and tells of no goals, met or not.

    Those are for who measures. Of a Python without pictures it has none.
    """
    pictured, plain = (_report.as_markdown(run, pictures=pictures) for pictures in (True, False))

    assert all(f'"performance/{name}"' in pictured for name in _pictures.pictures(run))
    assert "<picture>" not in plain
    assert "| what | ours | floor | best peer | ours / floor |\n" in plain
    assert "goal" not in plain
    assert "met" not in plain.split()


def test_notes_are_shared(row: Row) -> None:
    """Rows with one note are named before it, and those without are not."""
    rows = [row, replace(row, title="Again"), replace(row, title="Silent", note="")]

    assert _report.notes(rows) == "- *Submit a task; Again*: Nothing but ours keeps a status."
