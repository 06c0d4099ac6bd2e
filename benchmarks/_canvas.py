"""What pictures in SVG are made of: colours, text, scales, and a canvas for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH = 720
MARGIN = 16
SIZE = 12
LINE = 16
GAP = 3
"""Between two names, from top to bottom."""
BOLDER = 1.1
"""How much wider bold letters are, at most."""

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
Point = tuple[float, float]

SHAPES = ("circle", "square", "triangle", "diamond")
"""The marks of curves, ours first."""


@dataclass(frozen=True)
class Scheme:
    """The colours of one kind of page; those of lines follow ours in `lines`."""

    name: str
    ground: str
    text: str
    muted: str
    grid: str
    ours: str
    peer: str
    goal: str
    lines: tuple[str, ...]


LIGHT = Scheme(
    name="light",
    ground="#ffffff",
    text="#1f2328",
    muted="#59636e",
    grid="#d1d9e0",
    ours="#0969da",
    peer="#818b98",
    goal="#bc4c00",
    lines=("#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#7d6608", "#59636e"),
)
DARK = Scheme(
    name="dark",
    ground="#131416",
    text="#e6edf3",
    muted="#9da7b3",
    grid="#343942",
    ours="#4493f8",
    peer="#7d8590",
    goal="#f0883e",
    lines=("#f0883e", "#3fb950", "#ab7df8", "#f778ba", "#d4b72c", "#9da7b3"),
)
SCHEMES = (LIGHT, DARK)


# ------------------------------------------------------------------ text


def width(text: str, size: float = SIZE) -> float:
    """Return about how wide *text* is at most, in pixels, in the fonts of `SANS`."""
    narrow, wide = "iljtfrI.,:;|'!()[]/ ", "mwMW@%≤"
    shares = (
        0.42 if char in narrow else 0.98 if char in wide else 0.74 if char.isupper() else 0.63
        for char in text
    )
    # As exact on each Python: sum() has become more so in 3.12, and lines would differ.
    return size * math.fsum(shares)


def wrapped(text: str, room: float, size: float = SIZE) -> list[str]:
    """Return *text* in lines no wider than *room* pixels; a long word is cut into several."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if width(longer, size) <= room:
            lines[-1] = longer
            continue
        rest = word
        while width(rest, size) > room:
            fits = max(n for n in range(1, len(rest)) if n == 1 or width(rest[:n], size) <= room)
            lines.append(rest[:fits])
            rest = rest[fits:]
        lines.append(rest)
    return [line for line in lines if line] or [""]


# ------------------------------------------------------------------ scales


@dataclass(frozen=True)
class Scale:
    """A logarithmic scale from values to pixels.

    Attributes:
        low: Least value, above zero.
        high: Greatest value, above *low*.
        start: Where *low* is, in pixels.
        end: Where *high* is, in pixels; may lie below *start*.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where *value* is; what lies outside is moved to the nearer end."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return powers of ten, with twice and five times them on a short scale."""
        first = math.floor(math.log10(self.low))
        last = math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if self.high / self.low < 300 else (1,)
        every = 1 + (last - first) // 8
        values = [step * 10.0**n for n in range(first, last + 1, every) for step in steps]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]


def spanning(values: Iterable[float], start: float, end: float) -> Scale:
    """Return a scale that holds all positive *values*, and at least a factor of four.

    It begins and ends with 1, 2 or 5 times a power of ten, which `Scale.ticks` may show.
    """
    positive = [value for value in values if 0 < value < math.inf] or [1.0]
    low, high = min(positive), max(positive)
    middle = math.sqrt(low * high)
    low, high = min(low, middle / 2), max(high, middle * 2)
    rounds = [step * 10.0**n for n in range(-12, 13) for step in (1, 2, 5)]
    return Scale(
        max((value for value in rounds if value <= low * 1.001), default=low),
        min((value for value in rounds if value >= high * 0.999), default=high),
        start,
        end,
    )


def tick_label(value: float) -> str:
    """Return the text of a tick, such as ``0.01`` or ``10,000``."""
    return f"{value:,.0f}" if value >= 1 else f"{value:.10f}".rstrip("0")


# ------------------------------------------------------------------ drawing


@dataclass
class Canvas:
    """Gathers the parts of one picture, from top to bottom.

    Attributes:
        scheme: Its colours.
        title: What it shows, in a few words, for those who do not see it.
        description: The same with all figures.
        wide: Its width in pixels.
        size: Of its letters, in pixels.
        parts: Elements of SVG.
    """

    scheme: Scheme
    title: str
    description: str
    wide: int = WIDTH
    size: int = SIZE
    parts: list[str] = field(default_factory=list)

    @property
    def high(self) -> float:
        """The height of a line of text."""
        return LINE * self.size / SIZE

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        kind: str = "text",
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        """Write *text* with its baseline at *y*.

        Args:
            x: Where *anchor* is.
            y: Where its baseline is.
            text: One line.
            anchor: ``start``, ``middle`` or ``end``.
            kind: Name of a colour of the scheme.
            bold: Whether it is.
            halo: Whether it is set off from lines behind it.
        """
        weight = ' font-weight="600"' if bold else ""
        ground = self.scheme.ground
        edge = f' stroke="{ground}" stroke-width="4" paint-order="stroke"' if halo else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{getattr(self.scheme, kind)}"'
            f' text-anchor="{anchor}"{weight}{edge}>{escape(text)}</text>'
        )

    def paragraph(self, y: float, text: str, *, kind: str = "text", bold: bool = False) -> float:
        """Write *text* over the whole width from *y* down; return where it ends."""
        for line in wrapped(text, (self.wide - 2 * MARGIN) / BOLDER, self.size):
            y += self.high
            self.text(MARGIN, y - 4, line, kind=kind, bold=bold)
        return y

    def line(self, start: Point, end: Point, colour: str, *, dashed: bool = False) -> None:
        """Draw a straight line."""
        look = 'stroke-width="2" stroke-dasharray="5 3"' if dashed else 'stroke-width="1.2"'
        (x1, y1), (x2, y2) = start, end
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f' stroke="{colour}" {look}/>'
        )

    def bar(self, x: float, y: float, wide: float, high: float, fill: str, edge: str) -> None:
        """Draw a rectangle with an edge."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="1.5"'
            f' fill="{fill}" stroke="{edge}"/>'
        )

    def path(self, points: Sequence[Point], colour: str, thick: float) -> None:
        """Draw a line through *points*."""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}"'
            f' stroke-width="{thick:g}" stroke-linejoin="round"/>'
        )

    def mark(self, x: float, y: float, shape: str, colour: str) -> None:
        """Draw one point of a curve."""
        if shape == "circle":
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            return
        corners = {
            "square": ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
            "triangle": ((0, -4.5), (4.5, 3.5), (-4.5, 3.5)),
            "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
        }[shape]
        joined = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        self.parts.append(f'<polygon points="{joined}" fill="{colour}"/>')

    def done(self, height: float) -> str:
        """Return the picture, *height* pixels high."""
        high = math.ceil(height)
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.wide}" height="{high}"'
            f' viewBox="0 0 {self.wide} {high}" role="img" aria-labelledby="title desc"'
            f' font-family="{SANS}" font-size="{self.size}">'
        )
        return "\n".join(
            [
                opening,
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="desc">{escape(self.description)}</desc>',
                f'<rect width="{self.wide}" height="{high}" rx="6" fill="{self.scheme.ground}"/>',
                *self.parts,
                "</svg>\n",
            ]
        )
