"""Draws the map of docs/explanation/built.md from the code: ``python -m tests.docs.pictures``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks._canvas import (
    BOLDER,
    LINE,
    MARGIN,
    SCHEMES,
    WIDTH,
    Canvas,
    Scheme,
    width,
    wrapped,
)
from tests.docs.rooms import ROOT, imports, layers, purpose, title
from tests.docs.tracing import PACKAGES, room_of

PAGE = ROOT / "docs" / "explanation" / "built.md"
FOLDER = PAGE.with_suffix("")

FACES = (
    "framework/__init__.py",
    "framework/testing.py",
    "framework/engines",
    "framework/stores",
    "framework/protocols",
)
"""What the plugin imports of the framework; below its own layers in the picture."""

COLUMN = 18
"""From one room's column to the next."""
TEXT = 520
"""Most room for a line of text."""
SIDE = 10
"""Of the square where a room's row meets its column."""
PAD = 9
"""Above and below a room's text."""
GAP = 5
"""Between two layers."""


def named() -> list[tuple[str, str]]:
    """Return each class that the page's tables name, with its file."""
    parts = re.split(r"^In `(\w+)/`:$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return [
        (name, f"{package}/{file}")
        for package, table in zip(parts[1::2], parts[2::2], strict=True)
        for name, file in re.findall(r"^\| `(\w+)` \| `([\w/.]+)` \|", table, re.MULTILINE)
    ]


def shown(package: str) -> list[list[str]]:
    """Return the rooms of a package's picture, layer by layer."""
    return [*layers(package), *([] if package == "framework" else [list(FACES)])]


def arrows(package: str) -> list[tuple[str, str]]:
    """Return the imports that a package's picture shows, from room to room."""
    own = [room for layer in layers(package) for room in layer]
    order = [room for layer in shown(package) for room in layer]
    return sorted(
        (pair for pair in imports() if pair[0] in own),
        key=lambda pair: (order.index(pair[0]), order.index(pair[1])),
    )


# ------------------------------------------------------------------ where things are


@dataclass(frozen=True)
class Row:
    """A room in a picture.

    Attributes:
        name: What it is called there.
        colour: That of its square, its column, and the dots in it.
        top: Where its text begins.
        x: Its column.
        classes: Lines of names.
        purpose: Lines that say what it is for.
    """

    name: str
    colour: str
    top: float
    x: float
    classes: Sequence[str]
    purpose: Sequence[str]

    @property
    def bottom(self) -> float:
        """Where its text ends."""
        lines = max(1, len(self.classes)) + len(self.purpose)
        return self.top + 2 * PAD + LINE * lines - 4

    @property
    def y(self) -> float:
        """The height of its square, and of its line to what it imports."""
        return self.top + PAD + LINE / 2 - 2

    @property
    def indent(self) -> float:
        """Where the names of its classes begin."""
        return MARGIN + 12 + BOLDER * width(self.name)


def lay_out(
    package: str, owned: Mapping[str, Sequence[str]], scheme: Scheme
) -> list[dict[str, Row]]:
    """Give each room its place, layer by layer."""
    colours = (scheme.ours, *scheme.lines)
    x = WIDTH - MARGIN - COLUMN * (sum(map(len, shown(package))) - 0.5)
    top = MARGIN / 2
    placed: list[dict[str, Row]] = []
    for layer in shown(package):
        placed.append({})
        for room in layer:
            count = sum(map(len, placed))
            name = _name(room, package)
            # To the left of a room's square there is nothing but its text.
            free = x - 2 * MARGIN
            row = Row(name, colours[count % len(colours)], top, x, [], [])
            classes = wrapped(", ".join(owned.get(room, ())), free - row.indent)
            text = _balanced(_purpose(room), min(free, TEXT))
            row = placed[-1][room] = replace(row, classes=classes, purpose=text)
            top, x = row.bottom, x + COLUMN
        top += GAP
    return placed


