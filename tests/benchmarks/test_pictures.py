"""The benchmarks' pictures of made-up figures: where things are, and in what colours."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import _canvas, _pictures, adopters_pictures
from benchmarks._measure import OURS
from benchmarks._report import Group
from tests.framework.figures import made_up_adopters, made_up_row, made_up_run, samples

few = settings(max_examples=30)
"""For what is drawn, where nothing depends on it but a picture."""

SVG = "{http://www.w3.org/2000/svg}"


def boxes(picture: ET.Element) -> Iterator[tuple[str, float, float, float, float]]:
    """Give a name, left, top, right and bottom of each text of a picture."""
    size = float(picture.attrib["font-size"])
    for text in picture.iter(f"{SVG}text"):
        assert text.text is not None
        wide = _canvas.width(text.text, size)
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]]
        left = float(text.attrib["x"]) - share * wide
        bottom = float(text.attrib["y"]) + 3
        yield text.text, left, bottom - size, left + wide, bottom


NAMES = [
    *("submission-light", "submission-dark", "growth-cleanup-light"),
    *("task-light", "request-light", "result-light"),
]


@pytest.fixture(scope="module")
def drawn() -> dict[str, ET.Element]:
    """Return each kind of picture, parsed."""
    adopted = replace(made_up_run(), groups=[made_up_adopters()])
    found = _pictures.pictures(made_up_run()) | adopters_pictures.pictures(adopted)
    return {name: ET.fromstring(found[f"{name}.svg"]) for name in NAMES}


def test_pictures_are_accessible(drawn: dict[str, ET.Element]) -> None:
    """A picture is an image with a title, and a description that tells its figures."""
    for name, picture in drawn.items():
        title, description = picture.find(f"{SVG}title"), picture.find(f"{SVG}desc")

        assert title is not None, name
        assert description is not None, name
        labels = [title.get("id"), description.get("id")]
        assert picture.attrib["role"] == "img", name
        assert picture.attrib["aria-labelledby"].split() == labels, name
        assert re.search(rf"\b{OURS}( 0.250|: 60.0 at| 24 µs| 48 µs)", f"{description.text}"), name


def test_all_is_inside(drawn: dict[str, ET.Element]) -> None:
    """Every bar and every text, however long, lies inside its picture."""
    for name, picture in drawn.items():
        wide, high = float(picture.attrib["width"]), float(picture.attrib["height"])
        bars = [
            (left, top, left + float(bar.attrib["width"]), top + float(bar.attrib["height"]))
            for bar in picture.iter(f"{SVG}rect")
            for left, top in [(float(bar.get("x", 0)), float(bar.get("y", 0)))]
        ]
        texts = [box for _, *box in boxes(picture)]

        for left, top, right, bottom in [*bars, *texts]:
            assert 0 <= left <= right <= wide, name
            assert 0 <= top <= bottom <= high, name


def test_texts_are_apart(drawn: dict[str, ET.Element]) -> None:
    """No text of a picture lies on another."""
    touching = [
        (picture, one[0], other[0])
        for picture, element in drawn.items()
        for one, other in itertools.combinations(boxes(element), 2)
        if not (
            other[3] <= one[1] or one[3] <= other[1] or other[4] <= one[2] or one[4] <= other[2]
        )
    ]
    assert not touching, touching


def test_bars_are_logarithmic() -> None:
    """A tenth of the floor and ten times the floor have bars of one length, to either side."""
    cases = {"a pool": samples(1), OURS: samples(0.1), "slow": samples(10)}
    group = Group("made", "Made up", [replace(made_up_row(), samples=cases, unranked=[])])
    picture = ET.fromstring(_pictures.draw_bars(group, _canvas.LIGHT))

    *_, ours, slow = picture.iter(f"{SVG}rect")
    assert ours.attrib["fill"] == _canvas.LIGHT.ours
    assert float(ours.attrib["width"]) == pytest.approx(float(slow.attrib["width"]), abs=0.2)
    right = float(ours.attrib["x"]) + float(ours.attrib["width"])
    assert right == pytest.approx(float(slow.attrib["x"]), abs=0.2)


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb``, as WCAG 2 defines it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast() -> None:
    """Texts have the contrast that WCAG 2 asks of texts, bars and lines that of graphics."""

    def contrast(colour: str, ground: str) -> float:
        dark, light = sorted([luminance(colour), luminance(ground)])
        return (light + 0.05) / (dark + 0.05)

    for scheme in _canvas.SCHEMES:
        graphics = scheme.ours, scheme.peer, scheme.goal, *scheme.lines
        texts = scheme.text, scheme.muted
        assert min(contrast(one, scheme.ground) for one in texts) >= 4.5, scheme.name
        assert min(contrast(one, scheme.ground) for one in graphics) >= 3, scheme.name


def test_files(tmp_path: Path) -> None:
    """Pictures replace those of an earlier run, and leave other files alone."""
    run = made_up_run()
    (tmp_path / "gone-light.svg").touch()
    (tmp_path / "notes.txt").touch()

    _pictures.write(_pictures.pictures(run), tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", *_pictures.pictures(run)}


@few
@given(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"])), st.integers(30, 300)
)
def test_wrapped(text: str, room: int) -> None:
    """Wrapped lines fit the room and lose nothing but spaces."""
    lines = _canvas.wrapped(text, room)

    assert all(_canvas.width(line) <= room for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@few
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 200), st.integers(5, 40)))
)
def test_parted(wanted: dict[str, tuple[int, int]]) -> None:
    """Names that fit are put between top and bottom, none on another."""
    bottom = max(200, sum(high for _, high in wanted.values()))

    middles = _pictures.parted(wanted, 0, bottom)

    spans = sorted(
        (middles[name] - high / 2, middles[name] + high / 2) for name, (_, high) in wanted.items()
    )
    edges = [0, *itertools.chain.from_iterable(spans), bottom]
    assert all(one <= other for one, other in itertools.pairwise(edges))


@few
@given(st.lists(st.floats(1e-9, 1e9), min_size=1))
def test_scales(values: list[float]) -> None:
    """A scale holds all values and has two ticks at least."""
    scale = _canvas.spanning(values, 0, 100)

    assert all(-0.1 <= scale(value) <= 100.1 for value in values)
    assert scale.low <= min(values) * 1.002
    assert max(values) * 0.998 <= scale.high
    assert len(scale.ticks()) >= 2
