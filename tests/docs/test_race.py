"""The page about races: its example fails and passes as the page says, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.extended("processes")

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "race"

FAILS, PASSES, PROVES, RACES = (
    block.splitlines()
    for block in re.findall(
        r"^```text\n(.*?)\n```$",
        (DOCS / "testing" / "interleave.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
"""What pytest prints for the example, as it stands on the page."""


MARKER = "@pytest.mark.interleave\n"


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep coverage out of the runs: on Python 3.11 the story's lines need what it uses."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def outcome(pytester: pytest.Pytester, app: str, *options: str, marker: str = MARKER) -> list[str]:
    """Return what pytest prints for the test of an app, without the ends of replay lines."""
    pytester.makepyfile(shop=(EXAMPLE / app).read_text("utf-8"))
    test = (EXAMPLE / "test_shop.py").read_text("utf-8")
    pytester.makepyfile(test_shop=test.replace(MARKER, marker))
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    lines = pytester.runpytest_subprocess(*options).outlines
    return [re.sub(r"(AF2:).+", r"\1...", line) for line in lines]


def test_it_fails(pytester: pytest.Pytester) -> None:
    """The report of the race is the one on the page."""
    lines = outcome(pytester, "shop.py")
    begin = lines.index(FAILS[0])
    assert lines[begin : begin + len(FAILS)] == FAILS


def test_it_passes_without_the_marker(pytester: pytest.Pytester) -> None:
    """In the default order nobody sees the race."""
    assert outcome(pytester, "shop.py", marker="")[-1].strip("=").startswith(" 1 passed in")


def test_the_cured_app_passes(pytester: pytest.Pytester) -> None:
    """With the lock of the page the test passes, and says what that means."""
    assert PASSES[0] in outcome(pytester, "cured.py", "-v")


def test_the_cured_app_is_proved(pytester: pytest.Pytester) -> None:
    """Every order with up to two interruptions passes, as many as the page says."""
    marker = '@pytest.mark.interleave(policy="exhaustive:2", seeds=1000)\n'
    assert PROVES[0] in outcome(pytester, "cured.py", "-v", marker=marker)


def test_the_race_is_found_in_one_run(pytester: pytest.Pytester) -> None:
    """What the page shows of the shop is what races=True finds."""
    lines = outcome(pytester, "shop.py", marker="@pytest.mark.interleave(races=True)\n")
    begin = lines.index(RACES[0])
    assert lines[begin : begin + len(RACES)] == RACES
