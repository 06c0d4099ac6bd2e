"""Draws what `adopters` measured: bars for each way to run tasks, to be read on a phone too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks._canvas import (
    BOLDER,
    MARGIN,
    SCHEMES,
    Canvas,
    Scheme,
    spanning,
    wrapped,
)
from benchmarks._measure import OURS
from benchmarks._report import Run
from benchmarks._rows import Row
from benchmarks.adopters import NO_TASK
from benchmarks.adopters_page import DEFAULT, group_of, label_of, placed, rows_of, time

WIDE = 460
"""A phone shows this many pixels at four fifths of their size."""
SIZE = 14
LABELS = 186
"""Room for the names, to the left of the bars."""
VALUES = 66
"""Room for a value behind the longest bar."""
BAR = 12
"""Height of a bar."""

Axis = Callable[[float], float]
"""Returns where a value is."""


@dataclass(frozen=True)
class Bar:
    """What one bar of each case is.

    Attributes:
        figures: Names of the figures of which it is the sum.
        meaning: What it is, where there are several.
    """

    figures: Sequence[str]
    meaning: str = ""


@dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        key: Of its files.
        title: The question that it answers.
        below: What the bars are.
        bars: Those of each case; all but the first are hollow.
        polling: Whether cases with default polling are in it.
    """

    key: str
    title: str
    below: str
    bars: Sequence[Bar]
    polling: bool = False

    def values(self, rows: Mapping[str, Row]) -> dict[str, list[float]]:
        """Return the lengths of the bars of each case, in µs; none if a figure is missing."""
        needed = [bar.figures[0] for bar in self.bars]
        if not rows.keys() >= {*needed}:
            return {}
        return {
            name: [
                sum(rows[one].samples[name].median for one in bar.figures if one in rows)
                for bar in self.bars
            ]
            for name in rows[needed[0]].samples
            if self.polling or not name.endswith(DEFAULT)
        }


CHARTS = (
    Chart(
        "task",
        "What does one task cost?",
        "CPU time of all processes, for a task that does nothing.",
        [Bar(["task_cpu", "broker_cpu"])],
    ),
    Chart(
        "request",
        "What does a request pay that starts a task?",
        "Time that each request takes.",
        [
            Bar(["request_p50"], "until the client has its answer"),
            Bar(["request_cpu"], "CPU time of the app, also after the answer"),
        ],
    ),
    Chart(
        "result",
        "How soon is the result there?",
        "Time from the call until its result is there, one task at a time.",
        [Bar(["result"])],
        polling=True,
    ),
)


def draw(chart: Chart, rows: Mapping[str, Row], scheme: Scheme) -> str:
    """Return the picture of one question; "" if it was not measured."""
    values = chart.values(rows)
    if not values:
        return ""
    canvas = Canvas(scheme, chart.title, told(chart, values), WIDE, SIZE)
    y = canvas.paragraph(MARGIN, chart.title, bold=True)
    below = f"{chart.below} Less is better. Each line is ten times the one before."
    y = legend(canvas, chart, canvas.paragraph(y, below, kind="muted"))
    lengths = [length for of_case in values.values() for length in of_case]
    # The shortest bar has a length too.
    scale = spanning([min(lengths) / 2, *lengths], MARGIN + LABELS, WIDE - MARGIN - VALUES)
    top = y + 8
    # The grid comes first, below the bars, and is as high as they turn out to be.
    before = len(canvas.parts)
    bottom = cases(canvas, values, scale, top)
    drawn, canvas.parts = canvas.parts[before:], canvas.parts[:before]
    for value in tens(scale.low, scale.high):
        canvas.line((scale(value), top), (scale(value), bottom), scheme.grid)
    canvas.parts += drawn
    return canvas.done(bottom + MARGIN)


def told(chart: Chart, values: Mapping[str, Sequence[float]]) -> str:
    """Return what the bars show, in words."""
    parts = [
        f"{bar.meaning}: " * bool(bar.meaning)
        + ", ".join(f"{name} {time(lengths[at])}" for name, lengths in values.items())
        for at, bar in enumerate(chart.bars)
    ]
    return f"{chart.below} {'; '.join(parts)}."


def tens(low: float, high: float) -> list[float]:
    """Return the powers of ten from *low* to *high*."""
    return [10.0**power for power in range(-3, 13) if low <= 10.0**power <= high]


def legend(canvas: Canvas, chart: Chart, y: float) -> float:
    """Draw what the bars mean from *y* down, if there are several; return where it ends."""
    peer = canvas.scheme.peer
    for at, bar in enumerate(chart.bars):
        if bar.meaning:
            y += canvas.high + 2
            canvas.bar(MARGIN, y - BAR, 18, BAR, canvas.scheme.ground if at else peer, peer)
            canvas.text(MARGIN + 26, y - 1, bar.meaning)
    return y


def cases(canvas: Canvas, values: Mapping[str, Sequence[float]], scale: Axis, y: float) -> float:
    """Draw the bars of each case from *y* down, by place; return where the last one ends."""
    if NO_TASK in values:
        y = case(canvas, NO_TASK, values[NO_TASK], scale, y)
    for place, names in placed(values).items():
        y = canvas.paragraph(y + 6, place, kind="muted")
        for name in sorted(names, key=lambda name: values[name][0]):
            y = case(canvas, name, values[name], scale, y)
    return y


def case(canvas: Canvas, name: str, lengths: Sequence[float], scale: Axis, y: float) -> float:
    """Draw the bars of a case from *y* down; return where they end."""
    ours = name.startswith(OURS)
    lines = wrapped(label_of(name), LABELS / (BOLDER if ours else 1), SIZE)
    high = canvas.high * max(len(lines), len(lengths)) + 4
    middle = y + high / 2
    for at, line in enumerate(lines):
        baseline = middle + 5 + canvas.high * (at - (len(lines) - 1) / 2)
        canvas.text(MARGIN + LABELS - 6, baseline, line, anchor="end", bold=ours)
    edge = canvas.scheme.ours if ours else canvas.scheme.peer
    start = MARGIN + LABELS
    for at, length in enumerate(lengths):
        centre = middle + canvas.high * (at - (len(lengths) - 1) / 2)
        wide = max(scale(length) - start, 1)
        fill = canvas.scheme.ground if at else edge
        canvas.bar(start, centre - BAR / 2, wide, BAR, fill, edge)
        canvas.text(start + wide + 6, centre + 5, time(length), bold=ours and not at, halo=True)
    return y + high


def pictures(run: Run) -> dict[str, str]:
    """Return every picture by the name of its file; none without the section."""
    group = group_of(run)
    if group is None:
        return {}
    drawn = {
        f"{chart.key}-{scheme.name}.svg": draw(chart, rows_of(group), scheme)
        for chart in CHARTS
        for scheme in SCHEMES
    }
    return {name: text for name, text in drawn.items() if text}
