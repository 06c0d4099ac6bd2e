"""The benchmarks as a program: what is run and written, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as bench
from benchmarks import _report
from benchmarks._rows import Row
from tests.framework.figures import made_up_row

PAGE = f"{_report.BEGIN}\n\n{_report.END}\n"


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[int]]:
    """Put two sections in the place of all; return how often each was run, by rounds."""
    ran: dict[str, list[int]] = {"good": [], "bad": []}

    def good(rounds: int, *, peers: bool) -> Iterator[Row]:
        ran["good"].append(rounds)
        yield made_up_row()
        yield replace(made_up_row(), key="other")

    def bad(rounds: int, *, peers: bool) -> Iterator[Row]:
        ran["bad"].append(rounds)
        if rounds:
            raise RuntimeError("broken")
        yield made_up_row()

    for name, rows in (("good", good), ("bad", bad)):
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", SimpleNamespace(rows=rows))
    monkeypatch.setattr(bench, "TITLES", {"bad": "Bad", "good": "Good"})
    monkeypatch.setattr(bench, "KEYS", {"bad": ("third",), "good": ("submit", "other")})
    monkeypatch.setattr(bench, "RAW", tmp_path / "raw")
    monkeypatch.setattr(bench, "DETAILS", tmp_path / "page.md")
    monkeypatch.setattr(bench, "PICTURES", tmp_path / "pictures")
    bench.DETAILS.write_text(PAGE)
    return ran


def test_missed_goals_are_no_failure(
    sections: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with a missed goal ends with 0, shows its table, and writes no page unasked."""
    assert bench.main(["--only", "good", "--rounds", "2"]) == 0

    assert sections == {"good": [2], "bad": []}
    assert "not met" in capsys.readouterr().out
    assert bench.DETAILS.read_text() == PAGE


def test_section_that_raises(
    sections: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A section that raises leaves the others, ends the run with 1, and spares the page."""
    assert bench.main(["--write"]) == 1

    told = capsys.readouterr()
    assert "RuntimeError: broken" in told.err
    assert "These sections raised and may lack rows: bad." in told.out
    assert sections["good"] == [7]
    assert bench.DETAILS.read_text() == PAGE


def test_written_and_saved(
    sections: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is not complete is written if that is asked for.

    Its samples can be reported again without measuring.
    """
    assert bench.main(["--only", "good", "--no-write"]) == 0
    (file,) = bench.RAW.iterdir()
    before = capsys.readouterr().out

    assert bench.main(["--saved", str(file)]) == 0

    assert capsys.readouterr().out == before
    assert sections["good"] == [7]
    assert bench.DETAILS.read_text() == PAGE

    assert bench.main(["--only", "good", "--write"]) == 0

    assert "Submit a task" in bench.DETAILS.read_text()


def test_one_row(sections: dict[str, list[int]], capsys: pytest.CaptureFixture[str]) -> None:
    """A row that was asked for is the only one that is reported."""
    assert bench.main(["--only", "submit"]) == 0

    assert "other" not in capsys.readouterr().err


def test_row_that_is_gone(
    sections: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A row that its section does not give any more is an error."""
    monkeypatch.setitem(bench.KEYS, "good", ("submit", "gone"))

    assert bench.main(["--only", "gone"]) == 1

    assert "LookupError: good has no gone" in capsys.readouterr().err


def test_unknown_name(sections: dict[str, list[int]], capsys: pytest.CaptureFixture[str]) -> None:
    """A name of nothing is refused with a list of what there is."""
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", "submit,nothing"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(
        "nothing is named 'nothing'; sections and their rows are:\n"
        "  bad: third\n  good: submit, other\n"
    )


def test_sections_come_in_order(sections: dict[str, list[int]]) -> None:
    """Sections are run in one order, whole if they or nothing was named."""
    assert bench.wanted([]) == {"bad": set(), "good": set()}
    assert bench.wanted(["submit", "bad"]) == {"bad": set(), "good": {"submit"}}
    assert bench.wanted(["submit", "good"]) == {"good": set()}