def _name(room: str, package: str) -> str:
    if room.startswith(f"{package}/"):
        return title(room)
    return room.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _purpose(room: str) -> str:
    text = "The public names" if room == FACES[0] else purpose(room)
    # The first sentence, without its full stop.
    return re.split(r"\.(?: |$)", text.replace("`", ""))[0]


def _balanced(text: str, room: float) -> list[str]:
    """Return *text* in as few lines as it needs, which are about as long as each other."""
    lines = wrapped(text, room)
    while len(narrower := wrapped(text, room - LINE)) == len(lines) > 1:
        lines, room = narrower, room - LINE
    return lines


# ------------------------------------------------------------------ drawing


def draw(package: str, owned: Mapping[str, Sequence[str]], scheme: Scheme) -> str:
    """Return the map of a package; *owned* has the classes to name, by their rooms."""
    placed = lay_out(package, owned, scheme)
    rows = {room: row for layer in placed for room, row in layer.items()}
    pairs = [(rows[a], rows[b]) for a, b in arrows(package)]
    told = " ".join(f"{one.name} imports {other.name}." for one, other in pairs)
    canvas = Canvas(scheme, f"The rooms of {package}, and what they import", told)
    for layer in placed:
        _draw_band(canvas, list(layer.values()))
    for row in rows.values():
        _draw_lines(canvas, row, pairs)
    for one, other in pairs:
        _draw_dot(canvas, other.x, one.y, other.colour)
    for row in rows.values():
        canvas.bar(row.x - SIDE / 2, row.y - SIDE / 2, SIDE, SIDE, row.colour, row.colour)
        _write(canvas, row)
    return canvas.done(placed[-1][next(reversed(placed[-1]))].bottom + MARGIN / 2)


def _draw_band(canvas: Canvas, rows: Sequence[Row]) -> None:
    top, bottom = rows[0].top, rows[-1].bottom
    canvas.parts.append(
        f'<rect x="{MARGIN / 2:g}" y="{top:.1f}" width="{WIDTH - MARGIN}"'
        f' height="{bottom - top:.1f}" rx="5" fill="{canvas.scheme.grid}" fill-opacity="0.32"/>'
    )


def _draw_lines(canvas: Canvas, row: Row, pairs: Sequence[tuple[Row, Row]]) -> None:
    """Draw from a room to the last one that it imports, and from the first that imports it."""
    end = max((other.x for one, other in pairs if one is row), default=row.x)
    start = min((one.y for one, other in pairs if other is row), default=row.y)
    text = row.indent + width(row.classes[0] if row.classes else "")
    if text < row.x - SIDE:
        canvas.parts.append(
            f'<line x1="{text:.1f}" y1="{row.y:.1f}" x2="{row.x - SIDE:.1f}" y2="{row.y:.1f}"'
            f' stroke="{canvas.scheme.muted}" stroke-opacity="0.6" stroke-dasharray="1 4"/>'
        )
    canvas.line((row.x, row.y), (end, row.y), canvas.scheme.muted)
    canvas.path([(row.x, start), (row.x, row.y)], row.colour, 1.5)


def _draw_dot(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.parts.append(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"'
        f' stroke="{canvas.scheme.ground}" stroke-width="1.5"/>'
    )


def _write(canvas: Canvas, row: Row) -> None:
    baseline = row.y + 4
    canvas.text(MARGIN + 2, baseline, row.name, bold=True)
    for at, line in enumerate(row.classes):
        canvas.text(row.indent, baseline + at * LINE, line, kind="ours")
    baseline += LINE * max(1, len(row.classes))
    for at, line in enumerate(row.purpose):
        canvas.text(MARGIN + 2, baseline + at * LINE, line, kind="muted")


# ------------------------------------------------------------------ the program


def pictures() -> dict[Path, str]:
    """Return what each file of pictures has to hold."""
    owned: dict[str, list[str]] = {}
    for name, file in named():
        owned.setdefault(room_of(file), []).append(name)
    return {
        FOLDER / f"{package}-{scheme.name}.svg": draw(package, owned, scheme)
        for package in PACKAGES
        for scheme in SCHEMES
    }


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for path, picture in pictures().items():
        path.write_text(picture, "utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
