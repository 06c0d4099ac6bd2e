"""Draws what `adopters` measured: a bar for each way to run tasks, to be read on a phone too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks._canvas import (
    BOLDER,
    MARGIN,
    SCHEMES,
    Canvas,
    Scheme,
    evenly,
    spanning,
    wrapped,
)
from tests.benchmarks._measure import OURS
from tests.benchmarks._report import Run
from tests.benchmarks._rows import Row
from tests.benchmarks.adopters import NO_TASK
from tests.benchmarks.adopters_page import DEFAULT, group_of, label_of, placed, rows_of, time

WIDE = 460
"""A phone shows this many pixels at four fifths of their size."""
SIZE = 14
LABELS = 186
"""Room for the names, to the left of the bars."""
VALUES = 66
"""Room for a value behind the longest bar."""
BAR = 13


Axis = Callable[[float], float]
"""Returns where a value is."""


@dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        key: Of its files.
        title: The question that it answers.
        below: What the bars are.
        figures: Names of the figures of which a bar is the sum.
        tenfold: Whether each line of the grid is ten times the one before, and not evenly apart.
        polling: Whether cases with default polling are in it.
    """

    key: str
    title: str
    below: str
    figures: Sequence[str]
    tenfold: bool = True
    polling: bool = False

    def values(self, rows: Mapping[str, Row]) -> dict[str, float]:
        """Return the length of each bar, in µs."""
        found = [rows[figure].samples for figure in self.figures if figure in rows]
        return {
            name: sum(samples[name].median for samples in found if name in samples)
            for name in (found[0] if found else ())
            if self.polling or not name.endswith(DEFAULT)
        }


CHARTS = (
    Chart(
        "task",
        "What does one task cost?",
        "CPU time of all processes, for a task that does nothing. "
        "Each line is ten times the one before.",
        ("task_cpu", "broker_cpu"),
    ),
    Chart(
        "request",
        "What does a request pay that starts a task?",
        "CPU time of the app for each request. The pale part is what it takes without a task.",
        ("request_cpu",),
        tenfold=False,
    ),
    Chart(
        "result",
        "How soon is the result there?",
        "Time from the call until its result is there, one task at a time. "
        "Each line is ten times the one before.",
        ("result",),
        polling=True,
    ),
)


def draw(chart: Chart, rows: Mapping[str, Row], scheme: Scheme) -> str:
    """Return the picture of one question; "" if nothing was measured for it."""
    values = chart.values(rows)
    if not values:
        return ""
    told = ", ".join(f"{name} {time(value)}" for name, value in values.items())
    canvas = Canvas(scheme, chart.title, f"{chart.below} {told}.", WIDE, SIZE)
    y = canvas.paragraph(MARGIN, chart.title, bold=True)
    y = canvas.paragraph(y, f"{chart.below} Less is better.", kind="muted")
    start, end = MARGIN + LABELS, WIDE - MARGIN - VALUES
    scale = (spanning if chart.tenfold else evenly)(list(values.values()), start, end)
    top = y + 8
    # The grid comes first, below the bars, and is as high as they turn out to be.
    ground = len(canvas.parts)
    bottom = bars(canvas, values, scale, top)
    drawn, canvas.parts = canvas.parts[ground:], canvas.parts[:ground]
    for value in scale.ticks():
        canvas.line((scale(value), top), (scale(value), bottom), scheme.grid)
    canvas.parts += drawn
    return canvas.done(bottom + MARGIN)


def bars(canvas: Canvas, values: Mapping[str, float], scale: Axis, y: float) -> float:
    """Draw a bar for each value from *y* down, by place; return where the last one ends."""
    pale = values.get(NO_TASK, 0.0)
    if pale:
        y = bar(canvas, NO_TASK, pale, pale, scale, y)
    for place, names in placed(values).items():
        y = canvas.paragraph(y + 6, place, kind="muted")
        for name in sorted(names, key=lambda name: values[name]):
            y = bar(canvas, name, values[name], pale, scale, y)
    return y


def bar(canvas: Canvas, name: str, value: float, pale: float, scale: Axis, y: float) -> float:
    """Draw the bar of a case from *y* down, the first part of it pale; return where it ends."""
    scheme = canvas.scheme
    ours = name.startswith(OURS)
    start, end = MARGIN + LABELS, scale(value)
    lines = wrapped(label_of(name), LABELS / (BOLDER if ours else 1), SIZE)
    high = canvas.high * len(lines) + 4
    for at, line in enumerate(lines):
        canvas.text(start - 6, y + canvas.high * (at + 1) - 3, line, anchor="end", bold=ours)
    middle = y + high / 2
    top = middle - BAR / 2
    colour = scheme.ours if ours else scheme.peer
    canvas.bar(start, top, max(end - start, 1), BAR, colour, colour)
    if pale:
        canvas.bar(start, top, scale(min(pale, value)) - start, BAR, scheme.grid, scheme.grid)
    canvas.text(end + 6, middle + 5, time(value), bold=ours, halo=True)
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
