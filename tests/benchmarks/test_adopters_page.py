"""What the first page on performance says of made-up figures, and that what it links to exists."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import adopters_page, adopters_pictures
from benchmarks.__main__ import PAGE
from benchmarks._canvas import LIGHT
from benchmarks._measure import OURS
from benchmarks._report import END, Run
from benchmarks.adopters import APP, CELERY, FIGURES, NO_TASK, WORKERS
from tests.framework.figures import made_up_adopters, made_up_run

TIME = re.compile(r"[\d.,]+\u00a0(?:µs|ms|s)\b")


@pytest.fixture
def run() -> Run:
    """Return a run of the section with made-up figures."""
    return replace(made_up_run(), groups=[made_up_adopters()], curves=[])


def test_sentences_say_what_the_tables_say(run: Run) -> None:
    """Each figure in a sentence stands in a table too."""
    sentences, tables = adopters_page.as_markdown(run, pictures=True).split("## In figures")

    cited = set(TIME.findall(sentences))
    assert len(cited) > 10
    assert cited <= set(TIME.findall(tables))


def test_not_measured(run: Run) -> None:
    """The page says what was not measured, and why; without the section there is nothing."""
    part = adopters_page.as_markdown(run, pictures=True)
    assert "\n- Not measured: ARQ, because it is not there.\n" in part

    without = made_up_run()
    assert adopters_page.as_markdown(without, pictures=True) == ""
    assert adopters_pictures.pictures(without) == {}


def test_sentence(run: Run) -> None:
    """A sentence is about ours, with others beside it; what was not measured is left out."""
    (group,) = run.groups
    rows = adopters_page.rows_of(group)
    answer = adopters_page.Answer("task_cpu", "One takes {}.", (OURS, CELERY, "ARQ"))

    assert answer.told(rows) == "- One takes **24\u00a0µs**. Beside it: 6.1\u00a0ms (Celery)."
    assert replace(answer, names=[OURS]).told(rows) == "- One takes **24\u00a0µs**."
    assert replace(answer, names=["ARQ", CELERY]).told(rows) == ""


def test_places(run: Run) -> None:
    """Cases stand under the place where their tasks run, in the order of the page."""
    placed = adopters_page.placed([CELERY, NO_TASK, "asyncframe on Celery", OURS, "else"])

    assert placed == {APP: [OURS], WORKERS: ["asyncframe on Celery", CELERY]}


def test_pictures_are_shown(run: Run) -> None:
    """The page shows each picture that was drawn, and no other, if only some rows were measured.

    Of a Python without pictures it has tables that a reader folds out.
    """
    (group,) = run.groups
    for figures in (set(FIGURES), {"request_cpu", "request_p50"}, {"request_cpu"}, {"memory"}):
        rows = [row for name, row in adopters_page.rows_of(group).items() if name in figures]
        some = replace(run, groups=[replace(group, rows=rows)])

        part = adopters_page.as_markdown(some, pictures=True)

        shown = set(re.findall(r'"performance/adopters/([\w-]+\.svg)"', part))
        assert shown == adopters_pictures.pictures(some).keys(), figures

    part = adopters_page.as_markdown(run, pictures=False)
    assert part.startswith("<details>\n<summary>The same on Python 3.11</summary>")
    assert "<picture>" not in part


def test_numbers() -> None:
    """Times have two digits that count, and a unit that suits them; rates have three digits."""
    expected = {
        0.04: "0.0 µs",
        9.94: "9.9 µs",
        9.96: "10 µs",
        999.0: "999 µs",
        1e3: "1.0 ms",
        2.5e6: "2.5 s",
    }
    assert {value: adopters_page.time(value) for value in expected} == expected
    assert adopters_page.rate(12.345) == "81,000"


def test_bars(run: Run) -> None:
    """Bars begin at one place and are logarithmic; those but the first of a case are hollow."""
    chart = next(one for one in adopters_pictures.CHARTS if one.key == "request")
    (group,) = run.groups
    rows = dict(adopters_page.rows_of(group))
    for figure, lengths in {"request_p50": (10.0, 100.0), "request_cpu": (100.0, 1_000.0)}.items():
        samples = {
            name: replace(rows[figure].samples[name], values=[length], floors=[1.0])
            for name, length in zip((NO_TASK, OURS), lengths, strict=True)
        }
        rows[figure] = replace(rows[figure], samples=samples)
    drawn = ET.fromstring(adopters_pictures.draw(chart, rows, LIGHT))

    bars = [one.attrib for one in drawn.iter("{http://www.w3.org/2000/svg}rect")][3:]
    assert {one["x"] for one in bars} == {bars[0]["x"]}
    assert [(one["fill"], one["stroke"]) for one in bars] == [
        (LIGHT.peer, LIGHT.peer),
        (LIGHT.ground, LIGHT.peer),
        (LIGHT.ours, LIGHT.ours),
        (LIGHT.ground, LIGHT.ours),
    ]
    tenth, middle, same, most = (float(one["width"]) for one in bars)
    assert middle == same
    assert most - middle == pytest.approx(middle - tenth, abs=0.2)


# -- what is written by hand


@pytest.fixture(scope="module")
def written() -> str:
    """Return what stands below the measured part of the page."""
    return PAGE.read_text("utf-8").split(END)[1]


def anchors(page: Path) -> set[str]:
    """Return what links to the headings of a page may end with."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere(written: str) -> None:
    """Each link to another page leads to a page and a heading that are there."""
    links = re.findall(r"\]\(([^)#]+)#?([^)]*)\)", written)

    assert len(links) > 20
    for name, anchor in links:
        page = PAGE.parent / name
        assert page.is_file(), name
        assert not anchor or anchor in anchors(page), f"{name} has no {anchor}"


def test_what_we_give_is_shown(written: str) -> None:
    """Whatever the table says of ours, but for what we lack, leads to a page that shows it."""
    lines = [line.split("|") for line in written.splitlines() if line.startswith("| ")][2:]
    ours = {cells[1].strip(): cells[2].strip() for cells in lines}

    assert ours.pop("groups and chains") == "no"
    assert len(ours) > 15
    assert [what for what, cell in ours.items() if not re.match(r"\[.+\]\(\w", cell)] == []


def test_sources_are_named(written: str) -> None:
    """Each source that the page refers to has its address, and none has it in vain."""
    referred = re.findall(r"\[[^\]]+\]\[([\w-]*)\]", written)
    addresses = re.findall(r"^\[([\w-]+)\]: https://\S+$", written, re.MULTILINE)

    assert {name or "Flower" for name in referred} == set(addresses)
