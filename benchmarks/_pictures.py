"""Draws rows as bars and curves as lines, in SVG, for light and for dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks._canvas import (
    BOLDER,
    GAP,
    LINE,
    MARGIN,
    SCHEMES,
    SHAPES,
    WIDTH,
    Canvas,
    Point,
    Scale,
    Scheme,
    spanning,
    tick_label,
    width,
    wrapped,
)
from benchmarks._measure import OURS
from benchmarks._report import Group, Run, amount, floor_goal, limit, number, outcome, ranked
from benchmarks._rows import Curve, Row

LABELS = 216
"""Width of the column of names beside the bars."""
VALUES = 56
"""Room for a value at either end of the bars."""
TICKS = 68
"""Room for the numbers beside a vertical axis."""
LEADER = 32
"""Room for the lines that lead from curves to their names."""
PLOT = 280
"""Height of curves, unless their names need more."""


def height(lines: Sequence[str]) -> float:
    """Return how much room the lines of a name take from top to bottom."""
    return len(lines) * LINE + GAP


def stack(
    canvas: Canvas,
    x: float,
    middle: float,
    lines: Sequence[str],
    *,
    anchor: str = "start",
    bold: bool,
) -> None:
    """Write *lines* one below the other, about *middle*."""
    for at, line in enumerate(lines):
        baseline = middle + 4 + LINE * (at - (len(lines) - 1) / 2)
        canvas.text(x, baseline, line, anchor=anchor, bold=bold)


# ------------------------------------------------------------------ bars


def draw_bars(group: Group, scheme: Scheme) -> str:
    """Return a picture of how the cases of each row compare with its floor."""
    ratios = [
        value
        for row in group.rows
        for value in [
            1.0,
            *(samples.ratio for samples in row.samples.values()),
            *(goal.limit for goal in [floor_goal(row)] if goal),
        ]
    ]
    start = MARGIN + LABELS + VALUES
    scale = spanning(ratios, start, WIDTH - MARGIN - VALUES)
    canvas = Canvas(scheme, group.title, " ".join(map(told, group.rows)))
    y = canvas.paragraph(MARGIN, f"{group.title}: ratios to the floor", bold=True)
    y = canvas.paragraph(
        y, "Further to the left is cheaper. The scale is logarithmic.", kind="muted"
    )
    y = legend(canvas, y + 8, any(row.unranked for row in group.rows))
    for row in group.rows:
        y = panel(canvas, row, scale, y + 20)
    return canvas.done(y + MARGIN)


def told(row: Row) -> str:
    """Return what the bars of *row* show, in words."""
    ratios = [f"{name} {number(row.samples[name].ratio)}" for name in ranked(row)]
    return f"{row.title}: {', '.join(ratios)}."


def under(row: Row) -> str:
    """Return what is said below the title of *row*."""
    floor = f"1 is {row.floor} ({amount(row, row.floor)})."
    goal = floor_goal(row)
    return f"{floor} Goal: at most {limit(goal)}, {outcome(row, goal)}." if goal else floor


def legend(canvas: Canvas, y: float, unranked: bool) -> float:
    """Draw what the colours mean from *y* down; return where it ends."""
    scheme = canvas.scheme
    x: float = MARGIN
    entries = [(OURS, scheme.ours, scheme.ours), ("peers", scheme.peer, scheme.peer)]
    if unranked:
        entries.append(("sketches and variants", "none", scheme.peer))
    for name, fill, edge in entries:
        canvas.bar(x, y + 3, 18, 10, fill, edge)
        canvas.text(x + 24, y + 12, name)
        x += 24 + width(name) + 16
    for name, colour, dashed in (("floor", scheme.text, False), ("goal", scheme.goal, True)):
        canvas.line((x, y + 8), (x + 18, y + 8), colour, dashed=dashed)
        canvas.text(x + 24, y + 12, name)
        x += 24 + width(name) + 16
    return y + LINE


def panel(canvas: Canvas, row: Row, scale: Scale, y: float) -> float:
    """Draw one row from *y* down; return where it ends."""
    scheme = canvas.scheme
    y = canvas.paragraph(y, row.title, bold=True)
    top = canvas.paragraph(y, under(row), kind="muted") + 4
    labels = {name: wrapped(name, LABELS / BOLDER) for name in ranked(row) if name != row.floor}
    # Where the middle of each bar is: below those of the labels above it.
    middles: dict[str, float] = {}
    bottom = top + 2
    for name, lines in labels.items():
        middles[name] = bottom + height(lines) / 2
        bottom += height(lines)
    axis(canvas, scale, top, bottom)
    for name, lines in labels.items():
        one, here, middle = scale(1), scale(row.samples[name].ratio), middles[name]
        stack(canvas, MARGIN + LABELS, middle, lines, anchor="end", bold=name == OURS)
        edge = scheme.ours if name == OURS else scheme.peer
        fill = scheme.ground if name in row.unranked else edge
        canvas.bar(min(one, here), middle - 6, max(abs(here - one), 1), 12, fill, edge)
    canvas.line((scale(1), top), (scale(1), bottom), scheme.text)
    if goal := floor_goal(row):
        limit = scale(goal.limit)
        canvas.line((limit, top), (limit, bottom), scheme.goal, dashed=True)
    # After the lines, which the values must cover.
    for name, middle in middles.items():
        ratio = row.samples[name].ratio
        x, anchor = (scale(ratio) + 6, "start") if ratio >= 1 else (scale(ratio) - 6, "end")
        canvas.text(x, middle + 4, number(ratio), anchor=anchor, bold=name == OURS, halo=True)
    return bottom + LINE


def axis(canvas: Canvas, scale: Scale, top: float, bottom: float) -> None:
    """Draw the lines of the grid, and below them what they mean."""
    for value in scale.ticks():
        canvas.line((scale(value), top), (scale(value), bottom), canvas.scheme.grid)
        canvas.text(scale(value), bottom + 13, tick_label(value), anchor="middle", kind="muted")


# ------------------------------------------------------------------ curves


def draw_curve(curve: Curve, scheme: Scheme) -> str:
    """Return a picture of how the series of a curve grow."""
    series = {
        name: [(x, y) for x, y in zip(curve.xs, values, strict=True) if y is not None]
        for name, values in curve.series.items()
    }
    series = {name: points for name, points in series.items() if points}
    canvas = Canvas(scheme, curve.title, told_of_curve(curve))
    y = canvas.paragraph(MARGIN, curve.title, bold=True)
    if curve.note:
        y = canvas.paragraph(y, curve.note, kind="muted")
    top = canvas.paragraph(y + 4, f"{curve.unit}, by {curve.x_label}", kind="muted") + 12
    labels = {name: wrapped(name, LABELS / BOLDER) for name in series}
    bottom = top + max(PLOT, sum(map(height, labels.values())))
    across = spanning(curve.xs, MARGIN + TICKS, WIDTH - MARGIN - LABELS - LEADER)
    up = spanning([y for points in series.values() for _, y in points], bottom, top)
    grid(canvas, across, up, curve.xs)
    middles = parted(
        {name: (up(points[-1][1]), height(labels[name])) for name, points in series.items()},
        top,
        bottom,
    )
    looks = styles(series, scheme)
    # Ours last, on top of the others.
    for name in sorted(series, key=lambda name: name == OURS):
        colour, shape = looks[name]
        points = [(across(x), up(y)) for x, y in series[name]]
        canvas.path(points, colour, 3 if name == OURS else 1.5)
        for x, y in points:
            canvas.mark(x, y, shape, colour)
        start = WIDTH - MARGIN - LABELS
        canvas.line((points[-1][0] + 8, points[-1][1]), (start - 6, middles[name]), colour)
        stack(canvas, start, middles[name], labels[name], bold=name == OURS)
    return canvas.done(bottom + LINE + MARGIN)


def told_of_curve(curve: Curve) -> str:
    """Return what the lines of *curve* show, in words."""
    series = [
        ", ".join(
            f"{number(value)} at {x:,}"
            for x, value in zip(curve.xs, values, strict=True)
            if value is not None
        )
        for values in curve.series.values()
    ]
    named = [f"{name}: {text}." for name, text in zip(curve.series, series, strict=True)]
    return f"{curve.unit}, by {curve.x_label}. {' '.join(named)}"


def grid(canvas: Canvas, across: Scale, up: Scale, xs: Sequence[int]) -> None:
    """Draw the lines of the grid, and what they mean below and to the left."""
    colour = canvas.scheme.grid
    left, bottom = across.start, up.start
    for value in up.ticks():
        at = up(value)
        canvas.line((left, at), (across.end, at), colour)
        canvas.text(left - 6, at + 4, tick_label(value), anchor="end", kind="muted")
    free = 0.0
    for x in xs:
        at, label = across(x), tick_label(x)
        canvas.line((at, bottom), (at, up.end), colour)
        if at - width(label) / 2 >= free:
            canvas.text(at, bottom + LINE + 2, label, anchor="middle", kind="muted")
            free = at + width(label) / 2 + GAP


def styles(names: Iterable[str], scheme: Scheme) -> dict[str, tuple[str, str]]:
    """Return a colour and a shape for each name; ours has its own."""
    others = [name for name in names if name != OURS]
    looks = {
        name: (scheme.lines[at % len(scheme.lines)], SHAPES[1 + at % (len(SHAPES) - 1)])
        for at, name in enumerate(others)
    }
    return {OURS: (scheme.ours, SHAPES[0]), **looks}


def parted(wanted: Mapping[str, Point], top: float, bottom: float) -> dict[str, float]:
    """Return where the middle of each name goes, such that none touches another.

    Args:
        wanted: By name, where its middle should be and how high it is.
        top: Above which there is no room.
        bottom: Below which there is none.
    """
    order = sorted(wanted, key=lambda name: wanted[name][0])
    middles = {}
    free = top
    for name in order:
        middle, high = wanted[name]
        middles[name] = max(middle, free + high / 2)
        free = middles[name] + high / 2
    free = bottom
    for name in reversed(order):
        high = wanted[name][1]
        middles[name] = min(middles[name], free - high / 2)
        free = middles[name] - high / 2
    return middles


# ------------------------------------------------------------------ files


def pictures(run: Run) -> dict[str, str]:
    """Return every picture of *run* by the name of its file."""
    drawn = {}
    for scheme in SCHEMES:
        for group in run.groups:
            if group.rows:
                drawn[f"{group.key}-{scheme.name}.svg"] = draw_bars(group, scheme)
        for curve in run.curves:
            drawn[f"growth-{curve.key}-{scheme.name}.svg"] = draw_curve(curve, scheme)
    return drawn


def write(drawn: Mapping[str, str], folder: Path) -> None:
    """Put pictures into *folder*, in place of those that were there.

    Args:
        drawn: By the name of their file.
        folder: Is made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.svg"):
        if stale.name not in drawn:
            stale.unlink()
    for name, text in drawn.items():
        (folder / name).write_text(text, encoding="utf-8")
